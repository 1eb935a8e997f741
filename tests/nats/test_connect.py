"""The JSON of CONNECT: every field optional, unknown ones ignored, nothing but a ProtocolError for the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9.nats import connect
from mq9.nats.connect import ConnectOptions
from mq9.nats.frames import ProtocolError


def test_defaults_are_those_of_nats_server() -> None:
    options = connect.decode(b"{}")
    assert (options.is_verbose, options.is_pedantic, options.wants_echo) == (True, True, True)
    assert not options.headers
    assert not options.no_responders


def test_null_is_absent_and_unknown_fields_are_ignored() -> None:
    options = connect.decode(b'{"verbose":null,"user":null,"pass":null,"jwt":"x","deep":[[{}]],"protocol":1}')
    assert options == ConnectOptions(protocol=1)


def test_what_a_client_says() -> None:
    options = connect.decode(b'{"verbose":false,"pedantic":false,"echo":false,"user":"u","pass":"p","auth_token":"t","name":"n"}')
    assert (options.is_verbose, options.is_pedantic, options.wants_echo) == (False, False, False)
    assert (options.user, options.password, options.auth_token, options.name) == ("u", "p", "t", "n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"1",
        b'{"verbose":"yes"}',
        b'{"user":1}',
        b'{"name":"\xff"}',
        b'{"verbose":false',
        b"[" * 4000,
        b'{"a":' * 800,
    ],
)
def test_everything_else_is_a_parser_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="Parser Error"):
        connect.decode(body)


@pytest.mark.fuzz
@given(st.binary(max_size=60) | st.text('{}[]":,abc0123\\u ', max_size=60).map(str.encode))
def test_only_a_protocol_error_leaves_the_decoder(body: bytes) -> None:
    """Fuzz target: any body of a CONNECT."""
    try:
        connect.decode(body)
    except ProtocolError:
        return
