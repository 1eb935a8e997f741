"""Human approval: an agent asks a person before it does what cannot be undone.

The agent sends its request to the person's mailbox, urgent, with an address for the answer and a deadline: a request that is
not answered by then disappears from the mailbox, and the agent leaves things as they are. A person needs two commands for
this: `mq9 watch` prints requests as they come, `mq9 send` answers. The example plays the person too, with these very commands;
with --person you are it: open another terminal and do what it says.

    python docs/examples/human_approval.py [--person] [--deadline SECONDS] [URL]
"""

import argparse
import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE

import mq9
from mq9 import Priority

URL = os.environ.get("MQ9_URL", "nats://127.0.0.1:4222")
MQ9 = [sys.executable, "-m", "mq9.cli"]  # the command `mq9`, also where it is not on the path


async def ask(agent: mq9.Client, person: str, question: str, deadline_s: float) -> str:
    """What the person answers, or "" when there is no answer in time."""
    answers = await agent.mailbox_create(ttl=3600)
    text = f"{question} Answer: mq9 send {answers} yes"
    await agent.send(person, text, priority=Priority.URGENT, ttl=deadline_s, headers={"reply-to": answers})
    try:
        async with asyncio.timeout(deadline_s):
            async for answer in agent.consume(answers, group_name="agent", deliver="earliest"):
                return answer.text.strip().lower()
    except TimeoutError:
        print(f"agent: no answer within {deadline_s:g} s")
    return ""


async def play_person(url: str, inbox: str) -> None:
    """The person: reads one request with `mq9 watch`, and says yes to it with `mq9 send`."""
    environment = {**os.environ, "MQ9_URL": url}
    watching = await asyncio.create_subprocess_exec(
        *MQ9, "watch", inbox, "--group", "person", "--count", "1", "--json", stdout=PIPE, env=environment
    )
    output, _ = await watching.communicate()
    request = json.loads(output)
    print(f"person: reads ({request['priority']}): {request['payload']}")
    answering = await asyncio.create_subprocess_exec(
        *MQ9, "send", request["headers"]["reply-to"], "yes", stdout=PIPE, env=environment
    )
    await answering.communicate()


async def main(url: str = URL, *, is_person: bool = False, deadline_s: float = 60) -> None:
    """The agent, and a person."""
    async with mq9.connect(url) as agent:
        inbox = await agent.mailbox_create(desc="what waits for a person", ttl=3600)
        if is_person:
            print(f"you are the person; in another terminal: mq9 watch {inbox} --server {url}")
            person = None
        else:
            person = asyncio.create_task(play_person(url, inbox))
        answer = await ask(agent, inbox, "May I delete 1204 log files of last year?", deadline_s)
        if person is not None:
            await person
    done = "the files are deleted" if answer == "yes" else "nothing is deleted"
    print(f"result: the answer is {answer or 'missing'}; {done}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", nargs="?", default=URL)
    parser.add_argument("--person", action="store_true", help="you are the person")
    parser.add_argument("--deadline", type=float, default=60, metavar="SECONDS")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.url, is_person=arguments.person, deadline_s=arguments.deadline))
