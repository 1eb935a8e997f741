"""The official Python client (nats-py), unmodified, against a server: one line a check, `ok NAME` or `not ok NAME: reason`.

    python suite.py URL core|mq9 PREFIX

What each check is for: tests/interop/README.md.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import traceback
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

TIMEOUT_S = 10


class Run:
    """One connection and the checks on it; a check is a coroutine that raises when it fails."""

    def __init__(self, nc: Client, url: str, prefix: str) -> None:
        self.nc = nc
        self.url = url
        self.prefix = prefix

    def subject(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    # --- core ---------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        assert self.nc.is_connected
        assert self.nc.max_payload >= 1024
        await self.nc.flush()

    async def pubsub(self) -> None:
        subscription = await self.nc.subscribe(self.subject("pubsub"))
        for payload in (b"one", b"\x00\xff\r\n", b""):
            await self.nc.publish(self.subject("pubsub"), payload)
            message = await subscription.next_msg(TIMEOUT_S)
            assert message.data == payload

    async def wildcards(self) -> None:
        star = await self.nc.subscribe(self.subject("wild.*.end"))
        rest = await self.nc.subscribe(self.subject("wild.>"))
        await self.nc.publish(self.subject("wild.a.other"), b"1")
        await self.nc.publish(self.subject("wild.a.end"), b"2")
        assert [(await rest.next_msg(TIMEOUT_S)).data for _ in range(2)] == [b"1", b"2"]
        assert (await star.next_msg(TIMEOUT_S)).data == b"2"

    async def settled(self) -> None:
        """Come back when the server has dealt with everything published before. (This client's flush may overtake what it
        published, so a message of our own goes round instead.)"""
        subscription = await self.nc.subscribe(self.subject("settled"))
        await self.nc.publish(self.subject("settled"), b"")
        await subscription.next_msg(TIMEOUT_S)
        await subscription.unsubscribe()

    async def queue(self) -> None:
        first = await self.nc.subscribe(self.subject("queue"), queue="workers")
        second = await self.nc.subscribe(self.subject("queue"), queue="workers")
        for _ in range(200):
            await self.nc.publish(self.subject("queue"), b"job")
        await self.settled()
        assert first.pending_msgs + second.pending_msgs == 200
        assert min(first.pending_msgs, second.pending_msgs) >= 50
        await first.unsubscribe()
        await second.unsubscribe()

    async def request(self) -> None:
        async def answer(message: Msg) -> None:
            await message.respond(b"re: " + message.data)

        service = await self.nc.subscribe(self.subject("service"), cb=answer)
        questions = (b"1", b"2", b"3")
        replies = await asyncio.gather(*(self.nc.request(self.subject("service"), one, TIMEOUT_S) for one in questions))
        assert [reply.data for reply in replies] == [b"re: 1", b"re: 2", b"re: 3"]
        await service.unsubscribe()
        # The other way to ask: an inbox and a subscription for this one request.
        service = await self.nc.subscribe(self.subject("service"), cb=answer)
        reply = await self.nc.request(self.subject("service"), b"4", TIMEOUT_S, old_style=True)
        assert reply.data == b"re: 4"
        await service.unsubscribe()

    async def no_responders(self) -> None:
        try:
            await self.nc.request(self.subject("nobody"), b"", TIMEOUT_S)
        except NoRespondersError:
            return
        raise AssertionError("answered")

    async def headers(self) -> None:
        subscription = await self.nc.subscribe(self.subject("headers"))
        await self.nc.publish(self.subject("headers"), b"x", reply=self.subject("reply"), headers={"Trace": "a", "Other": "b c"})
        message = await subscription.next_msg(TIMEOUT_S)
        assert message.headers == {"Trace": "a", "Other": "b c"}
        assert message.reply == self.subject("reply")

    async def unsub_max(self) -> None:
        subscription = await self.nc.subscribe(self.subject("max"))
        await subscription.unsubscribe(limit=2)
        for _ in range(3):
            await self.nc.publish(self.subject("max"), b"x")
        await self.settled()
        assert subscription.pending_msgs == 2

    async def large(self) -> None:
        subscription = await self.nc.subscribe(self.subject("large"))
        await self.nc.publish(self.subject("large"), bytes(self.nc.max_payload))
        assert len((await subscription.next_msg(TIMEOUT_S)).data) == self.nc.max_payload

    async def drain(self) -> None:
        own = await nats.connect(self.url)
        seen = []

        async def note(message: Msg) -> None:
            seen.append(message.data)

        await own.subscribe(self.subject("drain"), cb=note)
        for _ in range(50):
            await own.publish(self.subject("drain"), b"x")
        await own.drain()
        assert len(seen) == 50
        assert own.is_closed

    # --- mq9 ----------------------------------------------------------------------------------------------------

    async def call(self, command: str, body: Any = b"", headers: dict[str, str] | None = None) -> Any:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await self.nc.request(f"$mq9.AI.{command}", payload, TIMEOUT_S, headers=headers)
        return json.loads(reply.data)

    async def create(self) -> None:
        made = await self.call("MAILBOX.CREATE", {"name": self.prefix})
        assert (made["error"], made["mail_address"], made["is_new"]) == ("", self.prefix, True)
        again = await self.call("MAILBOX.CREATE", {"name": self.prefix})
        assert (again["error"], again["code"]) == (f"mailbox {self.prefix} already exists", "MAILBOX_EXISTS")

    async def send(self) -> None:
        assert (await self.call(f"MSG.SEND.{self.prefix}", b"plain"))["msg_id"] == 1
        headers = {"mq9-priority": "urgent", "Trace": "abc"}
        assert (await self.call(f"MSG.SEND.{self.prefix}", b"hello", headers))["msg_id"] == 2

    async def fetch(self) -> None:
        body = {"group_name": "g", "deliver": "earliest", "encoding": "text"}
        messages = (await self.call(f"MSG.FETCH.{self.prefix}", body))["messages"]
        assert [message["payload"] for message in messages] == ["hello", "plain"]
        assert (messages[0]["priority"], messages[0]["headers"]["Trace"]) == ("urgent", "abc")

    async def stream(self) -> None:
        inbox = self.nc.new_inbox()
        subscription = await self.nc.subscribe(inbox)
        body = {"deliver": "earliest", "config": {"stream": True}}
        await self.nc.publish(f"$mq9.AI.MSG.FETCH.{self.prefix}", json.dumps(body).encode(), reply=inbox)
        hello, plain, end = [await subscription.next_msg(TIMEOUT_S) for _ in range(3)]
        assert (hello.data, plain.data) == (b"hello", b"plain")
        assert hello.headers is not None
        assert hello.headers["mq9-msg-id"] == "2"
        assert end.headers is not None
        assert (end.headers["Status"], end.headers["mq9-count"]) == ("204", "2")

    async def ack(self) -> None:
        assert (await self.call(f"MSG.ACK.{self.prefix}", {"group_name": "g", "msg_id": 1}))["error"] == ""
        body = {"group_name": "g", "config": {"max_wait_ms": 1}}
        assert (await self.call(f"MSG.FETCH.{self.prefix}", body)) == {"error": "", "messages": []}

    async def query(self) -> None:
        messages = (await self.call(f"MSG.QUERY.{self.prefix}", {"limit": 10}))["messages"]
        assert [base64.b64decode(message["payload"]) for message in messages] == [b"plain", b"hello"]

    async def delete(self) -> None:
        assert (await self.call(f"MSG.DELETE.{self.prefix}.1"))["deleted"] is True
        again = await self.call(f"MSG.DELETE.{self.prefix}.1")
        assert (again["error"], again["deleted"]) == ("message not found", False)

    async def register(self) -> None:
        body = {"name": self.subject("agent"), "mailbox": self.prefix, "payload": f"answers to {self.prefix}"}
        assert (await self.call("AGENT.REGISTER", body))["error"] == ""

    async def report(self) -> None:
        assert (await self.call("AGENT.REPORT", {"name": self.subject("agent"), "status": "busy"}))["error"] == ""
        assert (await self.call("AGENT.REPORT", {"name": self.subject("nobody")}))["error"] == "agent not found"

    async def discover(self) -> None:
        reply = await self.call("AGENT.DISCOVER", {"text": self.prefix})
        first = reply["agents"][0]
        assert (reply["error"], first["name"], first["mailbox"]) == ("", self.subject("agent"), self.prefix)

    async def unregister(self) -> None:
        assert (await self.call("AGENT.UNREGISTER", {"name": self.subject("agent")}))["error"] == ""
        assert (await self.call("AGENT.UNREGISTER", {"name": self.subject("agent")}))["error"] == "agent not found"


CORE = (
    Run.connect, Run.pubsub, Run.wildcards, Run.queue, Run.request, Run.no_responders, Run.headers, Run.unsub_max, Run.large,
    Run.drain,
)  # fmt: skip
MQ9 = (
    Run.create, Run.send, Run.fetch, Run.stream, Run.ack, Run.query, Run.delete, Run.register, Run.report, Run.discover,
    Run.unregister,
)  # fmt: skip


async def main(url: str, suite: str, prefix: str) -> int:
    """Run one suite; how many checks failed."""
    nc = await nats.connect(url, name=prefix)
    run = Run(nc, url, prefix)
    failed = 0
    for check in CORE if suite == "core" else MQ9:
        try:
            await check(run)
        except Exception:  # noqa: BLE001  whatever a check raises is its failure, and the next one runs
            failed += 1
            print(f"not ok {check.__name__}: {traceback.format_exc()!r}")
        else:
            print(f"ok {check.__name__}")
    await nc.close()
    return failed


if __name__ == "__main__":
    sys.exit(1 if asyncio.run(main(*sys.argv[1:4])) else 0)
