"""The connection in moments that real sockets do not reproduce on demand."""

from __future__ import annotations

import ssl

from tests.broker.rig import Rig, Wire


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
