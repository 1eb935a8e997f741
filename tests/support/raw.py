r"""A NATS client that is nothing but a socket: what a test sends and reads is exactly what is on the wire.

    client = RawClient("127.0.0.1", port)
    client.connect(verbose=True)                 # CONNECT, PING, and everything up to the PONG
    client.send(b"SUB foo 1\r\n")
    client.frame()                               # the next frame: Frame(verb=b"MSG", args=(b"foo", b"1", b"2"), ...)
    client.flush()                               # PING; every frame that came before the PONG
    client.call(b"$mq9.AI.MAILBOX.CREATE", {})   # a request; its JSON reply as a dict

"Nothing came" is never shown by waiting: a PING is answered in order, so what has not come before its PONG does not come.
"""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any, Self

TIMEOUT_S = 10.0  # only a failing test waits this long


class Closed(Exception):
    """The server closed the connection. Carries the bytes that came before and were not read yet."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One thing the server said. `args` are the words after the verb; header and payload are empty except for (H)MSG."""

    verb: bytes
    args: tuple[bytes, ...] = ()
    header: bytes = b""
    payload: bytes = b""

    @property
    def subject(self) -> bytes:
        return self.args[0]

    @property
    def sid(self) -> bytes:
        return self.args[1]

    @property
    def reply(self) -> bytes:
        """The reply subject of a MSG or HMSG, or empty."""
        sizes = 2 if self.verb == b"HMSG" else 1
        return self.args[2] if len(self.args) == 3 + sizes else b""

    @property
    def status(self) -> bytes:
        """The status of a header block (`503`), or empty."""
        first = self.header.split(b"\r\n", 1)[0].split()
        return first[1] if len(first) > 1 else b""

    @property
    def headers(self) -> dict[str, str]:
        """The header lines, names in lower case; the last of a repeated name wins."""
        lines = [line.partition(b":") for line in self.header.split(b"\r\n")[1:] if line]
        return {name.decode().lower(): value.strip().decode() for name, _, value in lines}

    def json(self) -> Any:
        return json.loads(self.payload)


