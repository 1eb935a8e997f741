"""One DISCOVER under way on a node of a cluster: ranked by every node that leads slots, then shown page by page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from broker_node.cluster.registry_shares import unpack_share, unpack_slots
from mq9.errors import Mq9Error, error, from_reply
from mq9.limits import DISCOVER_SHOW_S
from mq9.registry.discovery import FIRST_PAGE_SPARE, Answer
from mq9.registry.jobs import EmbedQuery, Frequencies, QueryVectors
from mq9.registry.paging import KEPT_DEPTH, Order, depth_of
from mq9.registry.replies import REPLY_BYTES_MAX
from mq9.registry.requests import Discover
from mq9.registry.sharing import Found, Item, Share, merge, weights
from mq9.v1 import peer_pb2 as wire

if TYPE_CHECKING:
    from broker_node.cluster.registry_peers import RegistryPeers

KEYWORD: Final = "keyword"

Answers = Sequence[wire.Discovered | None]
_encoder: Final = msgspec.json.Encoder()


class Asking:
    """Ranks, and then has the page shown. `done` is called once."""

    def __init__(self, peers: RegistryPeers, body: bytes, asked: Discover, owner: int, done: Answer) -> None:
        self._peers = peers
        self._body = body
        self._asked = asked
        self._owner = owner
        self._done = done
        self._kept: Order[Found] | None = None
        self._mode = asked.mode
        self._frequencies: Frequencies | None = None
        self._vectors: QueryVectors | None = None
        self._preparing = 0  # answers the ranking waits for
        self._shares: dict[str, Share] = {}
        self._failure: Mq9Error | None = None
        self._deadline_s = 0.0

    def begin(self) -> None:
        """Answer from the order of an earlier page, or rank."""
        peers = self._peers
        peers.asking += 1
        if self._asked.page:
            self._kept = peers.orders.find(self._owner, self._asked, peers.clock.wall_ms())
            if self._kept is not None and self._kept.reaches(self._asked):
                self._show(self._kept)
                return
        nodes = peers.nodes()
        if self._mode == "list" or len(nodes) == 1:
            self._begin_ranking()
            return
        self._preparing = 1
        if self._mode != KEYWORD and peers.registry.background.engine is not None:
            self._preparing = 2
            peers.registry.background.ask(EmbedQuery(self._asked.query, self._embedded))
        question = wire.Discover(kind=wire.Discover.WEIGH, body=self._body)
        peers.ask_all([(node, question) for node in nodes], peers.deadline_s(), self._weighed)

    def _weighed(self, answers: Answers) -> None:
        self._frequencies = weights(
            [Frequencies(answer.documents, tuple(answer.frequencies)) for answer in answers if answer is not None]
        )
        self._prepared()

    def _embedded(self, vectors: QueryVectors | None) -> None:
        self._vectors = vectors
        self._prepared()

    def _prepared(self) -> None:
        self._preparing -= 1
        if not self._preparing:
            self._begin_ranking()

    # --- Ranking ----------------------------------------------------------------------------------------------

    def _begin_ranking(self) -> None:
        self._deadline_s = self._peers.deadline_s()
        self._rank(self._peers.nodes())

    def _rank(self, nodes: Sequence[str]) -> None:
        needed = depth_of(self._asked)
        question = wire.Discover(
            kind=wire.Discover.RANK,
            body=self._body,
            mode=self._mode,
            needed=needed,
            depth=max(needed, KEPT_DEPTH) if self._asked.page or self._mode == "list" else needed + FIRST_PAGE_SPARE,
            newest=self._kept.newest if self._kept is not None else 0,
        )
        if self._frequencies is not None:
            question.documents = self._frequencies.documents
            question.frequencies.extend(self._frequencies.with_term)
        if self._vectors is not None:
            question.space, question.vectors = self._vectors.space, self._vectors.data
        self._peers.ask_all([(node, question) for node in nodes], self._deadline_s, partial(self._ranked, nodes))

    def _ranked(self, nodes: Sequence[str], answers: Answers) -> None:
        for node, answer in zip(nodes, answers, strict=True):
            if answer is None:
                continue
            if answer.error:
                self._failure = from_reply(answer.error, answer.text)
            else:
                self._shares[node] = unpack_share(answer)
        is_late = self._peers.closed or self._peers.clock.monotonic_s() >= self._deadline_s
        if self._missing() and not is_late:
            self._peers.ask_again(self._rank_missing)
            return
        # Scores by keyword and by meaning do not mix: if somebody could only rank by keyword, then all do.
        modes = {share.mode for share in self._shares.values() if share.hits}
        if self._mode != KEYWORD and KEYWORD in modes:
            self._mode = KEYWORD
            if len(modes) > 1 and not is_late:
                self._shares = {}
                self._rank(self._peers.nodes())
                return
        self._merge()

    def _missing(self) -> set[int]:
        covered = {slot for share in self._shares.values() for slot in share.slots}
        return set(range(self._peers.view.slots)) - covered

    def _rank_missing(self) -> None:
        """Ask those who lead by now what nobody has answered for."""
        leaders = self._peers.view.leaders()
        nodes = sorted({leaders[slot] for slot in self._missing() if slot in leaders})
        if nodes and not self._peers.closed:
            self._rank(nodes)
        else:
            self._ranked((), ())

    def _merge(self) -> None:
        shares = [share for share in self._shares.values() if share.slots]
        if not shares:
            self._fail(self._failure or error("UNAVAILABLE", reason="no broker that has agents could be asked"))
            return
        order = merge(shares, self._mode, self._peers.clock.wall_ms())
        order.partial = bool(self._missing()) or any(share.loading for share in shares)
        whole = order if self._kept is None else self._kept.extend(order)
        self._peers.orders.keep(self._owner, self._asked, whole)
        self._show(whole)

    # --- The end ----------------------------------------------------------------------------------------------

    def _show(self, order: Order[Found]) -> None:
        def shown(items: list[bytes], is_whole: bool) -> None:
            reply = {
                "error": "",
                "agents": [msgspec.Raw(item) for item in items],
                "total": order.total,
                "page": self._asked.page + 1,
                "limit": self._asked.limit,
                "mode": order.mode,
            }
            if order.partial or not is_whole:
                reply["partial"] = True
            self._peers.asking -= 1
            self._done(None, _encoder.encode(reply))

        Showing(self._peers, self._body, order.page(self._asked), shown).step()

    def _fail(self, failure: Mq9Error) -> None:
        self._peers.asking -= 1
        self._done(failure, b"")


class Showing:
    """The agents of one page, from the nodes that have them, in as many questions as their size takes.

    As on a single node a reply holds so many bytes of bodies; agents further down come without theirs.
    """

    def __init__(
        self,
        peers: RegistryPeers,
        body: bytes,
        hits: Sequence[tuple[Found, float]],
        done: Callable[[list[bytes], bool], None],
    ) -> None:
        """`done` gets the agents in JSON, and whether all were asked for in vain or not."""
        self._peers = peers
        self._body = body
        self._hits = hits
        self._done = done
        self._full: dict[str, Item] = {}
        self._brief: dict[str, Item] = {}
        self._lost: set[str] = set()  # not to be had in time
        self._deadline_s = peers.clock.monotonic_s() + DISCOVER_SHOW_S

    def step(self) -> None:
        """Ask for what is missing, or be done."""
        items, wanted = self._look()
        if not wanted:
            self._done(items, not self._lost)
            return
        groups = list(wanted.items())
        questions = []
        for (node, brief), hits in groups:
            names, scores = [name for name, _ in hits], [score for _, score in hits]
            question = wire.Discover(kind=wire.Discover.SHOW, body=self._body, names=names, scores=scores, brief=brief)
            questions.append((node, question))
        self._peers.ask_all(questions, self._deadline_s, partial(self._answered, groups))

    def _look(self) -> tuple[list[bytes], dict[tuple[str, bool], list[tuple[str, float]]]]:
        """What there is to show, and what is still to be asked for: by node, and whether without bodies."""
        items: list[bytes] = []
        wanted: dict[tuple[str, bool], list[tuple[str, float]]] = {}
        room = REPLY_BYTES_MAX
        for found, score in self._hits:
            name = found.name
            full = self._full.get(name)
            room -= full.size if full is not None else 0
            item = full if room >= 0 else self._brief.get(name)
            if item is not None:
                items.append(item.json)
            elif name not in self._lost:
                node = self._peers.leader_of(name)
                wanted.setdefault((node, room < 0), []).append((name, score))
        return [item for item in items if item], wanted

    def _answered(self, groups: Sequence[tuple[tuple[str, bool], list[tuple[str, float]]]], answers: Answers) -> None:
        for ((_, brief), hits), answer in zip(groups, answers, strict=True):
            if answer is None or answer.error or not answer.items:
                self._lost.update(name for name, _ in hits)
                continue
            into = self._brief if brief else self._full
            slots = unpack_slots(answer.slots)
            for (name, _), item, size in zip(hits, answer.items, answer.sizes, strict=False):
                if not item and self._peers.slot_of(name) not in slots:
                    self._lost.add(name)  # not gone: its slot has moved since it was ranked
                else:
                    into[name] = Item(item, size)
        self.step()
