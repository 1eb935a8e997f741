"""The options of CONNECT: every field optional, unknown ones ignored, null the same as absent."""

from __future__ import annotations

import msgspec

from mq9.nats.frames import PARSER_ERROR, ProtocolError


class ConnectOptions(msgspec.Struct, frozen=True, gc=False):
    """Defaults are those of nats-server for a client that leaves the field out (verbose and pedantic are on)."""

    verbose: bool | None = None
    pedantic: bool | None = None
    echo: bool | None = None
    headers: bool | None = None
    no_responders: bool | None = None
    tls_required: bool | None = None
    user: str | None = None
    password: str | None = msgspec.field(name="pass", default=None)
    auth_token: str | None = None
    name: str | None = None
    lang: str | None = None
    version: str | None = None
    protocol: int | None = None

    @property
    def is_verbose(self) -> bool:
        """Whether every good frame is answered with +OK."""
        return self.verbose is not False

    @property
    def is_pedantic(self) -> bool:
        """Whether published subjects are checked and complained about."""
        return self.pedantic is not False

    @property
    def wants_echo(self) -> bool:
        """Whether a client gets what it published itself."""
        return self.echo is not False


_decode = msgspec.json.Decoder(ConnectOptions).decode


def decode(body: bytes) -> ConnectOptions:
    """The options in the JSON object of a CONNECT. Raises ProtocolError for anything else."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as failure:  # nesting and bad UTF-8 have types of their own
        raise ProtocolError(PARSER_ERROR) from failure
