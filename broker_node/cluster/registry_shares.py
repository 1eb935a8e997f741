"""What this node answers other nodes, and itself, about the agents it has: mq9/registry/sharing.py in the words of peer.proto."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from mq9.errors import Mq9Error, error
from mq9.registry.jobs import Frequencies, QueryVectors
from mq9.registry.registry import Registry
from mq9.registry.requests import parse_discover
from mq9.registry.sharing import Ask, Found, Share, Sharing, by_mode
from mq9.v1 import peer_pb2 as wire

log = logging.getLogger("mq9.registry")

Reply = Callable[[wire.Discovered], None]


class Shares:
    """Answers each `Discover` once, at once or when it is ranked or stored."""

    def __init__(self, registry: Registry, may_serve: Callable[[], bool]) -> None:
        """`may_serve`: whether this node still leads what it led; without its lease it does not know."""
        self._registry = registry
        self._sharing = Sharing(registry)
        self._may_serve = may_serve

    def answer(self, asked: wire.Discover, reply: Reply) -> None:
        """Never raises: what goes wrong is said in the answer."""
        try:
            self._answer(asked, reply)
        except Mq9Error as failure:
            reply(_refusal(asked, failure))
        except Exception:  # a bug in one answer must not end the stream it was asked on
            log.exception("a bug in an answer about agents")
            reply(_refusal(asked, error("INTERNAL")))

    def _answer(self, asked: wire.Discover, reply: Reply) -> None:
        if not self._may_serve():
            raise error("UNAVAILABLE", reason="this node has lost touch with its cluster")
        if asked.kind == wire.Discover.WEIGH:
            found = self._sharing.weigh(parse_discover(asked.body).query)
            reply(wire.Discovered(request=asked.request, documents=found.documents, frequencies=found.with_term))
        elif asked.kind == wire.Discover.RANK:
            self._rank(asked, reply)
        elif asked.kind == wire.Discover.SHOW:
            wanted = list(zip(asked.names, asked.scores, strict=True))
            items = self._sharing.show(parse_discover(asked.body), wanted, brief=asked.brief)
            sizes = [item.size for item in items]
            slots = pack_slots(self._registry.slots)
            reply(wire.Discovered(request=asked.request, items=[item.json for item in items], sizes=sizes, slots=slots))
        elif asked.kind == wire.Discover.FIND:
            agent = self._sharing.find(asked.names[0])
            answer = wire.Discovered(request=asked.request, slots=pack_slots(self._registry.slots))
            if agent is not None:
                answer.names.append(agent.name)
                answer.orders.append(agent.order)
            reply(answer)
        else:
            self._change(asked, reply)

    def _rank(self, asked: wire.Discover, reply: Reply) -> None:
        question = by_mode(parse_discover(asked.body), asked.mode)
        frequencies = Frequencies(asked.documents, tuple(asked.frequencies)) if asked.documents else None
        ask = Ask(question, asked.needed, asked.depth, asked.newest, frequencies, _vectors(asked))

        def ranked(share: Share) -> None:
            if self._may_serve():
                reply(pack_share(asked.request, share))
            else:
                failed(error("UNAVAILABLE", reason="this node has lost touch with its cluster"))

        def failed(failure: Mq9Error) -> None:
            reply(_refusal(asked, failure))

        self._sharing.rank(ask, ranked, failed)

    def _change(self, asked: wire.Discover, reply: Reply) -> None:
        def changed(failure: Mq9Error | None) -> None:
            reply(wire.Discovered(request=asked.request) if failure is None else _refusal(asked, failure))

        change = self._registry.report if asked.kind == wire.Discover.REPORT else self._registry.unregister
        change(asked.body, changed, asked.names[0])


def _refusal(asked: wire.Discover, failure: Mq9Error) -> wire.Discovered:
    return wire.Discovered(request=asked.request, error=failure.code, text=failure.text)


def _vectors(asked: wire.Discover) -> QueryVectors | None:
    """The vectors of the query that came along, if they are whole rows of their space."""
    dimensions = asked.space.rpartition("/")[2]
    if not asked.vectors or not dimensions.isdecimal() or not int(dimensions) or len(asked.vectors) % (2 * int(dimensions)):
        return None
    return QueryVectors(asked.space, asked.vectors)


def pack_share(request: int, share: Share) -> wire.Discovered:
    """A share as it travels."""
    return wire.Discovered(
        request=request,
        slots=pack_slots(share.slots),
        names=[found.name for found, _ in share.hits],
        orders=[found.order for found, _ in share.hits],
        scores=[score for _, score in share.hits],
        complete=share.complete,
        total=share.total,
        mode=share.mode,
        newest=share.newest,
        loading=share.loading,
    )


def unpack_share(answer: wire.Discovered) -> Share:
    """The inverse; what does not fit together is cut off."""
    founds = map(Found, answer.names, answer.orders)
    return Share(
        hits=list(zip(founds, answer.scores, strict=False)),
        complete=answer.complete,
        total=answer.total,
        mode=answer.mode,
        newest=answer.newest,
        loading=answer.loading,
        slots=unpack_slots(answer.slots),
    )


def pack_slots(slots: Iterable[int]) -> bytes:
    """A set of slots, one bit each."""
    bits = 0
    for slot in slots:
        bits |= 1 << slot
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def unpack_slots(packed: bytes) -> frozenset[int]:
    """The inverse."""
    bits = int.from_bytes(packed, "little")
    return frozenset(slot for slot in range(bits.bit_length()) if bits >> slot & 1)
