"""One socket: bytes between the transport and the session, bounded, and never more than one write per loop turn.

What the session says is appended to a list; the hub's flusher joins and writes it once when the turn ends. The transport's
own buffer is kept at zero high water, so it calls `pause_writing` exactly when the socket did not take everything; from
then on whole frames wait here, where they are counted, until it calls `resume_writing`.

Too much waiting for a client ends it as a slow consumer; a socket that takes nothing at all for the write deadline is
aborted; a client whose own replies pile up is not read until they have gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import termios
from array import array
from typing import TYPE_CHECKING, Final, cast

from broker_node.session import Session
from mq9.limits import PUSH_WINDOW_BYTES, READ_PAUSE_PENDING_BYTES
from mq9.nats import encoder

if TYPE_CHECKING:
    import ssl

    from broker_node.hub import Hub

log = logging.getLogger("mq9.clients")

READ_BYTES: Final = 64 * 1024


class Connection(asyncio.Protocol):
    """The transport side of one client."""

    __slots__ = (
        "_crowded_at",
        "_deadline_s",
        "_handshaking",
        "_hub",
        "_out",
        "_progress_s",
        "_raw",
        "_session",
        "_taken",
        "_tls",
        "_transport",
        "_unsent",
        "closing",
        "expects_tls",
        "is_tls",
        "out_bytes",
        "pending",
        "stopped",
    )

    def __init__(self, hub: Hub, tls: ssl.SSLContext | None = None) -> None:
        self._hub = hub
        self._tls = tls  # until INFO is said
        self._handshaking = False
        self.expects_tls = tls is not None
        self._transport: asyncio.Transport | None = None
        self._raw: asyncio.Transport | None = None  # below TLS
        self._session: Session
        self._out: list[bytes] = []  # whole frames, not written yet
        self._unsent = 0  # bytes the transport holds because the socket did not take them; 0: writing is possible
        self._taken = 0  # bytes the socket had taken when the hub last looked
        self._progress_s = 0.0  # when that last became more
        self._deadline_s = 0.0  # when a closing connection is cut
        self._crowded_at = READ_PAUSE_PENDING_BYTES  # pending bytes above which `send` takes a closer look
        self.pending = 0  # bytes in _out and in the transport
        self.stopped = False  # the session should not go on reading: closing, or its replies pile up
        self.closing = False
        self.is_tls = False
        self.out_bytes = 0

    # --- called by the transport --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0)
        peer = self._transport.get_extra_info("peername")
        self._session = Session(self, self._hub, peer[0] if peer else "", peer[1] if peer else 0)
        if not self._hub.admit(self._session):
            self._transport.write(self._hub.refusal(self._session))
            self._transport.close()
            self.closing = self.stopped = True
            return
        if self._tls is None:
            self._session.send_info()
        else:
            self._handshaking = True
            self._hub.upgrade(self, self._transport, self._tls)

    def greet_in_clear(self) -> None:
        """Before TLS: say INFO, which is what the client waits for before its ClientHello, with reading paused.

        Not in `connection_made`, because uvloop starts reading after that whatever the protocol did: the ClientHello could
        be read here, where nobody understands it.
        """
        assert self._transport is not None
        self._transport.pause_reading()
        self._transport.write(self._hub.info_for(self._session))
        self._tls = None

    def secured(self, transport: asyncio.Transport) -> None:
        """The TLS handshake is done; everything from now on goes through `transport`."""
        self._handshaking = False
        if self.closing:  # the client went away in between
            transport.abort()
            return
        self._raw = self._transport
        self._transport = transport
        # Not zero: the TLS layer pauses at "at least", and would then wait for an end that has come already.
        transport.set_write_buffer_limits(1, 0)
        self.is_tls = True
        self._session.secured()
        self.flush()  # a quick client has been heard, and answered, already

    def data_received(self, data: bytes) -> None:
        if self._tls is not None:
            self.abort()  # a client that does not wait for INFO does not speak NATS
        elif not self.closing:
            self._session.received(data)

    def eof_received(self) -> bool:
        # The transport closes itself now, after what it holds is written: give it what is still here.
        self.flush()
        return False

    def pause_writing(self) -> None:
        self._unsent = self._held() or 1
        self.pending += self._unsent
        self._watch()

    def resume_writing(self) -> None:
        self.pending -= self._unsent
        self._unsent = 0
        self._session.writable()  # before it is written to again: what it took is noted first
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = self.stopped = True
        self._crowded_at = -1
        self._out.clear()
        self._session.ended("client closed" if exc is None else str(exc))
        self._hub.closed(self)
        # The session still knows its link; without this the two would wait for the garbage collector.
        del self._session

    # --- called by the session ----------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Say one whole frame."""
        if not self._out:
            self._hub.flusher.add(self)
        self._out.append(data)
        self.pending += len(data)
        if self.pending > self._crowded_at:
            self._crowded()

    def flush(self) -> None:
        """Write what waits, unless the socket is full."""
        if self._unsent or self._transport is None or self._handshaking:
            return
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            self._out = []
            self.pending = 0
            self.out_bytes += len(data)
            self._transport.write(data)  # calls pause_writing, which counts again what was not taken
            if self._raw is not None and self._raw.get_write_buffer_size():
                self._watch()  # what is encrypted already may stall without the TLS layer noticing
        if self.stopped and not self.closing and self.is_writable:
            self.stopped = False
            self._session.resume()

    @property
    def is_writable(self) -> bool:
        """Whether the socket took everything so far."""
        return not self._unsent

    @property
    def said_bytes(self) -> int:
        """Bytes given to `send` so far."""
        return self.out_bytes + self.pending - self._unsent

    @property
    def taken_bytes(self) -> int:
        """Of those, the bytes the socket has taken."""
        if self._transport is None or self._transport.is_closing():
            return self.out_bytes - self._unsent
        return self.out_bytes - self._held()

    def keep_little(self) -> None:
        """Have the kernel take no more than a window ahead of the network. By itself it takes megabytes, and drops them with
        a connection that breaks. Where it cannot be told (not Linux, not macOS) it goes on as it does."""
        plain = self._socket()
        option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if plain is not None and option is not None:
            plain.setsockopt(socket.IPPROTO_TCP, option, PUSH_WINDOW_BYTES)

    def close(self, error: str = "") -> None:
        """Say -ERR with `error` if there is one, and end. Frames said before go first, except to a slow consumer."""
        if self.closing:
            return
        assert self._transport is not None
        if self._handshaking:
            self._transport.abort()  # no place for words between clear text and TLS
            return
        if error:
            self._out.append(encoder.error(error))
        self._unsent = 0  # what is said last goes into the transport even if the socket is full
        self.flush()
        self._unsent = self._held()  # it may be cut before the socket has taken that
        self._leave(self._hub.settings.write_deadline_s if self._unsent else self._hub.timing.linger_s)
        if self._transport.can_write_eof() and (error or not self._is_quiet()):
            self._transport.write_eof()
            self._transport.resume_reading()  # into nothing, until the client goes
        else:
            self._transport.close()
        self._session.ended(error or "closed")

    def cut(self) -> None:
        """End the connection, and with it what its socket has not taken: whoever is to get that instead hears of it first,
        while it can still be told what that is."""
        if self.closing:
            return
        self._session.ended("cut")
        self._out.clear()
        self._leave(0)
        plain = self._socket()
        if plain is not None and plain.fileno() >= 0:
            Parting(self._hub, plain)
        self.abort()

    def _is_quiet(self) -> bool:
        """Whether the client has what was sent, and nothing it sent is unread: closing now cannot reset anything away."""
        plain = self._socket()
        if plain is None or plain.fileno() < 0:
            return True
        count = array("i", [0])
        try:
            for question in (termios.TIOCOUTQ, termios.FIONREAD):
                fcntl.ioctl(plain.fileno(), question, count)
                if count[0]:
                    return False
        except OSError:
            return False  # it does not say
        return True

    def _socket(self) -> socket.socket | None:
        """What the kernel knows the connection by."""
        found: socket.socket | None = self._transport.get_extra_info("socket") if self._transport is not None else None
        return found

    def _leave(self, wait_s: float) -> None:
        """Say nothing more, and be gone in `wait_s`."""
        self.closing = self.stopped = True
        self._crowded_at = -1
        self._hub.stalled.discard(self)
        self._hub.closing.add(self)
        self._deadline_s = self._hub.clock.monotonic_s() + wait_s

    def pause_reading(self) -> None:
        if self._transport is not None and not self.closing:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self.closing:
            self._transport.resume_reading()

    def _held(self) -> int:
        """Bytes that the transport, and the one below TLS, hold because the socket did not take them."""
        assert self._transport is not None
        below = self._raw.get_write_buffer_size() if self._raw is not None else 0
        return self._transport.get_write_buffer_size() + below

    def _watch(self) -> None:
        """Have the hub look whether the socket takes something."""
        if self not in self._hub.stalled:
            self._hub.stalled.add(self)
            self._taken = self.out_bytes - self._held()
            self._progress_s = self._hub.clock.monotonic_s()

    def _crowded(self) -> None:
        """A lot is waiting, or the connection is closing."""
        if self.closing:
            self._out.clear()
            self.pending = 0
            return
        self.flush()  # a healthy socket takes it at once, and nobody was slow
        if self.pending > self._hub.settings.max_pending:
            self._hub.traffic.slow_consumers += 1
            log.info("closing %s: slow consumer, %d bytes pending", self._session.label, self.pending)
            self._out.clear()
            self.pending = 0
            self.close("Slow Consumer")
        elif self.pending > self._crowded_at:
            self.stopped = True

    def tls_info(self) -> tuple[str, str] | None:
        """(version, cipher suite) of a TLS connection."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None and self.is_tls else None
        return (tls.version() or "", (tls.cipher() or ("",))[0]) if tls is not None else None

    # --- called by the hub's sweep ------------------------------------------------------------------------------

    def check_progress(self, now: float) -> None:
        """Abort a socket that has taken nothing of what waits for longer than the write deadline."""
        left = self._held()
        if self._unsent:
            self.pending += (left or 1) - self._unsent
            self._unsent = left or 1
        elif not left:
            self._hub.stalled.discard(self)
            self._session.writable()
            return
        # Counted from what was written, so that a growing queue in front of a slow socket does not look like a dead one.
        taken = self.out_bytes - left
        if taken > self._taken:
            self._taken = taken
            self._progress_s = now
            self._session.writable()  # of a write that goes piece by piece, what is gone is noted
        elif now - self._progress_s >= self._hub.settings.write_deadline_s:
            self._hub.traffic.write_timeouts += 1
            log.info("closing %s: nothing of %d bytes taken for %g s", self._session.label, left, now - self._progress_s)
            self.cut()

    def check_closed(self, now: float) -> None:
        """Cut a closing connection whose client does not go."""
        if now >= self._deadline_s and self._transport is not None:
            self._transport.abort()

    def abort(self) -> None:
        """Cut the connection now."""
        if self._transport is not None:
            self._transport.abort()


class Parting:
    """The kernel's end of a connection that was cut. What it had taken still goes out, and what the client says meanwhile is
    read: to close over something unread would reset both away."""

    __slots__ = ("_deadline_s", "_hub", "_loop", "_socket")

    def __init__(self, hub: Hub, plain: socket.socket) -> None:
        self._hub = hub
        self._deadline_s = hub.clock.monotonic_s() + hub.timing.linger_s
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(fileno=os.dup(plain.fileno()))
        self._socket.setblocking(False)
        hub.closing.add(self)
        self._loop.add_reader(self._socket.fileno(), self._read)
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()  # the client is gone already

    def _read(self) -> None:
        try:
            if self._socket.recv(READ_BYTES):
                return
        except BlockingIOError:
            return
        except OSError as failure:
            log.debug("a client left while it was being left: %s", failure)
        self.abort()

    def check_closed(self, now: float) -> None:
        """Leave a client that does not go."""
        if now >= self._deadline_s:
            self.abort()

    def abort(self) -> None:
        """Close it now."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._hub.closed(self)
