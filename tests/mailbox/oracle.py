"""What a mailbox should do, said as plainly as possible: lists and loops, no cursors, no store, no batches."""

from __future__ import annotations

from dataclasses import dataclass, field

TIERS = ("critical", "urgent", "normal", "low")
LEASE_MS = 10_000


@dataclass
class Mail:
    msg_id: int
    tier: int
    payload: bytes
    key: str
    tags: tuple[str, ...]
    expires_ms: int
    create_ms: int


@dataclass
class Held:
    """One message that a group was given. `batch` is the latest reply that carried it, in delivery order."""

    batch: list[int]
    owner: int
    until_ms: float  # the lease; 0: free
    not_before_ms: float = 0
    count: int = 0


@dataclass(frozen=True)
class Ask:
    """A FETCH of a group."""

    owner: int
    count: int
    tags: tuple[str, ...]
    hold: bool


@dataclass
class OracleGroup:
    after: int
    confirmed: set[int] = field(default_factory=set)
    held: dict[int, Held] = field(default_factory=dict)


class Oracle:
    """One mailbox. `now_ms` is passed to everything."""

    def __init__(self) -> None:
        self.mail: dict[int, Mail] = {}
        self.last_id = 0
        self.groups: dict[str, OracleGroup] = {}
        self.sent_ids: dict[str, tuple[int, int]] = {}
        self.delayed: list[tuple[int, int, Mail, int]] = []  # due, order, mail, ttl in ms
        self.order = 0

    # --- sending ------------------------------------------------------------------------------------------------

    def send(self, now_ms: int, mail: Mail, *, delay_ms: int, ttl_ms: int, sent_id: str, window_ms: int) -> tuple[int, bool]:
        if sent_id:
            known = self.sent_ids.get(sent_id)
            if known is not None and known[1] > now_ms:
                return known[0], True
        if delay_ms:
            self.order += 1
            self.delayed.append((now_ms + delay_ms, self.order, mail, ttl_ms))
            answer, duplicate = -1, False
        else:
            answer, duplicate = self.store(now_ms, mail, ttl_ms)
        if sent_id and not duplicate:
            self.sent_ids[sent_id] = (answer, now_ms + window_ms)
        return answer, duplicate

    def store(self, now_ms: int, mail: Mail, ttl_ms: int) -> tuple[int, bool]:
        if mail.key:
            for old in self.live(now_ms):
                if old.key == mail.key:
                    if (old.payload, old.tier, old.tags) == (mail.payload, mail.tier, mail.tags):
                        return old.msg_id, True
                    self.remove(old.msg_id)
        self.last_id += 1
        mail.msg_id = self.last_id
        mail.create_ms = now_ms
        mail.expires_ms = now_ms + ttl_ms if ttl_ms else 0
        self.mail[mail.msg_id] = mail
        return mail.msg_id, False

    def pass_time(self, now_ms: int) -> None:
        due = sorted(entry[:2] for entry in self.delayed if entry[0] <= now_ms)
        for mark in due:
            entry = next(each for each in self.delayed if each[:2] == mark)
            self.delayed.remove(entry)
            self.store(now_ms, entry[2], entry[3])

    # --- reading ------------------------------------------------------------------------------------------------

    def live(self, now_ms: int) -> list[Mail]:
        return [mail for mail in self.mail.values() if not mail.expires_ms or mail.expires_ms > now_ms]

    def query(self, now_ms: int, tags: tuple[str, ...], limit: int) -> list[int]:
        return sorted(mail.msg_id for mail in self.live(now_ms) if set(tags) <= set(mail.tags))[:limit]

    def peek(self, now_ms: int, after: int, count: int) -> list[int]:
        found = [mail for mail in self.live(now_ms) if mail.msg_id > after]
        return [mail.msg_id for mail in sorted(found, key=lambda mail: (mail.tier, mail.msg_id))][:count]

    def start(self, now_ms: int, deliver: str, from_id: int, *, first: bool) -> int:
        if deliver == "earliest":
            return 0
        if deliver == "from_id":
            return min(max(from_id - 1, 0), self.last_id)
        newest = max((mail.msg_id for mail in self.live(now_ms)), default=0)
        return newest - 1 if first and newest else self.last_id

    def fetch(self, now_ms: float, name: str, ask: Ask) -> list[int]:
        group = self.groups[name]
        if not ask.hold:
            self.let_go(ask.owner, [group])
        ready = []
        for mail in self.live(int(now_ms)):
            held = group.held.get(mail.msg_id)
            busy = held is not None and max(held.until_ms, held.not_before_ms) > now_ms
            if mail.msg_id > group.after and mail.msg_id not in group.confirmed and not busy and set(ask.tags) <= set(mail.tags):
                ready.append(mail)
        batch = [mail.msg_id for mail in sorted(ready, key=lambda mail: (mail.tier, mail.msg_id))[: ask.count]]
        for msg_id in batch:
            count_before = group.held[msg_id].count if msg_id in group.held else 0
            group.held[msg_id] = Held(batch, ask.owner, now_ms + LEASE_MS, count=count_before + 1)
        return batch

    # --- confirming ---------------------------------------------------------------------------------------------

    def ack(self, name: str, msg_ids: list[int], mode: str) -> None:
        for msg_id in self.meant(name, msg_ids, mode):
            self.groups[name].confirmed.add(msg_id)
            del self.groups[name].held[msg_id]

    def nack(self, now_ms: float, name: str, msg_ids: list[int], mode: str, delay_ms: int) -> None:
        for msg_id in self.meant(name, msg_ids, mode):
            held = self.groups[name].held[msg_id]
            held.until_ms = 0
            held.not_before_ms = now_ms + delay_ms if delay_ms else 0

    def meant(self, name: str, msg_ids: list[int], mode: str) -> list[int]:
        group = self.groups.get(name)
        if group is None:
            return []
        meant: list[int] = []
        for msg_id in msg_ids:
            held = group.held.get(msg_id)
            if held is None:
                continue
            if mode == "single":
                meant.append(msg_id)
                continue
            before = held.batch[: held.batch.index(msg_id) + 1]
            meant += [each for each in before if each in group.held and group.held[each].batch is held.batch]
        return list(dict.fromkeys(meant))

    # --- taking away --------------------------------------------------------------------------------------------

    def remove(self, msg_id: int) -> None:
        del self.mail[msg_id]
        for group in self.groups.values():
            group.held.pop(msg_id, None)

    def let_go(self, owner: int, groups: list[OracleGroup] | None = None) -> None:
        for group in groups or list(self.groups.values()):
            for held in group.held.values():
                if held.owner == owner:
                    held.until_ms = 0

    def restart(self) -> None:
        for group in self.groups.values():
            group.held.clear()
