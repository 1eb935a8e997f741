"""A node with an empty disk: may it take part, and from when on?

An empty disk is either a new cluster's or a replacement. A replacement has forgotten which entries it acknowledged and
whom it voted for; if it took part at once, a majority could form that lacks an entry that was acknowledged. So:

- When every peer says that it is blank too, the cluster is being founded, and the node is a member. All nodes have to be
  up for that, once.
- Otherwise the node only listens: it stores what the leader sends, but it does not vote, does not stand and does not let
  itself be counted. It is a member when, in one leader's term, the leader has committed an entry that was added to the
  leader's log after this node first heard from it. That entry was committed without this node, so a majority of the
  others stands behind this leader; a leader that an earlier self of this node helped to depose cannot do that. And all
  that is committed up to there, this node has by then.
- It waits at least two election timeouts, so that an election its earlier self voted in is over.

So one node of three, or two of five, can be replaced while the others are up. With no majority left that remembers,
nothing is ever committed: docs/meta.md says what an operator can do.
"""

from __future__ import annotations

import logging

from meta_service.disk import NODE, Disk
from meta_service.journal import LmdbJournal

log = logging.getLogger(__name__)

MEMBER_KEY = b"member"


class Joining:
    """Whether this node is a member yet. `active`: it is not."""

    def __init__(self, disk: Disk, journal: LmdbJournal, others: frozenset[str], wait_s: float) -> None:
        self._disk = disk
        self._journal = journal
        self._others = others
        self._wait_s = wait_s
        self._blank_peers: set[str] = set()
        self._leader = ""
        self._term = 0
        self._since_s = 0.0
        self._last_index = 0  # of the leader's log when it was first heard in this term
        with disk.snapshot() as snapshot:
            self.active = snapshot.get(NODE, MEMBER_KEY) is None
        if self.active and not others:
            self._become_member("as the only node")

    def peer_is_blank(self, peer: str, blank: bool) -> None:
        """What a peer said of itself when it connected."""
        if not self.active:
            return
        self._blank_peers.add(peer) if blank else self._blank_peers.discard(peer)
        if self._blank_peers == self._others and self._journal.is_blank:
            self._become_member("of a new cluster")

    def heard(self, leader: str, term: int, last_index: int, now_s: float) -> None:
        """A leader sent something; its log ends at `last_index`."""
        if self.active and (leader, term) != (self._leader, self._term):
            self._leader, self._term, self._last_index = leader, term, last_index
            self._since_s = now_s

    def check(self, leader: str, term: int, commit_index: int, now_s: float) -> None:
        """Become a member when there is nothing left to miss."""
        if not self.active or (leader, term) != (self._leader, self._term) or not leader:
            return
        if commit_index > self._last_index and now_s - self._since_s >= self._wait_s:
            self._become_member(f"caught up with {leader} to entry {commit_index}")

    def _become_member(self, how: str) -> None:
        log.info("this node is a member now: %s", how)
        self._disk.put(NODE, MEMBER_KEY, b"1")
        self._journal.flush(force=True)
        self.active = False
