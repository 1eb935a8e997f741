"""Directories made by every released format must open and say the same as on the day they were made.

A fixture is the data file of a store with one row of every kind, and a text file of what is in it. When FORMAT_VERSION or
a record's version is raised, add one (never rewrite one): python -m tests.storage.test_formats
"""

from __future__ import annotations

import json
import lzma
import shutil
import struct
import sys
import tempfile
from pathlib import Path

import pytest

from mq9.protocol.message import StoredMessage
from mq9.storage import layout, records
from mq9.storage.format import COMMIT_KEY, FORMAT_VERSION
from mq9.storage.interface import Batch, Store, Table
from mq9.storage.layout import FORMAT_KEY
from mq9.storage.lmdb_file import DATA_FILE
from mq9.storage.lmdb_store import LmdbStore
from mq9.storage.verify import verify_directory

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = sorted(int(path.name.removeprefix("v").removesuffix(".json")) for path in FIXTURES.glob("v*.json"))
MAILBOX = layout.mailbox_id(b"box", 1)
MESSAGE = StoredMessage(
    1_700_000_000_000, 1_800_000_000_000, b"NATS/1.0\r\nmq9-key: k\r\n\r\n", b"k", b"a,b", b"_INBOX.1", b"body"
)
STATE = records.MailboxState(7, (1, 0, 0, 0), 150, 1, 1_700_000_000_000, b"box")


def one_of_each() -> Batch:
    """A row of every table, as a broker would write it."""
    batch = Batch()

    def put(table: Table, key: bytes, payload: bytes) -> None:
        batch.put(table, key, records.seal(key, payload))

    message_key = layout.message_key(MAILBOX, 0, 7)
    delayed_key = layout.delayed_key(MAILBOX, 1_800_000_000_000, 1)
    state_key = layout.pack_u64(MAILBOX)
    batch.put(Table.MESSAGE, message_key, records.pack_message(message_key, MESSAGE))
    batch.put(Table.DELAYED, delayed_key, records.pack_message(delayed_key, MESSAGE))
    batch.put(Table.STATE, state_key, records.pack_state(state_key, STATE))
    put(Table.META, layout.SEQUENCE_KEY, layout.pack_u64(1) + layout.pack_u64(1))
    put(Table.MAILBOX, layout.mailbox_key(b"box"), b"\x90")
    put(Table.KEY, layout.key_key(MAILBOX, b"k"), layout.key_row(0, 7))
    put(Table.DEDUP, layout.dedup_key(MAILBOX, b"once"), layout.pack_u64(7))
    put(Table.EXPIRY, layout.expiry_key(0, 1_800_000_000_000, layout.ExpiryKind.MESSAGE, message_key), b"")
    put(Table.GROUP, layout.group_key(MAILBOX, b"workers"), b"\x90")
    put(Table.ACKED, layout.acked_key(MAILBOX, 1, 0, 5), layout.pack_u64(6))
    put(Table.TRASH, layout.pack_u64(MAILBOX + 1), b"")
    put(Table.AGENT, layout.agent_key(b"agent"), b"{}")
    put(Table.AGENT_VECTOR, layout.agent_key(b"agent"), bytes(8))
    return batch


def contents(store: Store) -> dict[str, list[list[str]]]:
    """Every row of every table but the commit row, in hexadecimal."""
    return {
        table.name: [[key.hex(), value.hex()] for key, value in store.scan(table, b"", b"\xff" * 64, 1000) if key != COMMIT_KEY]
        for table in Table
    }


def unpack_fixture(version: int, directory: Path) -> None:
    directory.mkdir()
    (directory / DATA_FILE).write_bytes(lzma.decompress((FIXTURES / f"v{version}.mdb.xz").read_bytes()))


needs_this_machine = pytest.mark.skipif(
    sys.byteorder != "little" or struct.calcsize("P") != 8, reason="LMDB files are of one byte order and word size"
)


@needs_this_machine
@pytest.mark.parametrize("version", VERSIONS)
def test_a_directory_of_every_format_opens_and_holds_what_it_held(version: int, tmp_path: Path) -> None:
    unpack_fixture(version, tmp_path / "data")
    assert verify_directory(tmp_path / "data").ok
    store = LmdbStore(tmp_path / "data", ballast_bytes=0)
    assert contents(store) == json.loads((FIXTURES / f"v{version}.json").read_text())
    key = layout.message_key(MAILBOX, 0, 7)
    state_key = layout.pack_u64(MAILBOX)
    assert records.unpack_message(key, store.get(Table.MESSAGE, key) or b"") == MESSAGE
    assert records.unpack_state(state_key, store.get(Table.STATE, state_key) or b"") == STATE
    store.close()


def test_the_format_of_today_has_a_fixture() -> None:
    assert VERSIONS[-1] == FORMAT_VERSION


def test_what_is_written_today_is_what_the_newest_fixture_holds(tmp_path: Path) -> None:
    """Fails when bytes on disk change without a new format or record version."""
    store = LmdbStore(tmp_path / "data", ballast_bytes=0)
    store.commit(one_of_each())
    assert contents(store) == json.loads((FIXTURES / f"v{VERSIONS[-1]}.json").read_text())
    assert FORMAT_KEY.hex() in [key for key, _ in contents(store)["META"]]
    store.close()


def make_fixture() -> None:
    """Write the fixture of the format of today."""
    FIXTURES.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp())
    store = LmdbStore(directory, ballast_bytes=0)
    store.commit(one_of_each())
    (FIXTURES / f"v{FORMAT_VERSION}.json").write_text(json.dumps(contents(store), indent=1) + "\n")
    store.close()
    packed = lzma.compress((directory / DATA_FILE).read_bytes(), preset=9)
    (FIXTURES / f"v{FORMAT_VERSION}.mdb.xz").write_bytes(packed)
    shutil.rmtree(directory)


if __name__ == "__main__":
    make_fixture()
