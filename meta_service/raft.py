"""Raft: PySyncObj 0.3.17 with its log, its wire and its unsafe corners replaced. No sockets, no threads, no asyncio.

PySyncObj keeps terms, votes, who leads, what is committed, and the order in which entries are applied. This layer owns
what stock PySyncObj gets wrong (docs/decisions/0008-pysyncobj.md names each defect and the test that holds its fix):

- the log is an LmdbJournal, and nothing leaves that promises an entry before the entry is on disk (`tick`);
- what a follower does with entries (`_receive_append`): it truncates on a conflict of terms only, never below what it applied;
- answers carry their term, votes count once per peer, and a node behind in term learns of it (`_receive_appended`);
- elections are asked for before they are held (`_may_stand`, Raft's PreVote), so a node that was cut off deposes nobody;
- sending has flow control and uses snapshots.py instead of pickled dumps (`_send_to`);
- a node with an empty disk neither votes nor counts until it has seen that it misses nothing (`joining.py`).

It leans on PySyncObj's private names, all of them in contracts.LEANED_ON: a test fails when one of them changes.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.config import FAIL_REASON
from pysyncobj.monotonic import monotonic
from pysyncobj.node import Node
from pysyncobj.syncobj import _COMMAND_TYPE, _RAFT_STATE
from pysyncobj.transport import Transport

from meta_service.contracts import Done, Link, Machine, RaftBroken, Tuning
from meta_service.disk import Disk
from meta_service.frames import Message
from meta_service.joining import Joining
from meta_service.journal import LmdbJournal
from meta_service.snapshot import Snapshots
from mq9 import limits
from mq9.errors import error

log = logging.getLogger(__name__)

REGULAR: Final = bytes([_COMMAND_TYPE.REGULAR])


class _Wire(Transport):  # type: ignore[misc]  # PySyncObj is published without types
    """PySyncObj's idea of a transport: hands its messages to us. What it registers as receivers is not used."""

    def __init__(self, outgoing: Callable[[Node, Message], None]) -> None:
        super().__init__(None, None, None)
        self._outgoing = outgoing

    def send(self, node: Node, message: Message) -> bool:
        self._outgoing(node, message)
        return True


