"""Any sequence of commands, time, disconnects and restarts: the broker answers as the oracle says."""

from __future__ import annotations

import base64
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mq9.testing.broker import InProcessBroker, InProcessClient
from tests.mailbox.oracle import LEASE_MS, TIERS, Ask, Mail, Oracle, OracleGroup

GROUPS = st.sampled_from(("g", "h"))
OWNERS = st.integers(0, 2)
TAGS = st.lists(st.sampled_from(("a", "b")), unique=True, max_size=2).map(tuple)
IDS = st.integers(0, 12)
MODES = st.sampled_from(("cumulative", "single"))
WINDOW_S = 120


class MailboxMachine(RuleBasedStateMachine):
    """One mailbox, three connections."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="mq9-model-"))
        self.broker: InProcessBroker = self.make_broker()
        self.oracle = Oracle()
        self.clients: list[InProcessClient] = []

    def make_broker(self) -> Any:
        """An InProcessBroker, or what has the face of one."""
        return InProcessBroker(self.directory, sync=False, dedup_window_s=WINDOW_S)

    @initialize()
    def create(self) -> None:
        self.clients = [self.broker.client() for _ in range(3)]
        assert self.ask(0, "MAILBOX.CREATE", {"name": "box"})["is_new"]

    def teardown(self) -> None:
        self.broker.close()
        shutil.rmtree(self.directory)

    @property
    def now_ms(self) -> int:
        return self.broker.clock.wall_ms()

    def ask(self, owner: int, command: str, body: bytes | dict[str, Any] = b"", header: bytes = b"") -> dict[str, Any]:
        reply = self.clients[owner].command(command, body, header)
        assert reply, f"no reply to {command} {body!r}"
        return reply

    # --- rules --------------------------------------------------------------------------------------------------

    @rule(
        tier=st.integers(0, 3),
        payload=st.sampled_from((b"one", b"two", b"\xff\x00")),
        key=st.sampled_from(("", "", "k", "l")),
        tags=TAGS,
        ttl_s=st.sampled_from((0, 0, 5, 40)),
        delay_s=st.sampled_from((0, 0, 0, 3, 20)),
        sent_id=st.sampled_from(("", "", "m1", "m2")),
    )
    def send(self, *, tier: int, payload: bytes, key: str, tags: tuple[str, ...], ttl_s: int, delay_s: int, sent_id: str) -> None:
        # Identity of content includes every header, so a ttl in a header makes it another message for a key.
        ttl_s = 0 if key else ttl_s
        delay_s = 0 if key else delay_s
        lines: dict[str, Any] = {"priority": TIERS[tier], "key": key, "tags": ",".join(tags), "ttl": ttl_s}
        lines |= {"delay": delay_s, "msg_id": sent_id}
        reply = self.clients[0].send("box", payload, **{name: value for name, value in lines.items() if value})
        mail = Mail(0, tier, payload, key, tags, 0, 0)
        expected = self.oracle.send(
            self.now_ms, mail, delay_ms=delay_s * 1000, ttl_ms=ttl_s * 1000, sent_id=sent_id, window_ms=WINDOW_S * 1000
        )
        assert (reply["msg_id"], reply.get("duplicate", False)) == expected

    @rule(
        group=GROUPS,
        ask=st.builds(Ask, owner=OWNERS, count=st.integers(1, 6), tags=st.one_of(st.just(()), TAGS), hold=st.booleans()),
        deliver=st.sampled_from(("earliest", "latest", "from_id")),
        from_id=IDS,
        force=st.booleans(),
    )
    def fetch(self, group: str, ask: Ask, deliver: str, from_id: int, *, force: bool) -> None:
        body = {
            "group_name": group,
            "deliver": deliver,
            "from_id": from_id,
            "force_deliver": force,
            "tags": list(ask.tags),
            "encoding": "base64",
            "config": {"num_msgs": ask.count, "max_wait_ms": 0, "ack_wait_ms": LEASE_MS, "hold": ask.hold},
        }
        known = group in self.oracle.groups
        if force or not known:
            after = self.oracle.start(self.now_ms, deliver, from_id, first=not known)
            self.oracle.groups[group] = OracleGroup(after)
        expected = self.oracle.fetch(self.now_ms, group, ask)
        messages = self.ask(ask.owner, "MSG.FETCH.box", body)["messages"]
        assert [message["msg_id"] for message in messages] == expected
        for message in messages:
            mail = self.oracle.mail[message["msg_id"]]
            held = self.oracle.groups[group].held[message["msg_id"]]
            assert base64.b64decode(message["payload"]) == mail.payload
            assert message["priority"] == TIERS[mail.tier]
            assert tuple(message.get("tags", ())) == mail.tags
            assert message["deliveries"] == held.count

    @rule(count=st.integers(1, 6), from_id=IDS)
    def peek(self, count: int, from_id: int) -> None:
        body = {"deliver": "from_id", "from_id": from_id, "config": {"num_msgs": count, "max_wait_ms": 0}}
        messages = self.ask(1, "MSG.FETCH.box", body)["messages"]
        expected = self.oracle.peek(self.now_ms, max(from_id - 1, 0), count)
        assert [message["msg_id"] for message in messages] == expected

    @rule(owner=OWNERS, group=GROUPS, msg_ids=st.lists(IDS, min_size=1, max_size=3), mode=MODES)
    def ack(self, owner: int, group: str, msg_ids: list[int], mode: str) -> None:
        body = {"group_name": group, "msg_ids": msg_ids, "mode": mode}
        assert self.ask(owner, "MSG.ACK.box", body) == {"error": ""}
        self.oracle.ack(group, msg_ids, mode)

    @rule(
        group=GROUPS,
        msg_ids=st.lists(IDS, min_size=1, max_size=3),
        mode=MODES,
        delay_s=st.sampled_from((0, 4)),
    )
    def nack(self, group: str, msg_ids: list[int], mode: str, delay_s: int) -> None:
        body = {"group_name": group, "msg_ids": msg_ids, "mode": mode, "nack": True, "delay": delay_s}
        assert self.ask(0, "MSG.ACK.box", body) == {"error": ""}
        self.oracle.nack(self.now_ms, group, msg_ids, mode, delay_s * 1000)

    @rule(msg_id=IDS)
    def delete(self, msg_id: int) -> None:
        there = any(mail.msg_id == msg_id for mail in self.oracle.live(self.now_ms))
        reply = self.ask(2, f"MSG.DELETE.box.{msg_id}")
        assert reply["deleted"] is there
        assert reply["error"] == ("" if there else "message not found")
        if there:
            self.oracle.remove(msg_id)

    @rule(tags=TAGS, limit=st.integers(1, 20))
    def query(self, tags: tuple[str, ...], limit: int) -> None:
        messages = self.ask(1, "MSG.QUERY.box", {"tags": list(tags), "limit": limit})["messages"]
        assert [message["msg_id"] for message in messages] == self.oracle.query(self.now_ms, tags, limit)

    @rule(seconds=st.sampled_from((0.5, 2.0, 5.0, 11.0, 130.0)))
    def pass_time(self, seconds: float) -> None:
        # Step by step, so that what falls due on the way is promoted at its own moment here as there.
        end_ms = self.now_ms + seconds * 1000
        for moment in sorted({entry[0] for entry in self.oracle.delayed if entry[0] <= end_ms}):
            self.broker.advance(max(0, moment - self.now_ms) / 1000)
            self.oracle.pass_time(self.now_ms)
        self.broker.advance((end_ms - self.now_ms) / 1000)
        self.oracle.pass_time(self.now_ms)

    @rule(owner=OWNERS)
    def disconnect(self, owner: int) -> None:
        self.oracle.let_go(owner)
        self.clients[owner].close()
        self.clients[owner] = self.broker.client()

    @rule()
    def restart(self) -> None:
        self.broker.restart()
        self.clients = [self.broker.client() for _ in range(3)]
        self.oracle.restart()

    @invariant()
    def counts_agree(self) -> None:
        if not self.clients:
            return
        info = self.ask(0, "MAILBOX.INFO.box")
        # Rows that expired may still be counted until they are reclaimed.
        assert len(self.oracle.live(self.now_ms)) <= info["messages"] <= len(self.oracle.mail)
        assert info["delayed"] == len(self.oracle.delayed)
        assert info["last_msg_id"] == self.oracle.last_id


TestMailbox = MailboxMachine.TestCase
TestMailbox.settings = settings(stateful_step_count=40)
