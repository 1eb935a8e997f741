"""Coverage-guided fuzzing of the commands with atheris: run by test_fuzz_long.py, or by hand for as long as you like:

    python -m tests.fuzz.fuzz_commands -max_total_time=3600 [CORPUS_DIRECTORY]

An input is a command (one byte), a mailbox (one byte), a header block up to the first zero byte, and a body. One answer
must come, as JSON, and it must never say that we have a bug.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["broker_node", "mq9.protocol", "mq9.registry"]):
    from mq9.testing.broker import InProcessBroker
    from tests.fuzz.requests import TABLE

COMMANDS = sorted(TABLE)
TAILS = (b"box", b"box.1", b"work", b"nobody", b"box.high", b"")

broker = InProcessBroker(embedding="none", max_mailboxes=100)
client = broker.client()
for name in ("box", "work"):
    client.command("MAILBOX.CREATE", {"name": name})


def one_input(data: bytes) -> None:
    """The target."""
    if len(data) < 2:
        return
    command = b".".join(COMMANDS[data[0] % len(COMMANDS)])
    tail = TAILS[data[1] % len(TAILS)]
    lines, _, body = data[2:].partition(b"\0")
    header = b"NATS/1.0\r\n" + lines.replace(b"\n", b"\r\n") + b"\r\n\r\n" if lines else b""
    broker.broker.command(client, b"$mq9.AI." + command + (b"." + tail if tail else b""), b"_INBOX.1.x", header, body)
    broker.advance(61)
    for _, _, payload in client.received:
        assert b'"INTERNAL"' not in payload, payload
    if command not in (b"AGENT.REGISTER", b"AGENT.REPORT", b"AGENT.DISCOVER"):  # the registry's thread may still be at it
        assert client.received, "no answer"
    client.received.clear()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
