"""What a data directory says of the cluster it belongs to: an id of its own, and the cluster's."""

from __future__ import annotations

import secrets
from typing import Final

from mq9.errors import error
from mq9.storage.interface import Batch, Store, Table
from mq9.storage.layout import SEQUENCE_KEY
from mq9.storage.records import seal, unseal

DISK_KEY: Final = b"disk_id"  # META: 16 random bytes, made with the directory
CLUSTER_KEY: Final = b"cluster_id"  # META: the cluster whose slots are in here


def disk_id(store: Store) -> bytes:
    """The directory's id, made now if it is new: a node that comes back with another has lost what it had.

    Raises INVALID_REQUEST for the directory of a single node, whose mailboxes no cluster knows.
    """
    known = _read(store, DISK_KEY)
    if known:
        return known
    if store.get(Table.META, SEQUENCE_KEY) is not None:
        raise error("INVALID_REQUEST", reason="the data directory is that of a single node; a member of a cluster needs its own")
    made = secrets.token_bytes(16)
    _write(store, DISK_KEY, made)
    return made


def join(store: Store, cluster_id: bytes) -> None:
    """The node is in this cluster, for ever. Raises INVALID_REQUEST when the directory is another's."""
    known = _read(store, CLUSTER_KEY)
    if not known:
        _write(store, CLUSTER_KEY, cluster_id)
    elif known != cluster_id:
        raise error("INVALID_REQUEST", reason="the data directory belongs to another cluster")


def check_single(store: Store) -> None:
    """Raises INVALID_REQUEST for the directory of a member of a cluster: alone, it would go another way than the others."""
    if _read(store, DISK_KEY):
        raise error(
            "INVALID_REQUEST", reason="the data directory is that of a member of a cluster; --node-id and --meta are missing"
        )


def _read(store: Store, key: bytes) -> bytes:
    row = store.get(Table.META, key)
    return unseal(key, row) if row is not None else b""


def _write(store: Store, key: bytes, value: bytes) -> None:
    batch = Batch()
    batch.put(Table.META, key, seal(key, value))
    store.commit(batch)
