"""What watchers are told of how far the state has come, and of when it last changed."""

from __future__ import annotations

from meta_service.feed import Feed
from meta_service.state import Changed
from mq9.v1 import meta_pb2 as meta

CONFIG = meta.ClusterConfig(cluster_id=b"c", mod_rev=3)


def test_a_node_that_starts_knows_when_the_state_last_changed() -> None:
    """Not how far its journal goes: else leases were lent only to views that had seen barriers, which change nothing."""
    slot, broker = meta.Slot(slot=1, mod_rev=40), meta.Broker(id="b", mod_rev=12)
    feed = Feed(Changed(100, CONFIG, [broker], [slot], full=True))
    assert (feed.rev, feed.changed_rev) == (100, 40)
    removed = meta.ClusterConfig(cluster_id=b"c", mod_rev=3, removed_rev=77)
    assert Feed(Changed(100, removed, [broker], [slot], full=True)).changed_rev == 77
    assert Feed(Changed(0, full=True)).changed_rev == 0


def test_a_revision_without_a_change_moves_watchers_on_and_wakes_nobody() -> None:
    feed = Feed(Changed(10, CONFIG, full=True))
    with feed.watch() as watcher:
        feed.take(Changed(25))
        assert not watcher._event.is_set()
        assert (feed.rev, feed.changed_rev) == (25, 3)
        assert feed.since(10, b"c").rev == 25
        feed.take(Changed(26, slots=[meta.Slot(slot=2, mod_rev=26)]))
        assert watcher._event.is_set()
        assert (feed.rev, feed.changed_rev) == (26, 26)
        assert [slot.slot for slot in feed.since(25, b"c").slots] == [2]
