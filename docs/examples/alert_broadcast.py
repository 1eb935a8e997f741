"""Alert broadcast: one alert reaches everyone who wants it, also those who come later.

A monitor announces a public mailbox and puts alerts into it. Agents find it in the public directory, by its description, and
subscribe: the pager to what is critical, the logbook to everything. Each gets every alert, nobody takes it away from another.
The analyst comes when it is all over, and gets what is stored, most urgent first.

This is the older, push dialect of the protocol (docs/push.md), spoken with nothing but a NATS client.

    python docs/examples/alert_broadcast.py [URL]
"""

import asyncio
import json
import os
import secrets
import sys

import nats
from nats.aio.client import Client as Nats

URL = os.environ.get("MQ9_URL", "nats://127.0.0.1:4222")
ALERTS = [
    ("normal", "disk of node 3 is 80 % full"),
    ("critical", "node 3 does not answer"),
    ("low", "certificate ends in 30 days"),
    ("urgent", "queue of node 2 grows"),
]


async def connect(url: str) -> Nats:
    """A connection, or an error at once. By itself nats-py goes on trying for a minute, and logs every failure."""
    failures: list[Exception] = []

    async def failed(failure: Exception) -> None:
        failures.append(failure)

    try:
        return await nats.connect(url, max_reconnect_attempts=1, reconnect_time_wait=0.1, error_cb=failed)
    except nats.errors.NoServersError:
        raise ConnectionError(f"cannot connect to {url}: {failures[-1]}") from None


async def monitor(connection: Nats, name: str) -> None:
    """Makes the public mailbox. `mq9 mailbox create --public` does the same."""
    wanted = {"name": name, "public": True, "desc": f"alerts of {name}", "ttl": 600}
    reply = await connection.request("$mq9.AI.MAILBOX.CREATE", json.dumps(wanted).encode(), timeout=5)
    print(f"monitor: announced {json.loads(reply.data)['mail_id']}")


async def find(connection: Nats, desc: str) -> str:
    """The address of the public mailbox with this description, as soon as there is one."""
    directory = await connection.subscribe("$mq9.AI.PUBLIC.LIST")
    try:
        async for message in directory.messages:
            event = json.loads(message.data)
            if event["event"] == "created" and event["desc"] == desc:
                return str(event["mail_id"])
    finally:
        await directory.unsubscribe()
    raise ConnectionError("the connection ended")


async def listen(url: str, who: str, desc: str, priority: str, count: int) -> list[str]:
    """An agent: subscribes to one priority (`*`: to all), and returns the first `count` alerts it gets."""
    connection = await connect(url)
    try:
        address = await find(connection, desc)
        subscription = await connection.subscribe(f"$mq9.AI.MAILBOX.MSG.{address}.{priority}")
        alerts = [await subscription.next_msg(timeout=30) for _ in range(count)]
    finally:
        await connection.close()
    words = [f"{(alert.headers or {})['mq9-priority']}: {alert.data.decode()}" for alert in alerts]
    for word in words:
        print(f"{who}: {word}")
    return words


async def main(url: str = URL) -> None:
    """Two agents wait before there is anything to hear, the monitor speaks, and one agent comes late."""
    name = f"alerts.{secrets.token_hex(4)}"
    desc = f"alerts of {name}"
    connection = await connect(url)
    async with asyncio.TaskGroup() as agents:
        pager = agents.create_task(listen(url, "pager", desc, "critical", 1))
        logbook = agents.create_task(listen(url, "logbook", desc, "*", len(ALERTS)))
        await monitor(connection, name)
        for priority, text in ALERTS:
            # With a reply subject the broker answers with the id, once the alert is on disk.
            await connection.request(f"$mq9.AI.MAILBOX.MSG.{name}.{priority}", text.encode(), timeout=5)
    analyst = await listen(url, "analyst", desc, "*", len(ALERTS))
    await connection.close()
    heard = f"pager heard {len(pager.result())}, logbook {len(logbook.result())}, late analyst {len(analyst)}"
    print(f"result: {len(ALERTS)} alerts; {heard}, {analyst[0].partition(':')[0]} first")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
