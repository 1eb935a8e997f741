"""Who subscribes to what: a tree of subject tokens with `*` and `>`, and a cache of what published subjects matched.

The tree is walked only when the cache does not know a subject. Two caches, because replies need their own: every request of
a client names a fresh reply subject (`_INBOX.x.17`) under one subscription (`_INBOX.x.*`), so a cache by whole subject would
never hit. Where nothing below a prefix is told apart by its last token, one entry for the prefix answers for all of them.

A change drops exactly the entries it can touch when the tokens before its last one are literal (plain subjects and inboxes,
which come and go with every connection), and everything when not (rare, and the walk refills it).

Knows nothing of connections or frames; `core.py` decides who of the matched gets a message.
"""

from __future__ import annotations

from typing import Final, Protocol

from mq9.limits import ROUTE_CACHE_ENTRIES_MAX, ROUTE_CACHE_KEY_BYTES_MAX
from mq9.nats.subjects import has_wildcard, is_valid_publication

_WILDCARDS: Final = frozenset((b"*", b">"))
_ODD_ENDS: Final = frozenset(b".*>")


class Receiver(Protocol):
    """Whoever holds a subscription."""

    def receive(self, sub: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """Take one message. Must not raise, and may be called after the subscription is gone."""


class Subscription:
    """One SUB. `limit` is the UNSUB max (0: none), `delivered` what counts towards it."""

    __slots__ = ("client", "delivered", "limit", "queue", "sid", "subject")

    def __init__(self, client: Receiver, subject: bytes, queue: bytes, sid: bytes) -> None:
        self.client = client
        self.subject = subject
        self.queue = queue
        self.sid = sid
        self.delivered = 0
        self.limit = 0


class Match:
    """The subscriptions of one subject: each of `plain` gets a message, and one of each tuple in `queues`."""

    __slots__ = ("plain", "queues")

    def __init__(self, plain: tuple[Subscription, ...], queues: tuple[tuple[Subscription, ...], ...]) -> None:
        self.plain = plain
        self.queues = queues


NOBODY: Final = Match((), ())


class _Node:
    """One token of the tree. Dicts are made when needed: an inbox of an idle client should cost little.

    Subscriptions are kept in dicts as ordered sets: thousands may share a subject and leave at once.
    """

    __slots__ = ("children", "plain", "queues")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] | None = None
        self.plain: dict[Subscription, None] | None = None
        self.queues: dict[bytes, dict[Subscription, None]] | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.children or self.plain or self.queues)


class Sublist:
    """All subscriptions of a broker. Subjects given to `add` and `remove` are valid subscriptions."""

    __slots__ = ("_by_prefix", "_by_subject", "_count", "_root", "_under_prefix", "hits", "inserts", "misses", "removes")

    def __init__(self) -> None:
        self._root = _Node()
        self._count = 0
        self._by_subject: dict[bytes, Match] = {}
        self._by_prefix: dict[bytes, Match] = {}
        self._under_prefix: dict[bytes, set[bytes]] = {}  # prefix -> the keys of _by_subject that begin with it
        self.hits = 0
        self.misses = 0
        self.inserts = 0
        self.removes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def cached(self) -> int:
        """Entries in the caches."""
        return len(self._by_subject) + len(self._by_prefix)

    def add(self, sub: Subscription) -> None:
        node = self._root
        for token in sub.subject.split(b"."):
            if node.children is None:
                node.children = {}
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = _Node()
            node = child
        if not sub.queue:
            if node.plain is None:
                node.plain = {}
            node.plain[sub] = None
        else:
            if node.queues is None:
                node.queues = {}
            node.queues.setdefault(sub.queue, {})[sub] = None
        self._count += 1
        self.inserts += 1
        self._forget(sub.subject)

    def remove(self, sub: Subscription) -> bool:
        """Take `sub` out; False when it is not there."""
        path: list[tuple[_Node, bytes]] = []
        node = self._root
        for token in sub.subject.split(b"."):
            child = node.children.get(token) if node.children else None
            if child is None:
                return False
            path.append((node, token))
            node = child
        members = node.plain if not sub.queue else (node.queues or {}).get(sub.queue)
        if members is None or sub not in members:
            return False
        del members[sub]
        if sub.queue and not members and node.queues:
            del node.queues[sub.queue]
        while path and node.is_empty:
            node, token = path.pop()
            assert node.children is not None
            del node.children[token]
        self._count -= 1
        self.removes += 1
        self._forget(sub.subject)
        return True

    def match(self, subject: bytes) -> Match | None:
        """Who subscribes to a published subject; None when it is not one that can be published to."""
        found = self._by_subject.get(subject)
        if found is None:
            # A last token that is empty or a wildcard must not pass for one of its neighbours.
            if subject[-1] not in _ODD_ENDS and len(subject) <= ROUTE_CACHE_KEY_BYTES_MAX:
                found = self._by_prefix.get(subject[: subject.rfind(b".") + 1])
            if found is None:
                self.misses += 1
                return self._walk(subject) if is_valid_publication(subject) else None
        self.hits += 1
        return found

    def _walk(self, subject: bytes) -> Match:
        """The answer from the tree, remembered."""
        *tokens, last = subject.split(b".")
        plain: list[Subscription] = []
        queues: dict[bytes, list[Subscription]] = {}
        level = [self._root]
        for token in tokens:
            below: list[_Node] = []
            for children in [node.children for node in level if node.children]:
                _collect(children.get(b">"), plain, queues)
                below += [child for child in (children.get(token), children.get(b"*")) if child is not None]
            level = below
        told_apart = False
        for children in [node.children for node in level if node.children]:
            told_apart = told_apart or not children.keys() <= _WILDCARDS
            for child in (children.get(b">"), children.get(b"*"), children.get(last)):
                _collect(child, plain, queues)
        found = Match(tuple(plain), tuple(map(tuple, queues.values()))) if plain or queues else NOBODY
        if len(subject) <= ROUTE_CACHE_KEY_BYTES_MAX:
            self._remember(subject, found, told_apart=told_apart)
        return found

    def _remember(self, subject: bytes, found: Match, *, told_apart: bool) -> None:
        prefix = subject[: subject.rfind(b".") + 1]
        if len(self._by_subject) >= ROUTE_CACHE_ENTRIES_MAX or len(self._by_prefix) >= ROUTE_CACHE_ENTRIES_MAX:
            self._forget_all()
        if told_apart:
            self._by_subject[subject] = found
            self._under_prefix.setdefault(prefix, set()).add(subject)
        else:
            self._by_prefix[prefix] = found

    def _forget(self, pattern: bytes) -> None:
        """Drop what a change at `pattern` can touch."""
        head, dot, last = pattern.rpartition(b".")
        if last == b">" or has_wildcard(head):
            self._forget_all()
            return
        prefix = head + dot
        self._by_prefix.pop(prefix, None)
        known = self._under_prefix.get(prefix)
        if known is None:
            return
        if last == b"*":
            for subject in known:
                del self._by_subject[subject]
            known.clear()
        elif pattern in known:
            del self._by_subject[pattern]
            known.remove(pattern)
        if not known:
            del self._under_prefix[prefix]

    def _forget_all(self) -> None:
        self._by_subject.clear()
        self._by_prefix.clear()
        self._under_prefix.clear()


def _collect(node: _Node | None, plain: list[Subscription], queues: dict[bytes, list[Subscription]]) -> None:
    if node is None:
        return
    if node.plain:
        plain += node.plain
    if node.queues:
        for queue, members in node.queues.items():
            queues.setdefault(queue, []).extend(members)
