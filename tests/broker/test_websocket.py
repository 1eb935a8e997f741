"""WebSocket clients that are not browsers: who may connect, what bad frames and slow reading cost, and how it ends."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import nats
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from mq9.limits import PUSH_WINDOW_BYTES
from tests.broker.hosted import HOST, Hosted
from tests.conftest import MakeServer
from tests.support.server import ServerProcess

# nats-py connects with an argument that aiohttp has deprecated; as an error it would only make nats-py try for ever.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")]
TIMEOUT_S = 10
SMALL_BUFFER_BYTES = 16 * 1024
SIZE_BYTES = 256 * 1024
COUNT = 80  # of that size: more than the kernel keeps of a connection
PENDING_BYTES_MAX = 1024 * 1024


async def _status(url: str, origin: str | None) -> int:
    """The HTTP status of the handshake."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(url, origin=origin) as opened:
                assert (await opened.receive(TIMEOUT_S)).data.startswith(b"INFO {")
                return 101
        except aiohttp.WSServerHandshakeError as refusal:
            return refusal.status


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ("", None, 101),
        ("", "http://127.0.0.1:3000", 101),
        ("", "http://evil.example", 403),
        ("", "null", 403),
        ("", "http://[", 403),
        ("https://app.example, https://b.example", "https://b.example", 101),
        ("https://app.example", "https://evil.example", 403),
        ("*", "https://evil.example", 101),
    ],
)
async def test_a_page_of_a_strange_origin_is_refused(
    start_server: MakeServer, allowed: str, origin: str | None, status: int
) -> None:
    server = start_server(ws_port=0, ws_allowed_origins=allowed)
    assert await _status(str(server.websocket_url), origin) == status


async def test_nats_py_speaks_through_it(start_server: MakeServer) -> None:
    server = start_server(ws_port=0, user="u", password="p")
    client = await nats.connect(str(server.websocket_url), user="u", password="p")
    plain = await nats.connect(server.url, user="u", password="p")
    sub = await client.subscribe("a.*")
    await client.flush()
    async with asyncio.timeout(TIMEOUT_S):
        while not sub.pending_msgs:  # of a cluster, another broker may not have heard of the subscription
            await plain.publish("a.b", b"x" * 900_000)
            await plain.flush()
            await client.flush()
    message = await sub.next_msg(TIMEOUT_S)
    assert len(message.data) == 900_000
    await client.drain()
    await plain.close()


async def _say(opened: aiohttp.ClientWebSocketResponse, data: bytes, until: bytes) -> None:
    """Say something, and listen until `until` was said."""
    await opened.send_bytes(data)
    heard = b""
    while until not in heard:
        message = await opened.receive(TIMEOUT_S)
        assert message.type is aiohttp.WSMsgType.BINARY, f"{message} after {heard!r}"
        heard += message.data


async def test_credentials_are_asked_for_here_too(start_server: MakeServer) -> None:
    server = start_server(ws_port=0, token="t")
    async with aiohttp.ClientSession() as session, session.ws_connect(str(server.websocket_url)) as opened:
        await _say(opened, b'CONNECT {"auth_token":"wrong"}\r\n', b"-ERR 'Authorization Violation'")


