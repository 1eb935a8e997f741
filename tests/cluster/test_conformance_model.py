"""Any sequence of commands, each from a client of any broker, and of changes of leader: the cluster answers as the oracle says.

The machine is that of tests/mailbox/test_model.py, without its clock: here time passes by itself, so nothing is due soon.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from mq9.storage.layout import slot_of
from mq9.v1 import meta_pb2 as meta
from tests.cluster.processes import Cluster
from tests.mailbox.test_model import GROUPS, IDS, MODES, OWNERS, TAGS, MailboxMachine
from tests.meta.cluster import until
from tests.support.raw import RawClient

STEPS: Final = 30
LONG_MS: Final = 3_600_000
_names = itertools.count(1)


class FrozenClock:
    """What the oracle is told: all of an example happens before anything it delayed is due."""

    def wall_ms(self) -> int:
        return 0


class LiveClient:
    """A connection to some broker, with the face of an InProcessClient."""

    def __init__(self, raw: RawClient, box: str) -> None:
        self._raw = raw
        self._box = box

    def command(self, command: str, body: bytes | dict[str, Any] = b"", header: bytes = b"") -> dict[str, Any]:
        name, _, tail = command.partition(".box")
        if isinstance(body, dict) and body.get("name") == "box":
            body = {**body, "name": self._box}
        if isinstance(body, dict) and "ack_wait_ms" in body.get("config", {}):
            body = {**body, "config": {**body["config"], "ack_wait_ms": LONG_MS}}
        subject = f"$mq9.AI.{name}.{self._box}{tail}" if ".box" in command else f"$mq9.AI.{name}"
        payload = json.dumps(body).encode() if isinstance(body, dict) else body
        answer: dict[str, Any] = self._raw.request(subject.encode(), payload, header=header).json()
        return answer

    def send(self, box: str, payload: bytes, **lines: Any) -> dict[str, Any]:
        headers = {f"mq9-{name.replace('_', '-')}": str(value) for name, value in lines.items()}
        return self._raw.call(f"$mq9.AI.MSG.SEND.{self._box}".encode(), payload, headers=headers)

    def close(self) -> None:
        self._raw.close()


class LiveBroker:
    """The cluster, with the face of an InProcessBroker."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clock = FrozenClock()
        self.box = f"model.{next(_names)}"
        self._rng = random.Random(self.box)
        self._open: list[LiveClient] = []

    def client(self) -> LiveClient:
        raw = self._rng.choice(self.cluster.running).dial()
        raw.connect()
        self._open.append(LiveClient(raw, self.box))
        return self._open[-1]

    def restart(self) -> None:
        """Another broker leads the mailbox."""
        asyncio.run(self._move())

    async def _move(self) -> None:
        slot = slot_of(self.box.encode(), self.cluster.slots)
        async with self.cluster.client() as client:

            async def moved() -> bool:
                view = next(each for each in (await client.view()).slots if each.slot == slot)
                other = self._rng.choice([node for node in view.isr if node != view.primary] or [view.primary])
                request = meta.TransferPrimary(slot=slot, epoch=view.epoch, ver=view.ver, to=other)
                reply = await client.admin(meta.AdminRequest(transfer=request))
                return reply.result.outcome == meta.OK

            await until("another leader", moved)
        await self.cluster.settled()

    def close(self) -> None:
        for client in self._open:
            client.close()


class ClusterMachine(MailboxMachine):
    """One mailbox of a cluster, three connections to brokers of their own."""

    cluster: Cluster
    has_moved = False

    def make_broker(self) -> Any:
        return LiveBroker(self.cluster)

    @rule(
        tier=st.integers(0, 3),
        payload=st.sampled_from((b"one", b"two", b"\xff\x00")),
        key=st.sampled_from(("", "", "k", "l")),
        tags=TAGS,
        delay_s=st.sampled_from((0, 0, 0, 3600)),
        sent_id=st.sampled_from(("", "", "m1", "m2")),
    )
    def send(self, *, tier: int, payload: bytes, key: str, tags: tuple[str, ...], delay_s: int, sent_id: str) -> None:
        super().send(tier=tier, payload=payload, key=key, tags=tags, ttl_s=0, delay_s=delay_s, sent_id=sent_id)

    @rule(owner=OWNERS, group=GROUPS, msg_ids=st.lists(IDS, min_size=1, max_size=3), mode=MODES)
    def ack(self, owner: int, group: str, msg_ids: list[int], mode: str) -> None:
        reply = self.ask(owner, "MSG.ACK.box", {"group_name": group, "msg_ids": msg_ids, "mode": mode})
        if reply["error"]:  # an earlier leader may have handed it out, for all that the new one knows
            assert reply["code"] == "DELIVERY_LOST"
            assert self.has_moved
            assert any(msg_id not in self.oracle.groups[group].held for msg_id in msg_ids)
        self.oracle.ack(group, msg_ids, mode)

    @rule()
    def restart(self) -> None:
        self.has_moved = True
        super().restart()

    @rule(group=GROUPS, msg_ids=st.lists(IDS, min_size=1, max_size=3), mode=MODES)
    def nack(self, group: str, msg_ids: list[int], mode: str) -> None:
        super().nack(group=group, msg_ids=msg_ids, mode=mode, delay_s=0)

    def pass_time(self, seconds: float) -> None:
        """It does."""

    def disconnect(self, owner: int) -> None:
        """What a client held is free when its broker has told the leader: soon, which the oracle does not know."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("model"))
    try:
        made.start()
        asyncio.run(made.settled())
        yield made
    finally:
        made.finish(judge=False)


def machine_on(cluster: Cluster) -> type[ClusterMachine]:
    return type("Machine", (ClusterMachine,), {"cluster": cluster})


SLOWLY: Final = settings(
    stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
)


def test_a_mailbox_of_a_cluster_is_a_mailbox(cluster: Cluster) -> None:
    run_state_machine_as_test(machine_on(cluster), settings=settings(SLOWLY, max_examples=8))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_mailbox_of_a_cluster_is_a_mailbox_for_long(cluster: Cluster) -> None:
    run_state_machine_as_test(machine_on(cluster), settings=settings(SLOWLY, max_examples=500))
