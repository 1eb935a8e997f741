"""One client: what each frame means in the state the connection is in.

    not authenticated --CONNECT with good credentials--> open --any fatal error, or the end of the socket--> ended
            |--wrong credentials--> refused: not read any more, told so after the delay that guessing costs

The session turns frames into calls: a publish to a `$mq9.AI.` subject goes to the broker as a command, any other to the
core router; the router hands messages back through `receive`. It never touches the transport: `link` says what is to be
said and holds back reading when the client, or the broker, is behind.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from broker_node.permissions import COMMAND_PREFIX, may_publish, may_subscribe
from broker_node.router.core import INVALID_SUBJECT
from broker_node.router.sublist import Subscription
from mq9.nats import connect, encoder
from mq9.nats.frames import Connect, Frame, Ping, Pong, ProtocolError, Publish, Subscribe, Unsubscribe
from mq9.nats.parser import Parser
from mq9.nats.subjects import is_valid_publication, is_valid_subscription

if TYPE_CHECKING:
    from broker_node.connection import Connection
    from broker_node.hub import Hub

log = logging.getLogger("mq9.clients")

V1_CLIENT_NAME: Final = "robustmq-mq9-python"  # the published v1 SDK says so in CONNECT
_DOLLAR: Final = ord("$")


class Session:
    """The state of one connection. Also the `Client` that handlers see and the `Receiver` the router delivers to."""

    __slots__ = (
        "_backlog",
        "_broker",
        "_core",
        "_deadline_s",
        "_deaf",
        "_has_headers",
        "_heard",
        "_hub",
        "_is_open",
        "_last_heard_s",
        "_parser",
        "_pedantic",
        "_pings_out",
        "_rest",
        "_subs",
        "_verbose",
        "_wants_echo",
        "_wants_no_responders",
        "address",
        "dialect",
        "id",
        "in_bytes",
        "in_msgs",
        "lang",
        "link",
        "name",
        "out_msgs",
        "port",
        "started_s",
        "version",
    )

    def __init__(self, link: Connection, hub: Hub, address: str, port: int) -> None:
        self.link = link
        self._hub = hub
        self._broker = hub.broker
        self._core = hub.broker.core
        self._parser = Parser(hub.settings.max_payload)
        self.id = hub.next_id()
        self.address = address
        self.port = port
        self.name = ""
        self.lang = ""
        self.version = ""
        self.dialect = 0
        self._is_open = False
        self._deaf = False  # what comes is not looked at any more
        self._verbose = True
        self._pedantic = True
        self._wants_echo = True
        self._wants_no_responders = False
        self._has_headers = False
        self._subs: dict[bytes, Subscription] = {}
        self._rest: Iterator[Frame] | None = None  # frames held back until `resume`
        self._backlog = b""  # bytes that the transport delivered all the same
        self._heard = False  # since the last ping round
        self._pings_out = 0
        self.started_s = self._last_heard_s = hub.clock.monotonic_s()
        self._deadline_s = self.started_s + (hub.timing.handshake_s if link.expects_tls else hub.timing.authenticate_s)
        self.in_msgs = 0
        self.in_bytes = 0
        self.out_msgs = 0

    # --- reading ------------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._heard = True
        self.in_bytes += len(data)
        if self._deaf:
            return
        if self._rest is not None:
            # Reading is paused, but TLS may still hand out what it had decrypted.
            self._backlog += data
        else:
            self._run(self._parser.feed(data))

    def resume(self) -> None:
        """What held reading back is over: go on where it stopped."""
        rest = self._rest
        if rest is None or self._deaf or self.link.stopped or self.id in self._hub.overloaded:
            return
        self._rest = None
        self.link.resume_reading()
        self._run(rest)
        backlog = self._backlog
        if backlog and self._rest is None:
            self._backlog = b""
            self._run(self._parser.feed(backlog))

    def _run(self, frames: Iterator[Frame]) -> None:
        """Act on frames until there are no more, or until the client or the broker must catch up first."""
        link = self.link
        count = 0
        try:
            for frame in frames:
                if type(frame) is Publish:
                    count += 1
                    self._publish(frame)
                else:
                    self._act(frame)
                if link.stopped:
                    break
        except ProtocolError as error:
            self._hub.traffic.protocol_errors += 1
            self._end(error.text)
        self.in_msgs += count
        if link.closing:
            return
        if link.stopped:
            self._hold(frames)
        elif self._broker.overloaded():
            self._hold(frames)
            self._hub.hold_back(self)

    def _hold(self, frames: Iterator[Frame]) -> None:
        self._rest = frames
        self.link.pause_reading()

    def _publish(self, frame: Publish) -> None:
        """A PUB or HPUB: a command for the broker, or a core message."""
        subject = frame.subject
        if self._verbose:
            self.link.send(encoder.OK)
        if subject[0] == _DOLLAR and subject.startswith(COMMAND_PREFIX):
            if may_publish(subject):
                self._broker.command(self, subject, frame.reply, frame.header, frame.payload)
            else:
                self._violation("Publish", subject)
            return
        not_to = None if self._wants_echo else self
        receivers = self._core.publish(subject, frame.reply, frame.header, frame.payload, not_to)
        if receivers <= 0:
            self._unheard(frame, receivers)

    # --- frames -------------------------------------------------------------------------------------------------

    def _act(self, frame: Frame) -> None:
        """Everything but a publish."""
        match frame:
            case Ping():
                self.link.send(encoder.PONG)
            case Pong():
                pass  # that it came is all it says, and `received` has noted that
            case Subscribe():
                self._subscribe(frame)
            case Unsubscribe():
                self._unsubscribe(frame)
            case Connect():
                self._connect(frame)

    def _connect(self, frame: Connect) -> None:
        """The first frame, or a later one that changes the options."""
        options = connect.decode(frame.body)
        if options.no_responders and not options.headers:
            raise ProtocolError("no responders requires headers support")
        if not self._hub.auth.accepts(options):
            self._refuse()
            return
        self.name = options.name or ""
        self.lang = options.lang or ""
        self.version = options.version or ""
        if self.name == V1_CLIENT_NAME:
            self.dialect = 1
        self._verbose = options.is_verbose
        self._pedantic = options.is_pedantic
        self._wants_echo = options.wants_echo
        self._has_headers = bool(options.headers)
        self._wants_no_responders = bool(options.no_responders)
        if not self._is_open:
            self._is_open = True
            self._hub.welcome(self)
        self._agree()

    def _refuse(self) -> None:
        """Wrong credentials. The answer waits for `check_authentication`, longer with every failure of this address."""
        delay_s = self._hub.failures.add(self.address)
        self._hub.traffic.auth_failures += 1
        log.warning("%s gave wrong credentials", self.label)
        if self._is_open:  # it was let in before, so there is nothing to guess
            self._end("Authorization Violation")
            return
        self._deaf = True
        self.link.stopped = True
        self._deadline_s = self._hub.clock.monotonic_s() + delay_s

    def _subscribe(self, frame: Subscribe) -> None:
        subject, queue = frame.subject, frame.queue
        if not is_valid_subscription(subject) or (queue and not is_valid_publication(queue)):
            self._complain("Invalid Subject")
            return
        if not may_subscribe(subject):
            self._violation("Subscription", subject, queue)
            return
        if frame.sid not in self._subs:
            if len(self._subs) >= self._hub.settings.max_subscriptions:
                self._complain("maximum subscriptions exceeded")
                return
            sub = Subscription(self, subject, queue, frame.sid)
            self._subs[frame.sid] = sub
            if subject.startswith(COMMAND_PREFIX):
                self._broker.subscribe(self, sub)
            else:
                self._core.subscribe(sub)
        self._agree()

    def _unsubscribe(self, frame: Unsubscribe) -> None:
        sub = self._subs.get(frame.sid)
        if sub is not None:
            if frame.max_messages > sub.delivered:
                sub.limit = frame.max_messages
            else:
                self._drop(sub)
        self._agree()

    def _drop(self, sub: Subscription) -> None:
        if self._subs.pop(sub.sid, None) is None:
            return
        if sub.subject.startswith(COMMAND_PREFIX):
            self._broker.unsubscribe(self, sub)
        else:
            self._core.unsubscribe(sub)

    def _unheard(self, frame: Publish, receivers: int) -> None:
        """A message that reached nobody."""
        if receivers == INVALID_SUBJECT and self._pedantic:
            self._complain("Invalid Publish Subject")
        if frame.reply and self._wants_no_responders:
            self._hub.traffic.no_responders += 1
            self._core.answer_no_responders(self, frame.reply, encoder.NO_RESPONDERS)

    # --- saying -------------------------------------------------------------------------------------------------

    def receive(self, sub: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """One message of the router for this client. A client without headers gets the payload alone."""
        self.out_msgs += 1
        if header and self._has_headers:
            self.link.send(encoder.hmsg(subject, sub.sid, reply, header, payload))
        else:
            self.link.send(encoder.msg(subject, sub.sid, reply, payload))
        sub.delivered += 1
        if sub.delivered == sub.limit:
            self._drop(sub)

    def is_ready(self) -> bool:
        """Whether the socket took everything so far: for what is pushed to the client at the broker's own pace."""
        return self.link.is_writable and not self.link.closing and not self._deaf

    def flush(self) -> None:
        """Write what was said now, and not when the loop's turn ends."""
        self.link.flush()

    def said_offset(self) -> int:
        """Bytes said to the client so far, protocol lines included."""
        return self.link.said_bytes

    def taken_offset(self) -> int:
        """Of those, the bytes its socket has taken."""
        return self.link.taken_bytes

    def keep_little(self) -> None:
        """From now on its socket takes little ahead of the network: what it has taken is lost with the client."""
        self.link.keep_little()

    def send_info(self) -> None:
        """Tell the client about the server: at the beginning, and when that changes."""
        self.link.send(self._hub.info_for(self))

    def writable(self) -> None:
        """The socket has taken what waited, or some of it."""
        self._broker.client_writable(self)

    def _agree(self) -> None:
        if self._verbose:
            self.link.send(encoder.OK)

    def _complain(self, text: str) -> None:
        """-ERR, and go on."""
        self.link.send(encoder.error(text))

    def _violation(self, kind: str, subject: bytes, queue: bytes = b"") -> None:
        self._hub.traffic.permission_violations += 1
        using = f' using queue "{queue.decode(errors="replace")}"' if queue else ""
        self._complain(f'Permissions Violation for {kind} to "{subject.decode(errors="replace")}"{using}')

    # --- the end ------------------------------------------------------------------------------------------------

    def secured(self) -> None:
        """The TLS handshake is done: CONNECT is due."""
        self._deadline_s = self._hub.clock.monotonic_s() + self._hub.timing.authenticate_s

    def check_authentication(self, now: float) -> None:
        """End a client that has not authenticated in time, and answer one that did so wrongly when its delay is over."""
        if now < self._deadline_s:
            return
        self._end("Authorization Violation" if self._deaf else "Authentication Timeout")

    def check_alive(self, now: float) -> None:
        """Ping a silent client; end one that has not answered several."""
        if self._heard or self._rest is not None:  # who is not being read cannot be heard
            self._heard = False
            self._last_heard_s = now
            self._pings_out = 0
        elif self._is_open and now - self._last_heard_s >= self._hub.settings.ping_interval_s * (self._pings_out + 1):
            if self._pings_out >= self._hub.settings.max_pings_out:
                self._hub.traffic.stale_connections += 1
                self._end("Stale Connection")
            else:
                self._pings_out += 1
                self.link.send(encoder.PING)

    def retire(self) -> None:
        """Read nothing more: the server is going away, and what was asked so far is still answered."""
        self._deaf = True
        self.link.pause_reading()

    def close(self) -> None:
        """End an ordinary connection: the server is going away. What was pushed and not taken is for others, and so must not
        be written any more."""
        if self._broker.holds_untaken(self):
            self.link.cut()
        else:
            self.link.close()

    def _end(self, text: str) -> None:
        self.link.close(text)

    def ended(self, reason: str) -> None:
        """The connection is over, whoever ended it."""
        if self._hub.sessions.get(self.id) is not self:
            return
        log.debug("%s ended: %s", self.label, reason)
        self._rest = None
        self._backlog = b""
        for sub in list(self._subs.values()):
            self._drop(sub)
        self._hub.leave(self)
        self._broker.client_closed(self)

    @property
    def label(self) -> str:
        """For log lines."""
        return f"client {self.id} from {self.address}:{self.port}"

    @property
    def subscriptions(self) -> list[Subscription]:
        """For monitoring."""
        return list(self._subs.values())

    def idle_s(self, now: float) -> float:
        """For monitoring: seconds without a byte from the client, as of the latest ping round."""
        return 0.0 if self._heard else now - self._last_heard_s
