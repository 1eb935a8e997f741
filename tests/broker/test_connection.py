"""The connection in moments that real sockets do not reproduce on demand."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path
from typing import Any

from broker_node.connection import Connection
from mq9.testing.broker import InProcessBroker
from tests.broker.rig import Rig, Wire

HELLO = b'CONNECT {"verbose":false,"headers":true}\r\n'
WORK = b"SUB $mq9.AI.MAILBOX.MSG.box.* workers 1\r\n"


def test_a_client_quicker_than_the_end_of_its_handshake_is_answered() -> None:
    """TLS hands out the first commands before the task that waited for the handshake has run."""
    rig = Rig(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert rig.wire.said == b""
    rig.connection.greet_in_clear()
    assert rig.wire.said.startswith(b"INFO ")
    secured = Wire(rig.connection)
    rig.connection.data_received(b'CONNECT {"verbose":false}\r\nPING\r\n')
    rig.loop.run()
    assert secured.said == b""
    rig.connection.secured(secured)
    rig.loop.run()
    assert secured.said == b"PONG\r\n"
    rig.finish()


def test_a_client_that_speaks_before_info_on_a_tls_port_is_cut() -> None:
    rig = Rig(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    rig.connection.data_received(b"CONNECT {}\r\nPING\r\n")
    assert rig.wire.ended
    rig.finish()


def test_a_handshake_that_ends_after_the_client_has_gone_is_cut() -> None:
    rig = Rig(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    rig.connection.greet_in_clear()
    rig.finish()
    secured = Wire(rig.connection)
    rig.connection.secured(secured)
    assert secured.ended


def test_every_turn_of_the_loop_is_one_write() -> None:
    rig = Rig()
    rig.feed(b'CONNECT {"verbose":false}\r\nSUB a 1\r\n')
    rig.loop.run()
    rig.wire.writes = 0
    rig.feed(b"PUB a 1\r\nx\r\n" * 100)
    rig.feed(b"PING\r\n" * 10)
    rig.loop.run()
    assert rig.wire.writes == 1
    rig.finish()


def test_nothing_is_said_after_the_end() -> None:
    rig = Rig()
    rig.feed(b'CONNECT {"verbose":false}\r\nSUB a 1\r\n')
    rig.loop.run()
    (session,) = rig.hub.sessions.values()
    (sub,) = session.subscriptions
    rig.feed(b"BAD\r\n")
    said = bytes(rig.wire.said)
    assert said.endswith(b"-ERR 'Unknown Protocol Operation'\r\n")
    session.receive(sub, b"a", b"", b"", b"late")
    rig.loop.run()
    assert rig.finish() == said
    session.receive(sub, b"a", b"", b"", b"later")
    rig.loop.run()
    assert (rig.connection.pending, rig.connection._out) == (0, [])


# --- What sockets have taken of a queue group's messages ------------------------------------------------------------


def join(rig: Rig) -> tuple[Connection, Wire]:
    """One more connection to the same broker."""
    connection = Connection(rig.hub)
    wire = Wire(connection)
    connection.connection_made(wire)
    connection.data_received(HELLO)
    rig.loop.run()
    return connection, wire


def send(rig: Rig, *jobs: bytes) -> None:
    """Have somebody make the mailbox, and store these in it."""
    sender, _ = join(rig)
    sender.data_received(b'PUB $mq9.AI.MAILBOX.CREATE 14\r\n{"name":"box"}\r\n')
    for job in jobs:
        sender.data_received(b"PUB $mq9.AI.MSG.SEND.box %d\r\n%b\r\n" % (len(job), job))
    rig.loop.run()
    sender.connection_lost(None)
    rig.loop.run()


def let_go(wire: Wire, count: int) -> None:
    """The socket takes so many bytes of what waits, and is full again."""
    wire.said += wire.held[:count]
    del wire.held[:count]


def offered(data: Path, left: Path) -> list[int]:
    """The ids that the group gets of a broker that starts on what this one has written so far, as after a kill."""
    shutil.copytree(data, left)
    broker = InProcessBroker(left, sync=False)
    client = broker.client()
    client.subscribe(b"MAILBOX.MSG.box.*", b"workers")
    broker.close()
    return [int(header.partition(b"mq9-msg-id: ")[2].split()[0]) for _, header, _ in client.received]


def on_disk(directory: Path) -> dict[str, Any]:
    """Settings of a rig that writes there."""
    return {"storage": "lmdb", "data_dir": str(directory), "sync": False, "commit": "inline", "disk_reserve": 0}


def test_of_a_write_that_goes_piece_by_piece_the_pieces_are_noted(tmp_path: Path) -> None:
    """Else a kill hands all of it out again, however long ago the socket took it."""
    rig = Rig(**on_disk(tmp_path / "data"))
    rig.feed(HELLO + WORK)
    rig.loop.run()
    rig.wire.is_full = True
    send(rig, b"one", b"two")
    let_go(rig.wire, rig.wire.held.rindex(b"HMSG"))
    rig.hub.sweep()
    assert offered(tmp_path / "data", tmp_path / "left") == [2]
    rig.finish()


def test_what_stalls_below_tls_is_noted_when_it_has_gone(tmp_path: Path) -> None:
    """The TLS layer took it all and tells nobody when the socket does."""
    rig = Rig(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), **on_disk(tmp_path / "data"))
    rig.connection.greet_in_clear()
    rig.connection.secured(Wire(rig.connection))
    rig.feed(HELLO + WORK)
    rig.loop.run()
    rig.wire.held += bytes(100_000)  # more than what will be said
    send(rig, b"one")
    rig.wire.held.clear()
    rig.hub.sweep()
    assert offered(tmp_path / "data", tmp_path / "left") == []
    rig.finish()


def test_what_a_socket_had_not_taken_at_a_stop_is_not_written_to_it_and_goes_to_another() -> None:
    rig = Rig()
    rig.feed(HELLO + WORK)
    rig.loop.run()
    rig.wire.is_full = True
    send(rig, b"job")
    assert b"job" in rig.wire.held
    (session,) = rig.hub.sessions.values()
    session.retire()
    session.close()
    rig.loop.run()
    other, heir = join(rig)
    other.data_received(WORK)
    rig.loop.run()
    assert heir.said.count(b"job") == 1
    other.connection_lost(None)
    assert b"job" not in rig.finish()
