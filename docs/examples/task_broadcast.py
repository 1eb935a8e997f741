"""Task broadcast: workers compete for the tasks of one mailbox, and a crash of one costs nothing.

Three workers, each a process, share a consumer group: every task goes to one of them. Ada takes the first and hangs in it.
Bob and cyd do the others. When only hers is missing the boss kills ada; her task was leased to her connection, and goes to
one of the others at once. A report carries the number of its task as `msg_id`: even a task done twice is reported once.

    python docs/examples/task_broadcast.py [URL]
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter

import mq9

URL = os.environ.get("MQ9_URL", "nats://127.0.0.1:4222")
TASKS = 20
PATIENCE_S = 30.0  # every call is repeated for this long while the server is away: longer than a restart takes


async def work(url: str, tasks: str, reports: str, name: str) -> None:
    """A worker. It holds one task at a time (`num_msgs`): the others are there for its colleagues."""
    async with mq9.connect(url, timeout_s=PATIENCE_S) as worker:
        async for task in worker.consume(tasks, group_name="workers", deliver="earliest", num_msgs=1):
            number = task.json()["task"]
            if name == "ada":
                print(f"ada: hangs in task {number} (process {os.getpid()})", flush=True)
                await asyncio.Event().wait()
            await asyncio.sleep(0.1)  # the work
            await worker.send(reports, {"worker": name, "task": number}, msg_id=f"{tasks}.{number}")
            await task.ack()


async def supervise(boss: mq9.Client, reports: str, ada: Process) -> dict[int, str]:
    """Who finished which task, once all are finished. Kills ada when only what she holds is missing."""
    finished: dict[int, str] = {}
    async for report in boss.consume(reports, group_name="boss", deliver="earliest"):
        said = report.json()
        finished[said["task"]] = said["worker"]
        print(f"{said['worker']}: finished task {said['task']}")
        if len(finished) == TASKS:
            break
        if len(finished) == TASKS - 1 and 1 not in finished:
            print("boss: only task 1 is missing; ada is killed")
            ada.kill()
    return finished


async def main(url: str = URL, *role: str) -> None:
    """The boss; or, in a process that the boss started, one of the workers."""
    if role:
        await work(url, *role)
        return
    async with mq9.connect(url, timeout_s=PATIENCE_S) as boss:
        tasks, reports = await boss.mailbox_create(ttl=3600), await boss.mailbox_create(ttl=3600)
        for number in range(1, TASKS + 1):
            await boss.send(tasks, {"task": number})
        start = [sys.executable, __file__, url, tasks, reports]
        ada = await asyncio.create_subprocess_exec(*start, "ada", stdout=PIPE)
        assert ada.stdout is not None
        print((await ada.stdout.readline()).decode(), end="")
        bob, cyd = [await asyncio.create_subprocess_exec(*start, name) for name in ("bob", "cyd")]
        try:
            finished = await supervise(boss, reports, ada)
        finally:
            for worker in (ada, bob, cyd):
                if worker.returncode is None:
                    worker.kill()
                await worker.wait()
    by_worker = ", ".join(f"{name} {number}" for name, number in sorted(Counter(finished.values()).items()))
    print(f"result: {len(finished)} of {TASKS} tasks finished ({by_worker})")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
