"""The image and the compose file in a container engine: built, started, used by clients, stopped.

Skips, with the reason, where no engine answers. `-m heavy`: building the image takes minutes the first time.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

import mq9
from tests.deploy.composition import COMPOSE, ROOT

IMAGE = "mq9:of-the-tests"
PROJECT = "mq9-of-the-tests"
BUILD_S = 1200
READY_S = 180.0

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(2 * BUILD_S)]


def _docker(*arguments: str, timeout_s: float = READY_S) -> str:
    done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def image() -> str:
    """The image, built by the engine that is here."""
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as failure:
        pytest.skip(f"no container engine: {failure}")
    if done.returncode:
        pytest.skip(f"no container engine answers: {done.stderr.strip()[-200:]}")
    _docker("build", "--tag", IMAGE, ".", timeout_s=BUILD_S)
    return IMAGE


def _until_healthy(container: str) -> None:
    end_s = time.monotonic() + READY_S
    while (state := json.loads(_docker("inspect", container))[0]["State"])["Health"]["Status"] != "healthy":
        assert state["Running"], _docker("logs", container)
        assert time.monotonic() < end_s, state


@pytest.fixture
def broker(image: str) -> Iterator[Any]:
    """One `mq9 server` in a container that is as bare as the compose file makes it."""
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415  # it looks for the engine when it is loaded

    container = (
        DockerContainer(image)
        .with_exposed_ports(4222)
        .with_env("MQ9_TOKEN", "of the test")
        .with_kwargs(read_only=True, tmpfs={"/tmp": ""}, cap_drop=["ALL"])  # noqa: S108  # a mount
    )
    with container:
        yield container


@pytest.mark.anyio
async def test_a_container_becomes_healthy_serves_and_drains(broker: Any) -> None:
    container = broker.get_wrapped_container()
    _until_healthy(container.id)
    assert container.exec_run("id -u").output.strip() == b"10001"
    url = f"nats://{broker.get_container_host_ip()}:{broker.get_exposed_port(4222)}"
    async with mq9.connect(url, token="of the test") as client:
        inbox = await client.mailbox_create()
        await client.send(inbox, b"hello")
        (message,) = await client.fetch(inbox)
        assert message.payload == b"hello"
    container.stop(timeout=60)
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0


@pytest.fixture
def composed(image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`docker compose up`, under a project name of its own: what is taken down in the end is nobody's data."""
    from testcontainers.compose import DockerCompose  # noqa: PLC0415  # see above

    if subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=30, check=False).returncode:
        pytest.skip("docker has no compose plugin")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", PROJECT)
    with DockerCompose(str(ROOT), compose_file_name=COMPOSE.name, wait=False, keep_volumes=False, profiles=["cluster"]):
        for number in (1, 2, 3):
            _until_healthy(f"{PROJECT}-broker{number}-1")
        yield


@pytest.mark.usefixtures("composed")
@pytest.mark.anyio
async def test_three_brokers_in_containers_are_one() -> None:
    """CREATE on one, SEND on another, FETCH and ACK on the third."""
    ports = (4222, 4223, 4224)
    async with (
        mq9.connect(f"nats://127.0.0.1:{ports[0]}") as first,
        mq9.connect(f"nats://127.0.0.1:{ports[1]}") as second,
        mq9.connect(f"nats://127.0.0.1:{ports[2]}") as third,
    ):
        inbox = await first.mailbox_create()
        msg_id = await second.send(inbox, b"hello")
        (message,) = await third.fetch(inbox, group_name="g", deliver="earliest")
        assert (message.payload, message.msg_id) == (b"hello", msg_id)
        await third.ack(inbox, "g", msg_id)
