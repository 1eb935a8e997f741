"""Damaged files: no wrong body is served, what is damaged is named, and no start loops through crashes."""

from __future__ import annotations

import random
import re
import shutil
import signal
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mq9.errors import StorageError
from mq9.storage import layout, records
from mq9.storage.directory import CRASH_FILE, CRASH_FILE_OLD, LOCK_FILE
from mq9.storage.findings import Finding
from mq9.storage.interface import Batch, Table
from mq9.storage.lmdb_file import DATA_FILE, check_file
from mq9.storage.lmdb_store import LmdbStore
from mq9.storage.verify import Report, verify_directory
from tests.storage import ledger
from tests.storage.conftest import OpenLmdb
from tests.storage.processes import Checker, run

PAGE = 4096
FLIPS = 150
LONG_FLIPS = 10_000


@pytest.fixture
def data(tmp_path: Path, open_lmdb: OpenLmdb) -> Path:
    """A directory that holds the ledger's commits and was closed."""
    directory = tmp_path / "data"
    store = open_lmdb(directory)
    book = ledger.Ledger()
    for _ in range(ledger.COMMITS):
        store.commit(book.next_batch())
    store.close()
    return directory


@pytest.fixture
def pages(data: Path) -> Path:
    return data / DATA_FILE


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def leaf_of(path: Path, table: Table, key: bytes) -> int:
    """The number of the leaf page that holds the row. LMDB leaves older copies of pages behind: those do not count."""
    content = path.read_bytes()
    last = check_file(path).last_page
    for number in [n for n in range(2, last + 1) if key in content[n * PAGE : (n + 1) * PAGE]]:
        overwrite(path, number * PAGE, bytes(PAGE))
        findings = verify_directory(path.parent).findings
        overwrite(path, number * PAGE, content[number * PAGE : (number + 1) * PAGE])
        if any(finding.kind == "page" and finding.table == table.name for finding in findings):
            return number
    raise AssertionError("no page in use holds the row")


def test_a_whole_directory_is_whole(data: Path) -> None:
    report = verify_directory(data)
    assert report.ok, report.lines()
    assert report.exit_code == 0
    assert report.mailboxes == ledger.MAILBOXES
    assert report.rows["STATE"] == ledger.MAILBOXES
    assert report.rows["MESSAGE"] > 20
    assert report.lines() == [report.summary()]


def flip_bits(data: Path, pages: Path, flips: int, seed: int) -> Counter[str]:
    """Flip one bit at a time and look; counts the outcomes. Asserts what must hold of each."""
    rng = random.Random(seed)
    used = (check_file(pages).last_page + 1) * PAGE
    whole = pages.read_bytes()
    lock = (data / LOCK_FILE).read_bytes()
    outcomes: Counter[str] = Counter()
    with Checker("inspect") as checker:
        for _ in range(flips):
            offset, bit = rng.randrange(used), 1 << rng.randrange(8)
            overwrite(pages, offset, bytes([whole[offset] ^ bit]))
            verified, served = (*checker.ask(data, lines=2), "")[:2]
            where = f"offset {offset} bit {bit}: {verified}, {served}"
            findings = int(verified.removeprefix("verify "))
            what = served.split(" ")[0]
            if what == "served":
                wrong, damaged, missing = map(int, served.split(" ")[1:])
                assert wrong == 0, where
                what = "damaged" if damaged else "missing" if missing else "unharmed"
            assert findings or what == "unharmed", f"not named: {where}"
            outcomes[what] += 1
            overwrite(pages, offset, whole[offset : offset + 1])
            (data / LOCK_FILE).write_bytes(lock)
    return outcomes


def test_no_flipped_bit_is_served_and_each_is_named(data: Path, pages: Path) -> None:
    outcomes = flip_bits(data, pages, FLIPS, seed=1)
    assert outcomes["damaged"] > FLIPS // 20, "the control: the flips did reach stored bodies"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_flipped_bit_of_many_is_served(data: Path, pages: Path) -> None:
    outcomes = flip_bits(data, pages, LONG_FLIPS, seed=2)
    assert outcomes["damaged"] > LONG_FLIPS // 20


