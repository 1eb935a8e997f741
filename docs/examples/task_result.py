"""Task result delivery: hand out a job, go away, find the result when you come back.

A planner hands a job to an analyst and does not wait: it says where the result shall go, a mailbox of its own, and
disconnects. The analyst finishes when nobody is there. The result waits on disk until the planner comes back for it. The
planner's address is 26 random characters: only those who were told it can write there.

    python docs/examples/task_result.py [URL]
"""

import asyncio
import os
import sys

import mq9

URL = os.environ.get("MQ9_URL", "nats://127.0.0.1:4222")


async def hand_out(url: str, jobs: str) -> str:
    """The planner: leaves a job in the analysts' mailbox, and returns the address that the result will go to."""
    async with mq9.connect(url) as planner:
        results = await planner.mailbox_create(ttl=3600)
        await planner.send(jobs, {"sum": [120, 80, 42]}, headers={"reply-to": results})
        return results


async def analyse(url: str, jobs: str) -> None:
    """The analyst: takes one job, works, sends the result, and only then confirms the job.

    Killed before the confirmation it would get the job again, and send the result again: with the same `msg_id`, so that
    it is stored once.
    """
    async with mq9.connect(url) as analyst:
        async for job in analyst.consume(jobs, group_name="analysts", deliver="earliest"):
            print(f"analyst: working on job {job.msg_id}")
            await asyncio.sleep(0.3)  # the work
            result = {"job": job.msg_id, "total": sum(job.json()["sum"])}
            await analyst.send(job.headers["reply-to"], result, msg_id=f"{jobs}-{job.msg_id}")
            await job.ack()
            print("analyst: the result is stored")
            return


async def collect(url: str, results: str) -> int:
    """The planner again, on a new connection: what came while it was away is there."""
    async with mq9.connect(url) as planner:
        [message] = await planner.fetch(results, group_name="planner", deliver="earliest", max_wait_ms=5000)
        await planner.ack(results, "planner", message.msg_id)
        return int(message.json()["total"])


async def main(url: str = URL) -> None:
    """Planner, analyst and planner again, each on its own connection."""
    async with mq9.connect(url) as client:
        jobs = await client.mailbox_create(ttl=3600)
    results = await hand_out(url, jobs)
    print("planner: the job is handed out; going offline")
    await analyse(url, jobs)
    print(f"result: the planner is back online, and finds {await collect(url, results)}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
