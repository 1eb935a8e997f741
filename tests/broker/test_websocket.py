"""WebSocket clients that are not browsers: who may connect, and what bad frames cost."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import nats
import pytest

from tests.conftest import MakeServer

# nats-py connects with an argument that aiohttp has deprecated; as an error it would only make nats-py try for ever.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")]
TIMEOUT_S = 10


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