def test_a_damaged_record_is_named_with_its_mailbox(data: Path, pages: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(data)
    [(key, value), *_] = store.scan(Table.MESSAGE, b"", ledger.END, 1)
    store.close()
    mailbox, tier, msg_id = layout.unpack_message_key(key)
    content = pages.read_bytes()
    for match in re.finditer(re.escape(value[-10:]), content):  # copies in pages that are free now do not matter
        overwrite(pages, match.start(), bytes(10))
    report = verify_directory(data)
    expected = f"mailbox id {mailbox} tier {tier} message {msg_id}"
    assert len(report.findings) == 1, report.lines()
    [finding] = report.findings
    assert (finding.kind, finding.table, finding.mailbox, finding.count) == ("record", "MESSAGE", mailbox, 1)
    assert (finding.first, finding.last) == (expected, expected)
    assert finding.address == f"box{mailbox}"
    assert report.exit_code == 1
    record = open_lmdb(data).get(Table.MESSAGE, key)
    assert record is not None
    with pytest.raises(StorageError, match="checksum"):
        records.unseal(key, record)


def test_a_zeroed_page_is_named_with_its_range_and_count(data: Path, pages: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(data)
    rows = store.scan(Table.MESSAGE, b"", ledger.END, 1 << 30)
    store.close()
    small = [key for key, value in rows if len(value) < 1000]
    page = leaf_of(pages, Table.MESSAGE, small[len(small) // 2])
    overwrite(pages, page * PAGE, bytes(PAGE))
    report = verify_directory(data)
    assert {"page", "count"} <= kinds(report)
    [of_page] = [finding for finding in report.findings if finding.kind == "page"]
    assert of_page.detail == f"page {page}: empty"
    assert of_page.table == "MESSAGE"
    assert of_page.first
    assert of_page.last
    of_mailboxes = [finding for finding in report.findings if finding.kind == "count" and finding.mailbox is not None]
    [of_table] = [finding for finding in report.findings if finding.kind == "count" and finding.mailbox is None]
    assert of_table.count == sum(finding.count for finding in of_mailboxes) > 0
    assert all(finding.address.startswith("box") for finding in of_mailboxes)


def test_a_missing_message_is_noticed_by_its_mailbox_count(data: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(data)
    keys = [key for key, _ in store.scan(Table.MESSAGE, *layout.mailbox_range(2), 2)]
    store._write(_deletes(keys))  # behind the ledger's back: the STATE row keeps its counts
    store.close()
    report = verify_directory(data)
    assert kinds(report) == {"count"}
    assert sum(finding.count for finding in report.findings) == 2
    assert {(finding.mailbox, finding.address) for finding in report.findings} == {(2, "box2")}


def _deletes(keys: list[bytes]) -> Batch:
    batch = Batch()
    for key in keys:
        batch.delete(Table.MESSAGE, key)
    return batch


def test_messages_without_a_state_row_are_noticed_unless_they_are_trash(data: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(data)
    key = layout.pack_u64(3)
    batch = Batch()
    batch.delete(Table.STATE, key)
    store.commit(batch)
    store.close()
    [finding] = verify_directory(data).findings
    assert (finding.kind, finding.mailbox) == ("count", 3)
    store = open_lmdb(data)
    batch = Batch()
    batch.put(Table.TRASH, key, records.seal(key, b""))
    store.commit(batch)
    store.close()
    assert verify_directory(data).ok


def test_a_cut_file_is_refused_by_name(data: Path, pages: Path, open_lmdb: OpenLmdb) -> None:
    size = (check_file(pages).last_page + 1) * PAGE
    for length in (size - 1, size // 2, 2 * PAGE, PAGE, 100, 0):
        with pages.open("r+b") as file:
            file.truncate(length)
        with pytest.raises(StorageError, match="cut short") as refusal:
            open_lmdb(data)
        assert refusal.value.code == "DATA_DAMAGED"
        assert DATA_FILE in refusal.value.text
        assert kinds(verify_directory(data)) == {"file"}


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("damage", [lambda page: bytes(PAGE), lambda page: random.Random(page).randbytes(PAGE)])
def test_a_damaged_meta_page_is_refused_by_name(
    data: Path, pages: Path, open_lmdb: OpenLmdb, page: int, damage: Callable[[int], bytes]
) -> None:
    overwrite(pages, page * PAGE, damage(page))
    with pytest.raises(StorageError, match=f"meta page {page}") as refusal:
        open_lmdb(data)
    assert refusal.value.code == "DATA_DAMAGED"
    assert [finding.kind for finding in verify_directory(data).findings] == ["file"]


def test_an_older_copy_of_the_file_is_refused(data: Path, pages: Path, open_lmdb: OpenLmdb) -> None:
    old = pages.read_bytes()
    store = open_lmdb(data)
    store.commit(ledger.Ledger().next_batch())
    store.close()
    pages.write_bytes(old)
    with pytest.raises(StorageError, match=r"was acknowledged.*older copy.*mq9\.lock"):
        open_lmdb(data)
    (data / LOCK_FILE).unlink()  # what the message says for one who means it
    open_lmdb(data)


def test_a_missing_file_is_not_taken_for_a_new_directory(data: Path, pages: Path, open_lmdb: OpenLmdb) -> None:
    pages.unlink()
    with pytest.raises(StorageError, match="is missing"):
        open_lmdb(data)


def test_a_page_that_kills_the_process_is_refused_at_the_next_start(data: Path, pages: Path, open_lmdb: OpenLmdb) -> None:
    """LMDB believes the size of a large value. A supervisor that starts the server again must not make that a loop."""
    store = open_lmdb(data)
    key, value = next(row for row in store.scan(Table.MESSAGE, b"", ledger.END, 1 << 30) if len(row[1]) > 10_000)
    store.close()
    whole = pages.read_bytes()
    for match in re.finditer(re.escape(struct.pack("=HHHH", len(value), 0, 1, len(key)) + key), whole):
        overwrite(pages, match.start() + 2, struct.pack("=H", 0x7000))  # 1.8 GB: far beyond the end of the file
    first = run("touch", str(data))
    assert first.returncode == -signal.SIGBUS, f"LMDB was expected to read beyond the file: {first.stdout}"
    for _ in range(2):
        again = run("touch", str(data))
        assert again.returncode == 1
        assert "DATA_DAMAGED" in again.stdout
        assert "table MESSAGE" in again.stdout
    pages.write_bytes(whole)
    assert run("touch", str(data)).stdout == "ok\n"
    assert (data / CRASH_FILE_OLD).exists(), "what the process died of is kept"
    assert (data / CRASH_FILE).read_text() == ""


def test_a_file_cut_while_it_is_served_is_refused_at_the_next_start(data: Path, pages: Path) -> None:
    """SIGBUS leaves its mark; the next start sees it and looks, even where the size looks right again."""
    (data / CRASH_FILE).write_text("Fatal Python error: Bus error\n")
    overwrite(pages, leaf_of(pages, Table.META, b"ledger") * PAGE, bytes(PAGE))
    refused = run("touch", str(data))
    assert (refused.returncode, "DATA_DAMAGED" in refused.stdout) == (1, True)


def test_after_a_crash_that_damaged_nothing_the_store_opens(
    data: Path, open_lmdb: OpenLmdb, caplog: pytest.LogCaptureFixture
) -> None:
    (data / CRASH_FILE).write_text("Fatal Python error: Segmentation fault\n")
    store = open_lmdb(data)
    assert ledger.check(store) == ledger.COMMITS
    assert "Segmentation fault" in caplog.text
    assert not (data / CRASH_FILE).exists()


def test_dying_while_opening_makes_the_next_start_look(data: Path, open_lmdb: OpenLmdb, caplog: pytest.LogCaptureFixture) -> None:
    lock = (data / LOCK_FILE).read_bytes()
    (data / LOCK_FILE).write_bytes(lock.replace(b"phase=closed", b"phase=opening"))
    open_lmdb(data).close()
    assert "verifying" in caplog.text


def test_verify_refuses_a_directory_in_use_and_names_the_process(data: Path, open_lmdb: OpenLmdb) -> None:
    open_lmdb(data)
    with pytest.raises(StorageError, match=r"in use by process \d+"):
        verify_directory(data)


def test_verify_says_what_is_no_data_directory(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StorageError, match="not a data directory"):
            verify_directory(path)


def test_verify_takes_a_bare_copy_of_the_data_file(data: Path, pages: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(pages, copy)
    assert verify_directory(copy).ok
    assert [path.name for path in copy.iterdir()] == [DATA_FILE]


def test_any_bytes_at_all_are_reported_and_not_believed(data: Path, pages: Path) -> None:
    """Whole pages of noise, of zeros and of other pages: the walk neither fails nor runs forever."""
    rng = random.Random(7)
    whole = pages.read_bytes()
    last = check_file(pages).last_page
    with Checker("inspect") as checker:
        for number in range(40):
            page = rng.randrange(2, last + 1)
            other = rng.randrange(2, last + 1)
            noise = (rng.randbytes(PAGE), bytes(PAGE), whole[other * PAGE : (other + 1) * PAGE])[number % 3]
            overwrite(pages, page * PAGE, noise)
            verified, served = (*checker.ask(data, lines=2), "")[:2]
            assert verified.startswith("verify ")
            assert verified != "verify 0" or served in ("served 0 0 0", "")
            if served.startswith("served"):
                # Another page of the file holds whole rows, some of them of another day: it takes `verify` to tell.
                assert served.split(" ")[1] == "0" or number % 3 == 2
            overwrite(pages, page * PAGE, whole[page * PAGE : (page + 1) * PAGE])
            (data / LOCK_FILE).unlink()


def test_a_report_is_text_with_a_summary() -> None:
    report = Report(
        Path("/data"), [Finding("record", "fails its checksum", "MESSAGE", 7, "box7", "a", "b", 3)], findings_dropped=2
    )
    assert report.lines() == [
        "record, table MESSAGE, mailbox box7 (id 7), a to b, count 3: fails its checksum",
        "and 2 more findings",
        "3 findings: /data is damaged",
    ]
    assert report.summary().endswith("(and 2 more)")


def test_a_store_that_is_killed_needs_no_look(data: Path, open_lmdb: OpenLmdb, caplog: pytest.LogCaptureFixture) -> None:
    lock = (data / LOCK_FILE).read_bytes()
    (data / LOCK_FILE).write_bytes(lock.replace(b"phase=closed", b"phase=serving"))
    store: LmdbStore = open_lmdb(data)
    assert ledger.check(store) == ledger.COMMITS
    assert "verifying" not in caplog.text
