"""Offline edge commands: a device that is hardly ever online does what was asked meanwhile, most urgent first.

A controller sends commands to a pump that is offline. The pump gets a window: it carries out the two most urgent commands,
takes the third, and loses power. In the next window that third one comes again, and then the rest. What was replaced
meanwhile (by its key) or is too old (by its TTL) is never seen.

    python docs/examples/offline_edge.py [URL]
"""

import asyncio
import os
import sys
from contextlib import suppress

import mq9
from mq9 import Priority

URL = os.environ.get("MQ9_URL", "nats://127.0.0.1:4222")
PATIENCE_S = 30.0  # longer than a restart of the server takes


def patient(url: str) -> mq9.Client:
    """A client that waits for a server which is away, instead of failing."""
    return mq9.connect(url, timeout_s=PATIENCE_S, connect_timeout_s=PATIENCE_S, reconnect_attempts=1000)


async def control(url: str) -> str:
    """The controller: makes the pump's mailbox, sends, and goes home."""
    async with patient(url) as controller:
        pump = await controller.mailbox_create(ttl=3600)
        await controller.send(pump, "upload the logs", priority=Priority.LOW)
        await controller.send(pump, "set pressure to 2.0 bar", key="pressure")
        await controller.send(pump, "answer a ping", ttl=0.1)
        await controller.send(pump, "restart the camera", priority=Priority.URGENT)
        await controller.send(pump, "set pressure to 2.4 bar", key="pressure")
        await controller.send(pump, "close the valve", priority=Priority.CRITICAL)
        return pump


class Pump:
    """The device. What it has carried out it writes down, as it would to its flash: a command may come a second time when
    the connection was lost between carrying it out and confirming it."""

    def __init__(self, url: str, address: str) -> None:
        self.url = url
        self.address = address
        self.done: dict[int, str] = {}

    async def window(self, power: int) -> None:
        """Be online until there is nothing to do, or until the power fails, which is after `power` commands."""
        async with patient(self.url) as pump:
            while commands := await pump.fetch(self.address, group_name="pump", deliver="earliest", num_msgs=1, max_wait_ms=200):
                command = commands[0]
                if command.msg_id not in self.done:
                    if len(self.done) == power:
                        print(f"pump: has no power for: {command.text}")
                        return
                    await asyncio.sleep(0.1)  # the work
                    self.done[command.msg_id] = command.text
                    print(f"pump: done: {command.text} ({command.priority})")
                with suppress(mq9.DeliveryLost):  # a cluster may forget that it was handed out: then it comes again
                    await pump.ack(self.address, "pump", command.msg_id)


async def main(url: str = URL) -> None:
    """The controller, and two windows of the pump."""
    pump = Pump(url, await control(url))
    print("controller: 6 commands sent to a pump that is offline")
    for power in (2, 100):
        await asyncio.sleep(0.2)  # offline
        print("pump: online")
        await pump.window(power)
        print("pump: offline")
    print(f"result: {len(pump.done)} commands done: {', '.join(pump.done.values())}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
