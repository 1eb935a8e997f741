"""Every transcript against our server; those of core NATS also against nats-server, so that they cannot drift from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeServer
from tests.support.nats_server import NatsServer
from tests.support.raw import RawClient
from tests.support.server import ServerProcess
from tests.transcripts.runner import Run, Transcript, read

FOLDER = Path(__file__).parent
TRANSCRIPTS = [read(path) for path in sorted(FOLDER.glob("*/*.txt"))]


def _name(transcript: Transcript) -> str:
    return transcript.path.relative_to(FOLDER).with_suffix("").as_posix()


every_transcript = pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=_name)
core_transcript = pytest.mark.parametrize(
    "transcript",
    [transcript for transcript in TRANSCRIPTS if transcript.path.parent.name == "core" and not transcript.mq9_only],
    ids=_name,
)


def _run(transcript: Transcript, server: ServerProcess | NatsServer, *, rewriting: bool = False) -> None:
    def dial() -> RawClient:
        if isinstance(server, ServerProcess):
            return server.dial(read_info=False)
        return RawClient(server.host, server.port, read_info=False)

    run = Run(transcript, dial)
    try:
        if rewriting:
            transcript.path.write_text(run.rewrite())
        else:
            run.check()
    finally:
        run.close()


@every_transcript
def test_transcript(transcript: Transcript, shared_server: ServerProcess, start_server: MakeServer, *, rewriting: bool) -> None:
    server = start_server(**transcript.settings) if transcript.settings else shared_server
    _run(transcript, server, rewriting=rewriting)


@core_transcript
def test_nats_server_says_the_same(transcript: Transcript, nats_server: NatsServer, tmp_path: Path) -> None:
    if not transcript.settings:
        _run(transcript, nats_server)
        return
    config = tmp_path / "nats.conf"
    config.write_text("".join(f"{name}: {value}\n" for name, value in transcript.settings.items()))
    own = NatsServer(tmp_path, "-c", str(config)).start()
    try:
        _run(transcript, own)
    finally:
        own.stop()
