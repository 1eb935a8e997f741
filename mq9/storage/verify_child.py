"""The process that reads every byte of a data directory: `python -m mq9.storage.verify_child DIR`, started by verify.py.

It says what it finds as one JSON object a line on standard output, and as its last line that it came to the end. The file
is read without LMDB (`pages.py`), so nothing in it should be able to end this process; should it still, the missing last
line tells.

Looked at: both meta pages; LMDB's own structure, free list included; every page of every table; every record's checksum;
that each table has as many rows as its tree says; that each mailbox has as many messages in each tier, and as many
delayed ones, as its STATE row says.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import lmdb.verify
import msgspec

from mq9.errors import Mq9Error, error
from mq9.storage import layout, records
from mq9.storage.findings import Done, Finding, describe_key, mailbox_of
from mq9.storage.format import COMMIT_KEY, check_format_row
from mq9.storage.interface import Table
from mq9.storage.lmdb_file import DATA_FILE, check_file
from mq9.storage.pages import BadPage, PageReader, Tree

Report = Callable[[Finding], None]

_STRUCTURE_MAX: Final = 20  # messages of LMDB's own verifier; one damaged page brings many


class _Checker:
    """One pass over the file. Tables come in the order of their numbers, so STATE is known before MESSAGE is read."""

    def __init__(self, directory: Path, report: Report) -> None:
        self._path = directory / DATA_FILE
        self._report = report
        self._rows: dict[str, int] = {}
        self._damaged: Finding | None = None  # a run of damaged records that may still grow
        self._states: dict[int, records.MailboxState] = {}
        self._counts: dict[int, list[int]] = {}  # mailbox -> rows of MESSAGE by tier, then rows of DELAYED
        self._trash: set[int] = set()
        self._txn = 0
        self._notes: dict[Table, Callable[[bytes, bytes], None]] = {
            Table.META: self._note_meta,
            Table.STATE: self._note_state,
            Table.MESSAGE: self._note_message,
            Table.DELAYED: self._note_delayed,
            Table.TRASH: self._note_trash,
        }
        self._state_damaged = False  # then a mailbox without a STATE row is no finding of its own

    def run(self) -> Done:
        try:
            meta = check_file(self._path)
        except Mq9Error as failure:
            self._report(Finding("file", failure.text.removeprefix("damaged data: ")))
            return Done({}, 0)
        reader = PageReader(self._path, meta)
        trees = reader.tables(lambda page: self._report(Finding("page", f"page {page.page} (tables): {page.reason}")))
        self._txn = meta.txnid
        for table in Table:
            tree = trees.get(table.name.encode())
            if tree is None:
                self._report(Finding("file", f"{DATA_FILE} has no table {table.name}", table=table.name))
            else:
                self._check_table(table, reader, tree)
        self._check_counts()
        reader.close()
        self._check_structure()  # last: the findings above say more about whom a damaged page concerns
        return Done(self._rows, len(self._states))

    def _check_structure(self) -> None:
        """What LMDB's own verifier says: above all that no page in use is listed as free, or in use twice."""
        try:
            problems = lmdb.verify.verify(str(self._path))  # type: ignore[no-untyped-call]  # its stub lacks this module
        except lmdb.verify.VerifyError as failure:
            problems = [str(failure)]
        for problem in problems[:_STRUCTURE_MAX]:
            self._report(Finding("structure", problem))
        if len(problems) > _STRUCTURE_MAX:
            self._report(Finding("structure", f"and {len(problems) - _STRUCTURE_MAX} more", count=len(problems) - _STRUCTURE_MAX))

    # --- Tables -------------------------------------------------------------------------------------------------

    def _check_table(self, table: Table, reader: PageReader, tree: Tree) -> None:
        found = 0
        bad_pages = 0

        def bad(page: BadPage) -> None:
            nonlocal bad_pages
            bad_pages += 1
            self._flush()
            self._report(_bad_page(table, page))

        note = self._notes.get(table)
        for key, value in reader.rows(tree, bad):
            found += 1
            try:
                if note is not None:
                    note(key, value)
                records.unseal(key, value)
            except (Mq9Error, struct.error) as failure:
                self._damaged_record(table, key, failure)
        self._flush()
        self._rows[table.name] = found
        if table == Table.STATE and bad_pages:
            self._state_damaged = True
        if found != tree.entries:
            missing = tree.entries - found
            word = "missing" if missing > 0 else "too many"
            self._report(
                Finding("count", f"{abs(missing)} of {tree.entries} rows are {word}", table=table.name, count=abs(missing))
            )

    def _damaged_record(self, table: Table, key: bytes, failure: Exception) -> None:
        """Neighbouring damaged records of one mailbox are one finding with a range."""
        if table == Table.STATE:
            self._state_damaged = True
        mailbox = mailbox_of(table, key)
        last = self._damaged
        if last is not None and last.table == table.name and last.mailbox == mailbox:
            last.count += 1
            last.last = describe_key(table, key)
            return
        self._flush()
        where = describe_key(table, key)
        detail = failure.text.removeprefix("damaged data: ") if isinstance(failure, Mq9Error) else str(failure)
        self._damaged = Finding("record", detail, table=table.name, mailbox=mailbox, first=where, last=where)

    def _flush(self) -> None:
        if self._damaged is not None:
            self._name(self._damaged)
            self._report(self._damaged)
            self._damaged = None

    # --- What the rows of a table add up to ---------------------------------------------------------------------

    # Each is given a row before its checksum is looked at: a damaged message is damaged, not missing.

    def _note_meta(self, key: bytes, value: bytes) -> None:
        if key == layout.FORMAT_KEY:
            check_format_row(value, DATA_FILE)
        elif key == COMMIT_KEY:
            number = layout.unpack_u64(records.unseal(key, value))
            if number != self._txn:
                self._report(Finding("file", f"{DATA_FILE} names transaction {self._txn} but holds transaction {number}"))

    def _note_state(self, key: bytes, value: bytes) -> None:
        self._states[layout.unpack_u64(key)] = records.unpack_state(key, value)

    def _note_message(self, key: bytes, value: bytes) -> None:
        mailbox, tier, _ = layout.unpack_message_key(key)
        if tier >= layout.TIERS:
            raise error("DATA_DAMAGED", reason=f"record {key.hex()} is of tier {tier}")
        self._counts.setdefault(mailbox, [0] * (layout.TIERS + 1))[tier] += 1

    def _note_delayed(self, key: bytes, value: bytes) -> None:
        self._counts.setdefault(layout.unpack_delayed_key(key)[0], [0] * (layout.TIERS + 1))[layout.TIERS] += 1

    def _note_trash(self, key: bytes, value: bytes) -> None:
        self._trash.add(layout.unpack_u64(key))

    def _check_counts(self) -> None:
        for mailbox, state in self._states.items():
            found = self._counts.pop(mailbox, [0] * (layout.TIERS + 1))
            for tier, (has, should) in enumerate(zip(found, (*state.counts, state.delayed), strict=True)):
                if has != should:
                    self._report_count(mailbox, tier, has, should)
        if self._state_damaged:
            return
        for mailbox, found in self._counts.items():
            if mailbox not in self._trash:
                self._report(Finding("count", "messages of a mailbox that has no STATE row", mailbox=mailbox, count=sum(found)))

    def _report_count(self, mailbox: int, tier: int, has: int, should: int) -> None:
        table = Table.DELAYED if tier == layout.TIERS else Table.MESSAGE
        what = "delayed messages" if table == Table.DELAYED else f"messages of tier {tier}"
        finding = Finding("count", f"{has} {what} of {should}", table=table.name, mailbox=mailbox, count=abs(should - has))
        self._name(finding)
        self._report(finding)

    def _name(self, finding: Finding) -> None:
        state = self._states.get(finding.mailbox) if finding.mailbox is not None else None
        if state is not None:
            finding.address = state.address.decode("utf-8", "replace")


def _bad_page(table: Table, page: BadPage) -> Finding:
    first = describe_key(table, page.low) if page.low else "the start"
    last = describe_key(table, page.high) if page.high is not None else "the end"
    mailbox = mailbox_of(table, page.low) if page.low else None
    if page.high is None or mailbox_of(table, page.high) != mailbox:
        mailbox = None  # the page stood for rows of several mailboxes
    return Finding("page", f"page {page.page}: {page.reason}", table=table.name, mailbox=mailbox, first=first, last=last)


def check_directory(directory: Path, report: Report) -> Done:
    """Check `directory` in this process, `report` hearing of every finding."""
    return _Checker(directory, report).run()


def main() -> int:
    """Check the directory named by the first argument. Always exits 0 when it came to the end: findings are output."""
    encoder = msgspec.json.Encoder()
    out = sys.stdout.buffer

    def say(item: Finding | Done) -> None:
        out.write(encoder.encode(item) + b"\n")
        out.flush()

    say(check_directory(Path(sys.argv[1]), say))
    return 0


if __name__ == "__main__":
    sys.exit(main())
