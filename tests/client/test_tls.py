"""TLS from the client's side, and from the command line's."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

import mq9
from tests.cli.conftest import Cli
from tests.conftest import MakeServer
from tests.support.certificates import Authority
from tests.support.server import ServerProcess


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.fixture
def secure(start_server: MakeServer, authority: Authority) -> ServerProcess:
    """A server that takes clients with a certificate of the authority, over TLS."""
    pair = authority.issue("server")
    return start_server(tls_cert=str(pair.cert), tls_key=str(pair.key), tls_ca=str(authority.cert), tls_verify=True)


def _context(authority: Authority, *, with_certificate: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.cert))
    if with_certificate:
        pair = authority.issue("client")
        context.load_cert_chain(pair.cert, pair.key)
    return context


@pytest.mark.anyio
async def test_a_client_with_a_certificate_is_let_in(secure: ServerProcess, authority: Authority) -> None:
    async with mq9.connect(secure.url, tls=_context(authority, with_certificate=True)) as client:
        mailbox = await client.mailbox_create()
        assert await client.send(mailbox, b"sealed") == 1
    async with mq9.connect(secure.url.replace("nats://", "tls://"), tls=_context(authority, with_certificate=True)) as client:
        assert [message.payload for message in await client.query(mailbox)] == [b"sealed"]


@pytest.mark.anyio
async def test_a_client_without_a_certificate_is_not(secure: ServerProcess, authority: Authority) -> None:
    with pytest.raises(mq9.UnavailableError):
        await mq9.connect(secure.url, tls=_context(authority, with_certificate=False))


@pytest.mark.anyio
async def test_a_server_that_nobody_vouches_for_is_not_talked_to(secure: ServerProcess) -> None:
    with pytest.raises(mq9.UnavailableError, match="certificate verify failed"):
        await mq9.connect(secure.url, user="agent", password="not for strangers")


def test_the_command_line(secure: ServerProcess, authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("operator")
    files = ["--tls-ca", str(authority.cert), "--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
    cli = Cli(secure.url)
    assert cli.ok("mailbox", "create", "tls.box", *files).out == "tls.box\n"
    assert cli("mailbox", "info", "tls.box").code == 3
    variables = {"MQ9_TLS_CA": files[1], "MQ9_TLS_CERT": files[3], "MQ9_TLS_KEY": files[5]}
    assert cli("mailbox", "info", "tls.box", **variables).code == 0