def header_block(headers: dict[str, str], status: str = "") -> bytes:
    """The bytes of a NATS header block."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"NATS/1.0{' ' + status if status else ''}\r\n{lines}\r\n".encode()


class RawClient:
    """One connection. Every read has a deadline; a late answer is a TimeoutError, a closed connection a `Closed`."""

    def __init__(self, host: str, port: int, *, timeout_s: float = TIMEOUT_S, read_info: bool = True) -> None:
        self.timeout_s = timeout_s
        self.socket = socket.create_connection((host, port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.info: dict[str, Any] = {}
        self._buffer = bytearray()
        self._ids = itertools.count(1)
        if read_info:
            self.read_info()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    # --- the beginning ------------------------------------------------------------------------------------------

    def read_info(self) -> dict[str, Any]:
        frame = self.frame()
        assert frame.verb == b"INFO", frame
        self.info = json.loads(frame.payload)
        return self.info

    def start_tls(self, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        """Upgrade after INFO, as NATS clients do."""
        self.socket = context.wrap_socket(self.socket, server_hostname=server_hostname)

    def connect(self, **options: Any) -> None:
        """CONNECT with `options` over quiet defaults, and a PING; returns when the PONG is there."""
        self.send_connect(**options)
        self.flush()

    def send_connect(self, **options: Any) -> None:
        fields = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "protocol": 1, **options}
        self.send(b"CONNECT " + json.dumps(fields).encode() + b"\r\n")

    # --- bytes --------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """The next line without its CRLF."""
        while b"\r\n" not in self._buffer:
            self._receive()
        line, _, rest = bytes(self._buffer).partition(b"\r\n")
        self._buffer = bytearray(rest)
        return line

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        while len(self._buffer) < count:
            self._receive()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _receive(self) -> None:
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise TimeoutError(f"nothing for {self.timeout_s} s; unread: {bytes(self._buffer)!r}") from None
        except ConnectionError as failure:
            raise Closed(bytes(self._buffer)) from failure
        if not data:
            raise Closed(bytes(self._buffer))
        self._buffer += data

    # --- frames -------------------------------------------------------------------------------------------------

    def frame(self) -> Frame:
        """The next frame. The JSON of INFO and the text of -ERR are its payload."""
        line = self.line()
        verb, _, rest = line.partition(b" ")
        if verb in (b"INFO", b"-ERR"):
            return Frame(verb, payload=rest)
        args = tuple(rest.split())
        if verb not in (b"MSG", b"HMSG"):
            return Frame(verb, args)
        total = int(args[-1])
        header_size = int(args[-2]) if verb == b"HMSG" else 0
        body = self.exactly(total)
        end = self.exactly(2)
        assert end == b"\r\n", f"{line!r} is followed by {end!r} after {total} bytes"
        return Frame(verb, args, body[:header_size], body[header_size:])

    def expect(self, verb: bytes) -> Frame:
        """The next frame, which must have this verb."""
        frame = self.frame()
        assert frame.verb == verb, f"expected {verb!r}, got {frame}"
        return frame

    def flush(self) -> list[Frame]:
        """PING, and every frame that came before its PONG, without the server's own PINGs and INFOs."""
        self.send(b"PING\r\n")
        frames: list[Frame] = []
        deadline = time.monotonic() + self.timeout_s
        while time.monotonic() < deadline:
            frame = self.next_frame()
            if frame.verb == b"PONG":
                return frames
            frames.append(frame)
        raise TimeoutError(f"no PONG in {self.timeout_s} s, but {len(frames)} other frames")

    def next_frame(self) -> Frame:
        """The next frame that is not housekeeping: a PING is answered, an INFO is noted."""
        while True:
            frame = self.frame()
            if frame.verb == b"PING":
                self.send(b"PONG\r\n")
            elif frame.verb == b"INFO":
                self.info = json.loads(frame.payload)
            else:
                return frame

    def expect_closed(self) -> list[Frame]:
        """Read to the end of the connection; the frames that came before it."""
        frames: list[Frame] = []
        try:
            while True:
                frames.append(self.frame())
        except Closed:
            return frames

    # --- shorthands ---------------------------------------------------------------------------------------------

    def sub(self, subject: bytes, queue: bytes = b"") -> bytes:
        """SUB; the subscription id it chose."""
        sid = str(next(self._ids)).encode()
        self.send(b" ".join(filter(None, (b"SUB", subject, queue, sid))) + b"\r\n")
        return sid

    def pub(self, subject: bytes, payload: bytes = b"", *, reply: bytes = b"", header: bytes = b"") -> None:
        """PUB, or HPUB when there is a header block."""
        words = [b"HPUB" if header else b"PUB", subject]
        if reply:
            words.append(reply)
        if header:
            words.append(str(len(header)).encode())
        words.append(str(len(header) + len(payload)).encode())
        self.send(b" ".join(words) + b"\r\n" + header + payload + b"\r\n")

    def request(self, subject: bytes, payload: bytes = b"", *, header: bytes = b"") -> Frame:
        """Publish with a fresh inbox and wait for the one answer. Other frames that come meanwhile are an error."""
        inbox = b"_INBOX.raw%d" % next(self._ids)
        sid = self.sub(inbox)
        self.send(b"UNSUB " + sid + b" 1\r\n")
        self.pub(subject, payload, reply=inbox, header=header)
        frame = self.next_frame()
        assert frame.verb in (b"MSG", b"HMSG"), frame
        assert frame.subject == inbox, frame
        return frame

    def call(self, subject: bytes, body: object = None, *, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """One mq9 request: `body` as JSON (bytes as they are, None: empty) and the reply as a dict."""
        payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        frame = self.request(subject, payload, header=header_block(headers) if headers else b"")
        assert not frame.status, f"{subject!r} answered status {frame.status!r}"
        reply = frame.json()
        assert isinstance(reply, dict), reply
        return reply
