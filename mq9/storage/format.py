"""The format of a data directory: a version and the number of slots, written once when the directory is made."""

from __future__ import annotations

from typing import Final

import msgspec

from mq9.errors import error
from mq9.limits import SLOTS
from mq9.storage import records
from mq9.storage.layout import FORMAT_KEY

# To change what is on disk: raise FORMAT_VERSION, keep opening every older version (upgrade it in one transaction or read
# both), and add a directory made by the old version to tests/storage/fixtures. Records have versions of their own.
FORMAT_VERSION: Final = 1
KEY_BYTES_MAX: Final = 511  # what LMDB takes; the memory store holds itself to it too
COMMIT_KEY: Final = b"commit"  # META: u64, the LMDB transaction that wrote it; of LMDB directories only


class Format(msgspec.Struct, frozen=True):
    """Payload of the META row FORMAT_KEY."""

    version: int
    slots: int


def new_format_row() -> bytes:
    """The sealed row of a directory made now."""
    return records.seal(FORMAT_KEY, msgspec.msgpack.encode(Format(FORMAT_VERSION, SLOTS)))


def check_format_row(value: bytes | None, where: str) -> None:
    """Refuse a directory this program cannot serve: DATA_DAMAGED, or STORAGE_FAILED saying what to do."""
    if value is None:
        raise error("DATA_DAMAGED", reason=f"{where} has no format row")
    try:
        found = msgspec.msgpack.decode(records.unseal(FORMAT_KEY, value), type=Format)
    except msgspec.MsgspecError as failure:
        raise error("DATA_DAMAGED", reason=f"the format row of {where} cannot be read: {failure}") from failure
    if found.version > FORMAT_VERSION:
        raise error(
            "STORAGE_FAILED",
            reason=f"{where} has format {found.version}; this program reads up to {FORMAT_VERSION}: use a newer mq9",
        )
    if found.slots != SLOTS:
        raise error("STORAGE_FAILED", reason=f"{where} was made with {found.slots} slots; this program has {SLOTS}")
