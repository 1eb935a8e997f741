"""A whole broker in this process, without sockets: commands in, replies out, time by hand.

broker = InProcessBroker()
alice = broker.client()
alice.command("MAILBOX.CREATE", {"name": "inbox"})
alice.send("inbox", b"hello", priority="urgent")
messages = alice.command("MSG.FETCH.inbox", {"group_name": "g", "deliver": "earliest"})["messages"]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from broker_node.broker import Broker
from broker_node.push.wire import SDK_NAME
from broker_node.router.sublist import Subscription
from mq9.settings import Settings
from mq9.storage.interface import Store
from mq9.storage.memory_store import MemoryStore
from mq9.testing.clock import ManualClock, ManualLoop


class InProcessClient:
    """One connected client. `received` keeps what was published to it and not taken yet, as (subject, header, payload)."""

    def __init__(self, broker: InProcessBroker, number: int, name: str) -> None:
        self.id = number
        self.name = name
        self.lang = "python"
        self.version = "0"
        self.dialect = 1 if name == SDK_NAME else 0
        self.received: list[tuple[bytes, bytes, bytes]] = []
        self._broker = broker
        self._requests = 0
        self._sids = 1
        self._subs: list[Subscription] = []
        self.ready = True
        self.said = 0
        self.taken = 0
        self._inbox = Subscription(self, b"_INBOX.%d.*" % number, b"", b"1")
        broker.broker.core.subscribe(self._inbox)

    def receive(self, sub: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """Called by the router: a message for one of the client's subscriptions."""
        self.said += len(payload) + 1
        self.received.append((subject, header, payload))

    def is_ready(self) -> bool:
        """A client of a test takes everything at once, unless the test says otherwise."""
        return self.ready

    def flush(self) -> None:
        """Whatever a client of a test takes, it has at once."""

    def said_offset(self) -> int:
        return self.said

    def taken_offset(self) -> int:
        return self.said if self.ready else self.taken

    def keep_little(self) -> None:
        """There is no socket."""

    def subscribe(self, subject: bytes, queue: bytes = b"") -> Subscription:
        """Subscribe under `$mq9.AI.`; what is pushed is in `received`."""
        self._sids += 1
        sub = Subscription(self, b"$mq9.AI." + subject, queue, b"%d" % self._sids)
        self._subs.append(sub)
        self._broker.broker.subscribe(self, sub)
        self._broker.loop.run()
        return sub

    def unsubscribe(self, sub: Subscription) -> None:
        self._subs.remove(sub)
        self._broker.broker.unsubscribe(self, sub)
        self._broker.loop.run()

    def stall(self) -> None:
        """From now on the socket takes nothing."""
        self.ready, self.taken = False, self.said

    def unstall(self) -> None:
        """The socket takes what waited, and everything from now on."""
        self.ready = True
        self._broker.broker.client_writable(self)
        self._broker.loop.run()

    def publish(self, command: str, body: bytes | dict[str, Any] = b"", header: bytes = b"") -> bytes:
        """Publish a command without turning the loop; returns the reply subject it will be answered on."""
        self._requests += 1
        reply = b"_INBOX.%d.%d" % (self.id, self._requests)
        payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self._broker.broker.command(self, b"$mq9.AI." + command.encode(), reply, header, payload)
        return reply

    def replies(self, reply: bytes) -> list[tuple[bytes, bytes]]:
        """Take what came on a reply subject so far, as (header, payload)."""
        mine = [(header, payload) for subject, header, payload in self.received if subject == reply]
        self.received = [item for item in self.received if item[0] != reply]
        return mine

    def command(self, command: str, body: bytes | dict[str, Any] = b"", header: bytes = b"") -> dict[str, Any]:
        """One command, one JSON reply. Time stands still meanwhile: a FETCH that has to wait gets {} here."""
        reply = self.publish(command, body, header)
        self._broker.loop.run()
        answers = self.replies(reply)
        decoded: dict[str, Any] = msgspec.json.decode(answers[0][1]) if answers else {}
        return decoded

    def send(self, address: str, payload: bytes, **headers: str | float) -> dict[str, Any]:
        """SEND with mq9 headers given by their short names: priority, key, delay, ttl, tags, msg_id."""
        return self.command(f"MSG.SEND.{address}", payload, header_block(**headers))

    def close(self) -> None:
        """The connection is gone."""
        self._broker.broker.core.unsubscribe(self._inbox)
        for sub in self._subs:
            self._broker.broker.unsubscribe(self, sub)
        self._broker.broker.client_closed(self)
        self._broker.loop.run()


def header_block(**headers: str | float) -> bytes:
    """A NATS header block of mq9 headers; b"" for none."""
    if not headers:
        return b""
    lines = "".join(f"mq9-{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


class InProcessBroker:
    """The broker, its clock and its loop. `restart` closes and opens it again on the same store directory."""

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        store: Store | None = None,
        clock: ManualClock | None = None,
        **settings: Any,
    ) -> None:
        """`directory`: a durable store there; else one in memory. `settings` are fields of Settings."""
        self.clock = clock or ManualClock()
        self.loop = ManualLoop(self.clock)
        self._clients = 0
        self._store = store
        kind: dict[str, Any] = {"storage": "memory"} if directory is None else {"data_dir": str(directory)}
        self.settings = Settings(**{"commit": "inline", "disk_reserve": 0, **kind, **settings})
        self.broker = self._open()

    def _open(self) -> Broker:
        store = MemoryStore() if self._store is None and self.settings.storage == "memory" else self._store
        broker = Broker(self.settings, self.clock, self.loop, store)
        broker.start()
        self.loop.run()
        return broker

    def client(self, name: str = "") -> InProcessClient:
        """A new connection."""
        self._clients += 1
        return InProcessClient(self, self._clients, name)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.advance(seconds)

    def restart(self) -> None:
        """Stop and start on the same directory. Clients of before are gone; make new ones."""
        self.broker.close()
        self.loop = ManualLoop(self.clock)
        self.broker = self._open()

    def close(self) -> None:
        """Stop."""
        self.broker.close()