class RaftNode(SyncObj):  # type: ignore[misc]  # PySyncObj is published without types
    """One member. Everything is called from one thread; a storage failure or RaftBroken means: stop the node."""

    def __init__(self, node: str, others: list[str], disk: Disk, machine: Machine, link: Link, tuning: Tuning) -> None:
        self._machine, self._link, self._disk = machine, link, disk
        self._tuning = tuning
        self.journal = LmdbJournal(disk)
        self.journal.before_flush = machine.save
        self._snapshots = Snapshots(disk, lambda: self.journal.flush(force=True))
        self._peers = {name: Node(name) for name in others}
        self._queue: deque[tuple[bytes, Done]] = deque()
        self._held: list[tuple[Node, Message]] = []  # answers that promise what is not on disk yet
        self._votes: set[str] = set()
        self._pre_votes: set[str] = set()
        self._pre_vote_term = 0  # what was asked for
        self._pre_vote_due_s = 0.0
        self._stand_now = False
        self._leader_heard_s = float("-inf")
        self.joining = Joining(disk, self.journal, frozenset(others), 2 * tuning.election_max_s)
        super().__init__(Node(node), list(self._peers.values()), self._conf(), transport=_Wire(self._outgoing))
        self._restore()
        # A leader that fell must not leave its clients waiting; set late so that nothing calls it half made.
        self.conf.onStateChanged = self._state_changed

    def _conf(self) -> SyncObjConf:
        return SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,  # the other way opens a pipe and sends an entry a frame
            appendEntriesPeriod=self._tuning.heartbeat_s,
            raftMinTimeout=self._tuning.election_min_s,
            raftMaxTimeout=self._tuning.election_max_s,
            leaderFallbackTimeout=self._tuning.step_down_s,
            connectionTimeout=3600,  # of PySyncObj's own transport; only checked against the others here
            commandsWaitLeader=False,
            dynamicMembershipChange=False,  # its guard against two changes at once is dead code: members are fixed
            journalFile=None,
            fullDumpFile=None,
            useFork=False,
        )

    def _restore(self) -> None:
        """Put what the disk holds where PySyncObj has just put an empty log."""
        self._SyncObj__raftLog = self.journal
        self._SyncObj__raftCurrentTerm = max(self.journal.getCurrentTerm(), self.journal.last_term)
        self._SyncObj__votedForNodeId = self.journal.getVotedForNodeId()
        applied = max(self._machine.applied, 1)
        self._SyncObj__raftLastApplied = applied
        self._SyncObj__raftCommitIndex = max(min(self.journal.getRaftCommitIndex(), self.journal.last_index), applied)
        if self.journal.term_at(applied) is None:
            raise error("DATA_DAMAGED", reason=f"the state is of entry {applied}, which the journal does not have")

    # --- What others ask ------------------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return bool(self._SyncObj__raftState == _RAFT_STATE.LEADER)

    @property
    def hears_leader(self) -> bool:
        """Whether this node leads, or heard of its leader lately. One that is alone keeps the name of its last leader, because
        it stands for election only when a majority would have it."""
        return self.is_leader or monotonic() - self._leader_heard_s < 2 * self._tuning.election_max_s

    @property
    def leader(self) -> str:
        """Who leads as far as this node knows; empty: nobody."""
        node: Node | None = self._SyncObj__raftLeader
        return "" if node is None else str(node.id)

    @property
    def role(self) -> str:
        if self.joining.active:
            return "joining"
        return ("follower", "candidate", "leader")[self._SyncObj__raftState]

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def connected(self) -> list[str]:
        return sorted(node.id for node in self._SyncObj__connectedNodes)

    def waiting_count(self) -> int:
        """Proposals without an answer."""
        return len(self._queue) + len(self._SyncObj__commandsWaitingCommit)

    def propose(self, command: bytes, done: Done) -> None:
        """Have `command` agreed on. `done` is called from a later `tick`; never, when the answer is lost with a leader."""
        self._queue.append((REGULAR + command, done))

    def peer_connected(self, peer: str) -> None:
        self._SyncObj__onNodeConnected(self._peers[peer])

    def peer_disconnected(self, peer: str) -> None:
        self._SyncObj__onNodeDisconnected(self._peers[peer])

    def step_aside(self) -> None:
        """Ask the peer that has most of the log to stand at once: a leader that is about to stop."""
        self.transferLeadership(None)

    # --- The turn -------------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Do what is due: call it after messages came, after a proposal, and every few milliseconds.

        In order: what was received is made durable, then acknowledged; proposals go into the log; what a majority has is
        committed and applied; entries are sent; the log is made durable while they travel. A leader counts itself for
        an entry only in a later tick, when its own copy is on disk. True: call again at once, peers wait for news.
        """
        self._settle()
        self._checkCommandsToApply()
        if not self._peers:
            self.journal.flush()  # nobody's answer comes in between: this node is the majority
        committed, last = self._SyncObj__raftCommitIndex, self.journal.last_index
        if self.journal.dirty:
            self._SyncObj__newAppendEntriesTime = 0
        self._onTick(0)
        self._settle()
        self.joining.check(self.leader, self.term, self._SyncObj__raftCommitIndex, monotonic())
        moved = bool(self._SyncObj__raftCommitIndex != committed or self.journal.last_index != last)
        if moved:
            self._SyncObj__newAppendEntriesTime = 0  # peers learn in the next turn how far they may apply
        return moved and self.is_leader

    def _settle(self) -> None:
        """One fsync for everything new, then the answers that waited for it."""
        self.journal.flush()
        held, self._held = self._held, []
        for node, message in held:
            self._link.send(node.id, message)

    def make_state_durable(self) -> None:
        """Commit also what was only applied: for readers of the disk."""
        self.journal.flush(force=True)

    def _checkCommandsToApply(self) -> None:  # noqa: N802  # takes the place of PySyncObj's
        for _ in range(len(self._queue)):
            command, done = self._queue.popleft()
            if not self.is_leader:
                done(None, FAIL_REASON.NOT_LEADER)
                continue
            index = self.journal.last_index + 1
            self.journal.add(command, index, self.term)
            self._SyncObj__commandsWaitingCommit[index].append((self.term, done))

    def _SyncObj__doApplyCommand(self, command: bytes) -> Any:  # noqa: N802  # takes the place of PySyncObj's
        kind, index = command[0], self._SyncObj__raftLastApplied + 1
        if kind == _COMMAND_TYPE.REGULAR:
            return self._machine.apply(index, command[1:])
        if kind == _COMMAND_TYPE.NO_OP:
            return self._machine.apply(index, None)
        raise RaftBroken(f"entry {index} is of kind {kind}, which nobody proposes")

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802  # takes the place of PySyncObj's
        """Drop the journal's prefix once it is long. The state and the drop are in one transaction."""
        is_large = self.journal.bytes >= limits.META_LOG_BYTES_MAX
        if len(self.journal) < self._tuning.log_entries_max and not is_large:
            return
        applied = self._SyncObj__raftLastApplied  # the machine's, or 1 when it has seen nothing yet
        kept = 1 if is_large else self._tuning.log_entries_kept
        position = max(applied - kept, self.journal.first_index) - self.journal.first_index
        if self.journal.term_at(applied) is None:
            raise RaftBroken(f"the journal lost entry {applied}, the last that was applied")
        if position > 0:
            log.info("dropping %d journal entries before %d", position, self.journal.first_index + position)
            self.journal.deleteEntriesTo(position)
            self.journal.flush()

    def _state_changed(self, old: int, new: int) -> None:
        log.info("%s is now %s in term %d", self.selfNode.id, ("follower", "candidate", "leader")[new], self.term)
        if old == _RAFT_STATE.LEADER:
            self.fail_waiting()

    def fail_waiting(self) -> None:
        """This node leads no longer, or stops. Nobody knows what becomes of the entries that are waited for; whoever waits
        asks again with the same request id."""
        waiting = self._SyncObj__commandsWaitingCommit
        callbacks = [done for index in sorted(waiting) for _, done in waiting[index]]
        waiting.clear()
        for done in callbacks:
            done(None, FAIL_REASON.UNKNOWN_OUTCOME)

    # --- Sending --------------------------------------------------------------------------------------------------

    def _outgoing(self, node: Node, message: Message) -> None:
        """What PySyncObj itself sends: votes and requests for them."""
        if message["type"] == "request_vote":
            self._votes = set()
        self._link.send(node.id, message)

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802  # takes the place of PySyncObj's
        now_s = monotonic()
        self._SyncObj__newAppendEntriesTime = now_s + self._tuning.heartbeat_s
        for node in self._peers.values():
            if node not in self._SyncObj__connectedNodes:
                self._snapshots.cancel(node.id)
                continue
            self._send_to(node, now_s + self._tuning.heartbeat_s)

    def _send_to(self, node: Node, until_s: float) -> None:
        """Everything the peer lacks, as far as it takes it; at least a heartbeat."""
        following = self._SyncObj__raftNextIndex
        sent = 0
        while self._link.has_room(node.id) and (not sent or following[node] <= self.journal.last_index):
            following[node] = min(following[node], self.journal.last_index + 1)
            if following[node] - 1 < self.journal.first_index:
                self._send_snapshot_chunk(node)
            else:
                self._send_entries(node)
            sent += 1
            if monotonic() > until_s:
                return

    def _send_entries(self, node: Node) -> None:
        previous = self._SyncObj__raftNextIndex[node] - 1
        position = previous - self.journal.first_index
        entries, size = [], 0
        for entry in self.journal[position + 1 : position + 1 + limits.META_LOG_ENTRIES_MAX]:
            entries.append(entry)
            size += len(entry[0]) + 16
            if size >= limits.META_APPEND_BYTES_MAX:
                break
        self._SyncObj__raftNextIndex[node] = previous + 1 + len(entries)
        message = self._append_message()
        message.update(prevLogIdx=previous, prevLogTerm=self.journal[position][2], entries=entries)
        self._link.send(node.id, message)

    def _send_snapshot_chunk(self, node: Node) -> None:
        message = self._append_message()
        message["serialized"] = chunk = self._snapshots.next_chunk(node.id)
        self._link.send(node.id, message)
        if chunk.last:
            self._SyncObj__raftNextIndex[node] = chunk.index + 1

    def _append_message(self) -> Message:
        return {
            "type": "append_entries",
            "term": self.term,
            "commit_index": self._SyncObj__raftCommitIndex,
            "last_index": self.journal.last_index,
        }

    def _answer(self, node: Node, next_index: int, *, success: bool = False, reset: bool = False) -> None:
        """Tell the leader where we are, once what that promises is on disk. A joining node promises nothing."""
        message = {"type": "next_node_idx", "term": self.term, "next_node_idx": next_index, "reset": reset}
        self._held.append((node, {**message, "success": success and not self.joining.active}))

    # --- Receiving ------------------------------------------------------------------------------------------------

    def receive(self, peer: str, message: Message) -> None:
        """A message of a peer. Answers leave with the next `tick`."""
        node = self._peers[peer]
        kind = message["type"]
        if kind == "append_entries":
            self._receive_append(node, message)
        elif kind == "next_node_idx":
            self._receive_appended(node, message)
        elif kind == "pre_vote":
            self._receive_pre_vote(node, message)
        elif kind == "pre_vote_granted":
            if message["term"] == self._pre_vote_term:
                self._pre_votes.add(peer)
        elif kind == "timeout_now":
            if peer == self.leader and message["term"] == self.term and not self.joining.active:
                self._stand_now = True
                self._SyncObj__raftElectionDeadline = 0
        elif kind == "response_vote":
            if peer not in self._votes and message["term"] == self.term:
                self._votes.add(peer)
                self._SyncObj__onMessageReceived(node, message)
        elif kind == "request_vote" and not self.joining.active:
            self._SyncObj__onMessageReceived(node, message)

    def _receive_append(self, node: Node, message: Message) -> None:
        if message["term"] < self.term:
            self._answer(node, 1)  # its term tells an old leader that it is one
            return
        self._follow(node, message)
        if "serialized" in message:
            self._receive_snapshot(node, message)
            return
        previous, entries = message["prevLogIdx"], message["entries"]
        if previous > self.journal.last_index:
            self._answer(node, self.journal.last_index + 1, reset=True)
        elif previous < self.journal.first_index:
            # Everything up to our commit index is in every leader's log, so that is a safe place to go on from.
            self._answer(node, self._SyncObj__raftCommitIndex + 1, reset=True)
        elif self.journal.term_at(previous) != message["prevLogTerm"]:
            self._forbid_conflict(previous)
            self._answer(node, self.journal.first_of_term(previous, self._SyncObj__raftCommitIndex + 1), reset=True)
        else:
            self._store(previous, entries)
            matched = previous + len(entries)
            self._commit_up_to(min(message["commit_index"], matched))
            self._answer(node, matched + 1, success=True)

    def _store(self, previous: int, entries: list[tuple[bytes, int, int]]) -> None:
        """Add what is new. What we have already stays, also behind the last of `entries`: a short or repeated message
        says nothing about it. Only an entry of another term at the same place ends the log before it."""
        known = 0
        while known < len(entries) and self.journal.term_at(previous + 1 + known) == entries[known][2]:
            known += 1
        if known == len(entries):
            return
        conflict = previous + 1 + known
        if conflict <= self.journal.last_index:
            self._forbid_conflict(conflict)
            self.journal.deleteEntriesFrom(conflict - self.journal.first_index)
        for entry in entries[known:]:
            self.journal.add(*entry)

    def _forbid_conflict(self, index: int) -> None:
        if index <= self._SyncObj__raftCommitIndex:
            raise RaftBroken(
                f"the leader has another entry {index} than this node, where it is committed: some node of the cluster lost "
                "what it had acknowledged, or runs on the copy of another's disk"
            )

    def _receive_snapshot(self, node: Node, message: Message) -> None:
        snapshot = self._snapshots.take(message["serialized"])
        if snapshot is None:
            self._answer(node, self.journal.last_index + 1)
            return
        index, term = snapshot.index, snapshot.entries[-1][2]
        if index > self._machine.applied and self.journal.term_at(index) != term:
            log.info("taking the snapshot as of entry %d in place of entry %d", index, self._machine.applied)
            self.journal.flush(force=True)  # what comes must be one transaction of its own
            self._machine.install(snapshot)
            self.journal.clear()
            for entry in snapshot.entries:
                self.journal.add(*entry)
            self._SyncObj__raftLastApplied = index
            self._SyncObj__raftCommitIndex = index
            self.journal.setRaftCommitIndex(index)
            self.journal.flush(force=True)
        self._answer(node, max(self._SyncObj__raftCommitIndex, index) + 1, success=True, reset=True)

    def _follow(self, node: Node, message: Message) -> None:
        """The sender leads this term."""
        if message["term"] > self.term:
            self._SyncObj__setCurrentTerm(message["term"], None)
        if self.leader != node.id:
            self._SyncObj__onLeaderChanged()
        self._SyncObj__raftLeader = node
        self._SyncObj__setState(_RAFT_STATE.FOLLOWER)
        self._SyncObj__leaderCommitIndex = message["commit_index"]
        self._leader_heard_s = monotonic()
        self._pre_vote_term = 0  # whatever was granted, was granted because nobody led
        if not self._stand_now:
            self._SyncObj__raftElectionDeadline = self._leader_heard_s + self._SyncObj__generateRaftTimeout()
        self.joining.heard(node.id, message["term"], message["last_index"], self._leader_heard_s)

    def _commit_up_to(self, index: int) -> None:
        if index > self._SyncObj__raftCommitIndex:
            self._SyncObj__raftCommitIndex = index
            self.journal.setRaftCommitIndex(index)

    def _receive_appended(self, node: Node, message: Message) -> None:
        """A follower's answer: it counts in the term it was given in, and a later term ends ours."""
        if message["term"] > self.term:
            self._SyncObj__setCurrentTerm(message["term"], None)
            self._SyncObj__raftLeader = None
            self._SyncObj__setState(_RAFT_STATE.FOLLOWER)
        elif message["term"] == self.term and self.is_leader:
            if message["success"] and message["next_node_idx"] > self.journal.last_index + 1:
                raise RaftBroken(f"{node.id} acknowledges entry {message['next_node_idx'] - 1}, which was never sent")
            self._SyncObj__onMessageReceived(node, message)

    # --- Elections ------------------------------------------------------------------------------------------------

    def _SyncObj__connectedToAnyone(self) -> bool:  # noqa: N802  # takes the place of PySyncObj's
        """PySyncObj asks this when its election timeout is over; it stands for election when the answer is True."""
        return self._may_stand(monotonic())

    def _may_stand(self, now_s: float) -> bool:
        """Whether a majority would vote for this node. Asks the peers, and says False until enough have answered."""
        if self.joining.active:
            return False
        if self._stand_now or not self._peers:
            self._stand_now = False
            return True
        if self._pre_vote_term == self.term + 1 and len(self._pre_votes) + 1 > (len(self._peers) + 1) / 2:
            self._pre_vote_term = 0
            return True
        if now_s >= self._pre_vote_due_s:
            self._pre_votes, self._pre_vote_term = set(), self.term + 1
            self._pre_vote_due_s = now_s + self._tuning.election_min_s * random.uniform(0.3, 0.6)
            for peer in self._peers:
                self._link.send(peer, {"type": "pre_vote", "term": self.term + 1, **self._log_end()})
        return False

    def _log_end(self) -> Message:
        return {"last_log_index": self.journal.last_index, "last_log_term": self.journal.last_term}

    def _receive_pre_vote(self, node: Node, message: Message) -> None:
        if message["term"] <= self.term:
            self._answer(node, 1)  # it is behind: our term lets it ask again with a later one
            return
        theirs = (message["last_log_term"], message["last_log_index"])
        leader_is_fine = self.is_leader or monotonic() - self._leader_heard_s < self._tuning.election_min_s
        if self.joining.active or leader_is_fine or theirs < (self.journal.last_term, self.journal.last_index):
            return
        self._link.send(node.id, {"type": "pre_vote_granted", "term": message["term"]})

    def close(self) -> None:
        """Let go of read transactions; the disk is closed by whoever opened it."""
        self._snapshots.close()
