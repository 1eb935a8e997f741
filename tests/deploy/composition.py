"""docker-compose.yml as local processes: each service with its command and environment, on a loopback address of its own.

What a container engine would give is given by hand: the image's environment (from the Dockerfile), names of hosts (replaced by
addresses), files of the volumes (in one directory a service). The rest is as in the file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.process import Process

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = ROOT / "docker-compose.yml"
DOCKERFILE: Final = ROOT / "Dockerfile"
ENTRYPOINT: Final = ROOT / "deploy" / "docker" / "entrypoint"
HEALTHCHECK: Final = ROOT / "deploy" / "docker" / "healthcheck.py"
ANYWHERE: Final = "0.0.0.0"  # noqa: S104  # compared and replaced
RUN_TIMEOUT_S: Final = 30
HEALTHY_S: Final = 60.0
METAS: Final = ("meta1", "meta2", "meta3")
BROKERS: Final = ("broker1", "broker2", "broker3")


def services(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services of the file with ${NAME:-default} replaced as Compose would."""

    def value_of(match: re.Match[str]) -> str:
        return environ.get(match["name"]) or match["default"]

    def replaced(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: replaced(value) for key, value in node.items()}
        if isinstance(node, list):
            return [replaced(value) for value in node]
        return re.sub(r"\$\{(?P<name>\w+):-(?P<default>[^}]*)\}", value_of, node) if isinstance(node, str) else node

    found: dict[str, dict[str, Any]] = replaced(yaml.safe_load(COMPOSE.read_text())["services"])
    assert "${" not in str(found)
    return found


def image_environment() -> dict[str, str]:
    """MQ9_... of the image."""
    return dict(re.findall(r"\b(MQ9_\w+)=(\S+)", DOCKERFILE.read_text()))


def program_path() -> str:
    """PATH as in the image: the environment with mq9 in it first."""
    return f"{Path(sys.executable).parent}:/usr/bin:/bin"


class Composition:
    """The services as processes. Start them one by one; `close` ends those that run."""

    def __init__(self, directory: Path, **environ: str) -> None:
        self.directory = directory
        self.services = services(environ)
        # Its own addresses, so that two runs on one machine do not meet.
        first, second = 64 + os.getpid() % 128, os.getpid() // 128 % 256
        nodes = [name for name, each in self.services.items() if "ports" in each or name.startswith("meta")]
        self.addresses = {name: f"127.{first}.{second}.{number}" for number, name in enumerate(nodes, 1)}
        self.processes: dict[str, Process] = {}
        self.keys = directory / "keys"
        self.keys.mkdir()

    def environment(self, name: str) -> dict[str, str]:
        env = {**image_environment(), **self.services[name].get("environment", {})}
        for variable, value in env.items():
            if value == ANYWHERE:
                env[variable] = self.addresses[name]
            elif variable.endswith("CLIENT_ADVERTISE"):  # where the host publishes it; here it is where it listens
                env[variable] = f"{self.addresses[name]}:4222"
            else:
                # Hosts stand behind `=`, behind `,` or at the beginning; before a port or at the end of a member.
                env[variable] = re.sub(
                    r"(?<![\w./=-])(\w+)(?=:\d)|(?<==)(\w+)(?=,|$)", lambda match: self.addresses[match[1] or match[2]], value
                )
        places = {"/run/mq9": str(self.keys), "/var/lib/mq9": str(self.directory / name)}
        for inside, outside in places.items():
            env = {variable: value.replace(inside, outside) for variable, value in env.items()}
        return {"PATH": program_path(), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **env}

    def make_keys(self) -> None:
        """What the service `keys` does."""
        service = self.services["keys"]
        program = service["command"][0].replace("/run/mq9", str(self.keys))
        subprocess.run([sys.executable, "-c", program], check=True, timeout=RUN_TIMEOUT_S)

    def spawn(self, name: str) -> Process:
        """Start a service; its ready line is still to be read."""
        (self.directory / name).mkdir(exist_ok=True)
        command = [str(ENTRYPOINT), *self.services[name]["command"]]
        self.processes[name] = process = Process(command, self.directory / f"{name}.log", self.environment(name))
        process.spawn()
        return process

    def is_healthy(self, name: str) -> bool:
        """What the service's healthcheck says now."""
        _, program, role = self.services[name]["healthcheck"]["test"]
        assert program == "mq9-healthcheck"
        done = subprocess.run(
            [sys.executable, str(HEALTHCHECK), role], env=self.environment(name), capture_output=True, timeout=RUN_TIMEOUT_S,
            check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 0

    def up(self) -> None:
        """`docker compose up`: the meta nodes, and when these are healthy the brokers; returns when those are, too."""
        for names in (METAS, BROKERS):
            started = [self.spawn(name) for name in names]
            for process in started:
                process.read_line(HEALTHY_S)
                process.drain_output()
            self.wait_healthy(*names)

    def wait_healthy(self, *names: str) -> None:
        """Ask again and again; each question takes its time."""
        end_s = time.monotonic() + HEALTHY_S
        waiting = list(names)
        while waiting:
            waiting = [name for name in waiting if not self.is_healthy(name)]
            assert time.monotonic() < end_s, f"not healthy: {waiting}"

    def close(self) -> dict[str, int]:
        """End what runs, brokers first; the exit codes."""
        codes = {}
        for name, process in reversed(self.processes.items()):
            if process.running:
                codes[name] = process.stop(60)
        return codes