@pytest.mark.parametrize("frame", [b"\x82\x05hello", b"\xf2\x80\0\0\0\0", b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"])
async def test_a_bad_frame_ends_its_connection_and_nothing_else(start_server: MakeServer, frame: bytes) -> None:
    """Not masked; reserved bits; a length that lies."""
    server = start_server(ws_port=0)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(str(server.websocket_url).rpartition(":")[2]))
    writer.write(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b"101" in await asyncio.wait_for(reader.readline(), TIMEOUT_S)
    async with aiohttp.ClientSession() as session, session.ws_connect(str(server.websocket_url)) as other:
        writer.write(frame)
        await asyncio.wait_for(reader.read(), TIMEOUT_S)  # to the end
        writer.close()
        await _say(other, b'CONNECT {"verbose":false}\r\nPING\r\n', b"PONG")


@pytest.mark.parametrize("said", [b"CONNECT {}\r\nPING\r\n", b"\0" * 100, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n"])
async def test_what_is_no_handshake_is_ended(start_server: MakeServer, said: bytes) -> None:
    server = start_server(ws_port=0)
    with socket.create_connection(("127.0.0.1", int(str(server.websocket_url).rpartition(":")[2])), TIMEOUT_S) as opened:
        opened.sendall(said)
        ended = b""
        while part := opened.recv(65536):
            ended += part
        assert b" 101 " not in ended


# --- Off ------------------------------------------------------------------------------------------------------------


def _listening(pid: int) -> set[int]:
    """The ports a process listens on."""
    mine = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine}


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="only Linux says what a process listens on")
def test_a_server_that_was_not_told_to_listens_for_no_websocket(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path).start()
    try:
        assert server.websocket_url is None
        assert _listening(server.pid) == {server.port, server.ready.monitor_port}
    finally:
        server.stop()


# --- Slow, and at the end -------------------------------------------------------------------------------------------


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    server = Hosted(ws_port=0, max_pending=PENDING_BYTES_MAX)
    yield server
    server.stop()


@contextmanager
def _lazy(hosted: Hosted, said: bytes = b"") -> Iterator[ClientConnection]:
    """A client that has said this, and reads one message whenever it is asked to; nothing keeps much for it."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    plain.connect((HOST, hosted.server.ws_port))
    url = f"ws://{HOST}:{hosted.server.ws_port}"
    with connect(url, sock=plain, max_queue=1, max_size=None, compression=None, ping_interval=None) as client:
        client.send(b'CONNECT {"verbose":false,"headers":true}\r\n' + said + b"PING\r\n")
        heard = b""
        while b"PONG" not in heard:
            heard += _heard(client)
        yield client


def _heard(client: ClientConnection) -> bytes:
    said = client.recv(TIMEOUT_S)
    assert isinstance(said, bytes)
    return said


def _ids(said: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"mq9-msg-id: (\d+)", said)]


def test_one_that_does_not_read_is_closed_as_a_slow_consumer(hosted: Hosted) -> None:
    """And not kept everything for."""
    with _lazy(hosted, b"SUB a 1\r\n") as client:
        publisher = hosted.raw()
        for _ in range(COUNT):
            publisher.pub(b"a", bytes(SIZE_BYTES))
        publisher.flush()
        assert hosted.on_loop(lambda: hosted.server.hub.traffic.slow_consumers) == 1
        heard = b""
        with pytest.raises(ConnectionClosed):
            while True:
                heard = _heard(client)
        assert heard.endswith(b"-ERR 'Slow Consumer'\r\n")


def test_one_that_does_not_read_is_pushed_to_at_its_own_pace(hosted: Hosted) -> None:
    sender = hosted.raw()
    assert sender.call(b"$mq9.AI.MAILBOX.CREATE", {"name": "box"})["error"] == ""
    for _ in range(COUNT):
        assert sender.call(b"$mq9.AI.MSG.SEND.box", bytes(SIZE_BYTES))["error"] == ""
    with _lazy(hosted) as client:
        client.send(b"SUB $mq9.AI.MAILBOX.MSG.box.* 1\r\n")
        got = _ids(_heard(client))  # 1, and the rest is on its way
        for _ in range(COUNT):
            sender.flush()  # a turn of the loop: enough for another window
        (session,) = [each for each in hosted.server.hub.sessions.values() if each.subscriptions]
        assert hosted.on_loop(lambda: session.link.pending) <= 2 * (PUSH_WINDOW_BYTES + SIZE_BYTES)
        assert session.link.out_bytes < COUNT * SIZE_BYTES
        while got[-1] < COUNT:
            got += _ids(_heard(client))
        assert got == list(range(1, COUNT + 1))


async def test_a_server_that_stops_says_goodbye(start_server: MakeServer) -> None:
    """A close frame: without one a browser reports a broken connection."""
    server = start_server(ws_port=0)
    async with aiohttp.ClientSession() as session, session.ws_connect(str(server.websocket_url)) as opened:
        await _say(opened, b'CONNECT {"verbose":false}\r\nPING\r\n', b"PONG")
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        while (message := await opened.receive(TIMEOUT_S)).type is aiohttp.WSMsgType.BINARY:
            pass
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.OK)
    assert await stopping == 0
