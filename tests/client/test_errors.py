"""What goes wrong is raised as what it is, and says whether to try again."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

import mq9
from tests.conftest import MakeServer
from tests.support.nats_server import NatsServer
from tests.support.server import ServerProcess

pytestmark = pytest.mark.anyio


async def test_not_found(client: mq9.Client, box: mq9.Mailbox) -> None:
    with pytest.raises(mq9.NotFound, match=r"mailbox no\.such\.box does not exist") as caught:
        await client.send("no.such.box", b"x")
    assert (caught.value.code, caught.value.status, caught.value.retryable) == ("MAILBOX_NOT_FOUND", 404, False)
    with pytest.raises(mq9.NotFound, match="message not found"):
        await client.delete(box, 42)
    for call in (client.fetch("no.such.box"), client.query("no.such.box"), client.mailbox_remove("no.such.box")):
        with pytest.raises(mq9.NotFound):
            await call


async def test_already_exists(client: mq9.Client, box: mq9.Mailbox) -> None:
    with pytest.raises(mq9.AlreadyExists) as caught:
        await client.mailbox_create(box)
    assert caught.value.code == "MAILBOX_EXISTS"
    assert isinstance(caught.value, mq9.RequestError)
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("name", ["UPPER", "two..dots", ".begins", "under_score"])
async def test_a_bad_name_is_an_invalid_address(client: mq9.Client, name: str) -> None:
    with pytest.raises(mq9.RequestError, match=r"^invalid mail_address: "):
        await client.mailbox_create(name)


@pytest.mark.parametrize("address", ["", "with space", "line\r\nPUB x 0", "wild.*", "all.>", ".a", "a.", "a..b", "nul\x00"])
async def test_an_address_that_no_subject_can_carry_is_not_sent(client: mq9.Client, address: str) -> None:
    with pytest.raises(mq9.RequestError, match=r"^invalid mail_address: "):
        await client.send(address, b"x")


async def test_a_public_mailbox_fails_with_the_same_errors(client: mq9.Client) -> None:
    """CREATE with `public` is answered in the older dialect, whose codes are numbers."""
    with pytest.raises(mq9.RequestError) as caught:
        await client.mailbox_create("Bad Name!", public=True)
    assert caught.value.code == "INVALID_REQUEST"


@pytest.mark.parametrize(
    "headers", [{"X-A": "line\r\nbreak"}, {"X A": "space in name"}, {"": "no name"}, {"X-A:": "colon"}, {"X-A": "nul\x00"}]
)
async def test_a_header_that_cannot_be_carried_is_not_sent(client: mq9.Client, box: mq9.Mailbox, headers: dict[str, str]) -> None:
    with pytest.raises(mq9.RequestError) as caught:
        await client.send(box, b"x", headers=headers)
    assert caught.value.code == "INVALID_HEADER"


@pytest.mark.parametrize("delay", [-1, 1e13, float("nan"), "soon"])
async def test_a_delay_that_is_no_number_of_seconds(client: mq9.Client, box: mq9.Mailbox, delay: float) -> None:
    with pytest.raises(mq9.RequestError) as caught:
        await client.send(box, b"x", delay=delay)
    assert caught.value.code == "INVALID_HEADER"


async def test_a_misspelt_argument_is_not_passed_over(client: mq9.Client, box: mq9.Mailbox) -> None:
    calls: list[Callable[..., Awaitable[object]]] = [
        partial(client.send, box, b"x"), partial(client.fetch, box), client.mailbox_create, client.agent_discover,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(TypeError, match="unexpected keyword argument 'prioritty'"):
            await call(prioritty="urgent")
    for make in (mq9.connect, partial(client.consume, box)):
        with pytest.raises(TypeError, match="unexpected keyword argument 'prioritty'"):
            make(prioritty="urgent")  # type: ignore[call-arg]  # that is the point


async def test_a_payload_that_is_not_json(client: mq9.Client, box: mq9.Mailbox) -> None:
    with pytest.raises(mq9.RequestError, match="a complex has no form in JSON"):
        await client.send(box, {"a": 1j})


async def test_too_large(start_server: MakeServer) -> None:
    server = start_server(max_payload=2048)
    async with mq9.connect(server.url) as client:
        mailbox = await client.mailbox_create()
        with pytest.raises(mq9.RequestError) as caught:
            await client.send(mailbox, bytes(3000))
        assert caught.value.code == "PAYLOAD_TOO_LARGE"
        await client.send(mailbox, bytes(1000))


async def test_a_full_mailbox_is_for_the_caller_to_wait_for(start_server: MakeServer) -> None:
    server = start_server(max_mailbox_messages=1)
    async with mq9.connect(server.url, timeout_s=60) as client:
        mailbox = await client.mailbox_create()
        first = await client.send(mailbox, b"1")
        with pytest.raises(mq9.CapacityError) as caught:
            await client.send(mailbox, b"2")  # at once, not after a minute of repeating
        assert (caught.value.code, caught.value.retryable) == ("MAILBOX_FULL", True)
        await client.delete(mailbox, first)
        await client.send(mailbox, b"2")


# --- Connecting -------------------------------------------------------------------------------------------------


def _closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def test_nobody_there() -> None:
    url = f"nats://user:secret@127.0.0.1:{_closed_port()}"
    with pytest.raises(mq9.UnavailableError) as caught:
        async with mq9.connect(url):
            pytest.fail("connected to a closed port")
    assert caught.value.retryable
    assert "127.0.0.1" in caught.value.text
    assert "secret" not in str(caught.value)


async def test_one_of_several_servers_is_enough(shared_server: ServerProcess) -> None:
    async with mq9.connect(f"nats://127.0.0.1:{_closed_port()}, {shared_server.url}") as client:
        await client.mailbox_list(limit=1)


@pytest.mark.parametrize("servers", ["", "http://somewhere", "nats://", "nats://host:port", []])
def test_what_is_no_url_is_refused_before_connecting(servers: str | list[str]) -> None:
    with pytest.raises(mq9.RequestError):
        mq9.connect(servers)


async def test_wrong_password(start_server: MakeServer) -> None:
    server = start_server(user="agent", password="right")
    for options in ({}, {"user": "agent", "password": "wrong"}, {"token": "right"}):
        with pytest.raises(mq9.Forbidden):
            await mq9.connect(server.url, **options)  # type: ignore[arg-type]  # all of them texts
    async with mq9.connect(server.url, user="agent", password="right") as client:
        await client.mailbox_create()
    async with mq9.connect(server.url.replace("://", "://agent:right@")) as client:
        await client.mailbox_create()


async def test_a_call_before_connecting_says_so(shared_server: ServerProcess) -> None:
    with pytest.raises(mq9.UnavailableError, match="not connected yet"):
        await mq9.connect(shared_server.url).mailbox_create()


async def test_a_client_that_was_closed_says_so(shared_server: ServerProcess) -> None:
    client = await mq9.connect(shared_server.url)
    await client.close()
    with pytest.raises(mq9.RequestError, match="the client is closed"):
        await client.mailbox_create()


async def test_tls_that_is_not_there(shared_server: ServerProcess) -> None:
    """A server without TLS, asked for it, is not reached; nothing is sent in the clear."""
    with pytest.raises(mq9.UnavailableError):
        await mq9.connect(shared_server.url.replace("nats://", "tls://"), tls=ssl.create_default_context(), connect_timeout_s=2)


# --- Servers that are no mq9 broker -----------------------------------------------------------------------------


async def test_a_nats_server_without_a_broker(nats_server: NatsServer) -> None:
    async with mq9.connect(nats_server.url, timeout_s=2) as client:
        with pytest.raises(mq9.UnavailableError, match="no mq9 broker") as caught:
            await client.mailbox_create()
        assert not isinstance(caught.value, mq9.RequestTimeout)


async def test_an_answer_that_never_comes_is_a_timeout(nats_server: NatsServer) -> None:
    async with mq9.connect(nats_server.url) as client:
        await client._connection.nats.subscribe("$mq9.AI.>")  # takes every request, answers none
        with pytest.raises(mq9.RequestTimeout) as caught:
            await client.mailbox_create(timeout_s=0.05)
        assert (caught.value.code, caught.value.retryable) == ("TIMEOUT", True)
        assert str(caught.value) == "no answer within 0.05 s (TIMEOUT)"


async def test_what_is_not_an_answer(nats_server: NatsServer) -> None:
    async with mq9.connect(nats_server.url) as client:
        nats = client._connection.nats

        async def answer(msg: object) -> None:
            await msg.respond(b"what?" if msg.subject.endswith("LS") else b"[]")  # type: ignore[attr-defined]

        subscription = await nats.subscribe("$mq9.AI.MAILBOX.*", cb=answer)
        await nats.flush()
        with pytest.raises(mq9.RequestError, match="not JSON"):
            await client.mailbox_list()
        with pytest.raises(mq9.RequestError, match="not a JSON object"):
            await client.mailbox_create()
        await subscription.unsubscribe()


async def test_a_subject_the_server_forbids(tmp_path_factory: pytest.TempPathFactory, nats_server: NatsServer) -> None:
    folder = tmp_path_factory.mktemp("permissions")
    (folder / "nats.conf").write_text(
        'authorization { users = [{ user: "a", password: "b", permissions: { publish: { deny: "$mq9.AI.MAILBOX.CREATE" } } }] }'
    )
    server = NatsServer(folder, "-c", str(folder / "nats.conf")).start()
    try:
        async with mq9.connect(server.url, user="a", password="b", timeout_s=30) as client:
            await client._connection.nats.subscribe("$mq9.AI.MAILBOX.INFO.>")
            waiting = asyncio.create_task(client.mailbox_info("other.call", timeout_s=0.5))
            with pytest.raises(mq9.Forbidden, match="permissions violation"):
                await client.mailbox_create()
            with pytest.raises(mq9.RequestTimeout):
                await waiting  # the refusal of one call is not the other's
    finally:
        server.stop()
