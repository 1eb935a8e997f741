"""What a view amounts to, and who should lead what."""

from __future__ import annotations

from collections import Counter

from mq9.meta.summary import evened, summary
from mq9.v1 import meta_pb2 as meta


def brokers(**weights: int) -> list[meta.Broker]:
    return [meta.Broker(id=name, weight=weight, state=meta.ALIVE) for name, weight in weights.items()]


def slot(number: int, primary: str, isr: str, replicas: str = "abc", **more: object) -> meta.Slot:
    return meta.Slot(slot=number, primary=primary, isr=list(isr), replicas=list(replicas), **more)  # type: ignore[arg-type]  # protobuf's stubs name each field


def test_each_slot_is_in_the_conditions_it_is_in() -> None:
    slots = [
        slot(0, "a", "abc"),
        slot(1, "b", "bc"),
        slot(2, "c", "c"),
        slot(3, "", "a", lost_disk=b"x"),
        slot(4, "a", "abc", adding=["d"], removing=["a"]),
        slot(5, "", "", ""),
    ]
    found = summary(meta.ClusterConfig(min_in_sync=2), brokers(a=1, b=1, c=1, d=1, e=1), slots)
    assert found.without_primary == [3, 5]
    assert found.under_replicated == [1, 2, 3]
    assert found.not_writable == [2, 3, 5]
    assert (found.lost, found.moving) == ([3], [4])
    assert (found.shares["a"].leads, found.shares["a"].follows, found.shares["a"].lags) == (2, 1, 2)
    assert (found.shares["d"].holds, found.shares["e"].holds) == (1, 0)


def led(slots: list[meta.Slot], changes: list[tuple[meta.Slot, str]]) -> Counter[str]:
    after = {each.slot: each.primary for each in slots} | {each.slot: to for each, to in changes}
    return Counter(after.values())


def test_primaries_are_spread_by_weight_and_then_left_alone() -> None:
    slots = [slot(number, "a", "abc") for number in range(60)]
    assert led(slots, evened(brokers(a=100, b=100, c=100), slots)) == {"a": 20, "b": 20, "c": 20}
    assert led(slots, evened(brokers(a=100, b=100, c=400), slots)) == {"a": 10, "b": 10, "c": 40}
    spread = [slot(number, "abc"[number % 3], "abc") for number in range(61)]
    assert evened(brokers(a=100, b=100, c=100), spread) == []


def test_only_who_is_in_sync_and_there_to_stay_is_to_lead() -> None:
    draining = [*brokers(a=1, b=1), meta.Broker(id="c", weight=1, state=meta.DRAINING, drain=True)]
    slots = [slot(0, "a", "ac"), slot(1, "a", "ac"), slot(2, "a", "abc", adding=["d"]), slot(3, "a", "ac"), slot(4, "c", "abc")]
    assert evened(draining, slots) == []
