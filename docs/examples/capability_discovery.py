"""Capability discovery: find an agent by what it can do, and give it work, without knowing its name.

Three agents tell the registry, in their own words, what they can do. A customer asks for what it needs, in other words, and
sends its task to the mailbox of the best match. That agent leaves after its task; from then on nobody finds it, and the
next task goes to the next best.

    python docs/examples/capability_discovery.py [URL]
"""

import asyncio
import os
import sys

import mq9

URL = os.environ.get("MQ9_URL", "nats://127.0.0.1:4222")
ABILITIES = {
    "lex": "Translates French legal contracts into English",
    "poly": "Translates short texts between all European languages",
    "monet": "Paints landscapes in oil on canvas",
}
NEED = "somebody who puts an agreement with a company in Paris into English"


async def serve(url: str, market: str, name: str, opening: asyncio.Barrier) -> None:
    """An agent: opens a mailbox, registers, does one task, and leaves the registry."""
    async with mq9.connect(url) as agent:
        inbox = await agent.mailbox_create(ttl=3600)
        # The time to live is for those who end without a goodbye; AGENT.REPORT renews it.
        card = {"name": f"{name}.{market}", "mailbox": inbox, "payload": ABILITIES[name], "tags": [market], "ttl": 60}
        await agent.agent_register(card)
        try:
            await opening.wait()
            async for task in agent.consume(inbox, group_name=name, deliver="earliest"):
                await agent.send(task.headers["reply-to"], f"{name} did: {task.text}")
                await task.ack()
                return
        finally:
            await agent.agent_unregister(inbox)


async def delegate(customer: mq9.Client, market: str, task: str) -> str:
    """Send a task to whoever fits best, and wait for the answer; who it was."""
    agents = await customer.agent_discover(semantic=NEED, tags=[market])
    names: list[str] = [agent["name"].partition(".")[0] for agent in agents]
    print(f"customer: found {', '.join(names)}, best first")
    answers = await customer.mailbox_create(ttl=3600)
    await customer.send(agents[0]["mailbox"], task, headers={"reply-to": answers})
    [answer] = await customer.fetch(answers, group_name="customer", deliver="earliest", max_wait_ms=20_000)
    print(f"customer: {answer.text}")
    return names[0]


async def main(url: str = URL) -> None:
    """Three agents and a customer."""
    async with mq9.connect(url) as customer, asyncio.TaskGroup() as tasks:
        market = await customer.mailbox_create(ttl=3600)  # a tag nobody else has: this run's agents
        opening = asyncio.Barrier(1 + len(ABILITIES))
        agents = {name: tasks.create_task(serve(url, market, name, opening)) for name in ABILITIES}
        await opening.wait()
        helpers = []
        for page in ("page 1", "page 2"):
            helpers.append(await delegate(customer, market, page))
            await agents[helpers[-1]]  # it has left
        for agent in agents.values():
            agent.cancel()
    print(f"result: found by what they can do: {', then '.join(helpers)}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
