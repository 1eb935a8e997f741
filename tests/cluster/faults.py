"""What happens to a cluster under load, one function each. All leave it as it was: everybody runs, every slot is in sync."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

from tests.cluster.checker import Load, pause
from tests.cluster.processes import TUNED, Cluster

SOME: Final = 200  # acknowledged sends that show that the load goes on
LONGER_S: Final = 1.5 * TUNED["session_s"]  # than a session


async def start(cluster: Cluster, *names: str) -> None:
    await asyncio.to_thread(cluster.start, *names)


async def _killed(cluster: Cluster, load: Load, name: str) -> None:
    """kill -9; the others go on, for everything it led too; it comes back."""
    cluster.kill(name)
    await cluster.settled()
    await load.acknowledged(SOME)
    await start(cluster, name)
    await cluster.settled()


async def kill_owner(cluster: Cluster, load: Load) -> None:
    """The owner of a mailbox, by kill -9."""
    await _killed(cluster, load, await cluster.owner(load.mailboxes[0]))


async def kill_follower(cluster: Cluster, load: Load) -> None:
    """Another replica of a mailbox than its owner, by kill -9."""
    owner = await cluster.owner(load.mailboxes[0])
    await _killed(cluster, load, next(name for name in cluster.names if name != owner))


async def kill_quickly(cluster: Cluster, load: Load) -> None:
    """kill -9 and a start at once: it comes back before its session is over."""
    name = await cluster.owner(load.mailboxes[0])
    cluster.kill(name)
    await start(cluster, name)
    await cluster.settled()
    await load.acknowledged(SOME)


async def kill_two_in_turn(cluster: Cluster, load: Load) -> None:
    """One is killed as soon as the other has caught up."""
    first = await cluster.owner(load.mailboxes[0])
    await _killed(cluster, load, first)
    await _killed(cluster, load, next(name for name in cluster.names if name != first))


async def kill_two_at_once(cluster: Cluster, load: Load) -> None:
    """Nothing can be written until one of them is back; nothing that was may be lost."""
    names = cluster.names[:2]
    cluster.kill(*names)
    await pause(LONGER_S)
    await start(cluster, *names)
    await cluster.settled()
    await load.acknowledged(SOME)


async def pause_owner(cluster: Cluster, load: Load) -> None:
    """The owner of a mailbox stands still for longer than its session, and goes on as if nothing had been."""
    name = await cluster.owner(load.mailboxes[0])
    cluster.pause(name)
    await pause(LONGER_S)
    await load.acknowledged(SOME)
    cluster.resume(name)
    await load.acknowledged(SOME)
    await cluster.settled()


async def wipe(cluster: Cluster, load: Load) -> None:
    """A broker comes back with an empty disk."""
    name = await cluster.owner(load.mailboxes[0])
    cluster.kill(name)
    cluster.wipe(name)
    await load.acknowledged(SOME)
    await start(cluster, name)
    await cluster.settled()
    await load.acknowledged(SOME)


async def kill_meta_leader(cluster: Cluster, load: Load) -> None:
    """Data goes on without an interruption; another meta node takes over."""
    leader = await cluster.metas.leader()
    cluster.kill(leader)
    await load.acknowledged(SOME)
    await cluster.metas.leader(other_than=leader)
    await start(cluster, leader)
    await cluster.settled()


async def kill_brokers(cluster: Cluster, load: Load) -> None:
    """All brokers at once."""
    cluster.kill(*cluster.names)
    await start(cluster, *cluster.names)
    await cluster.settled()
    await load.acknowledged(SOME)


async def kill_everything(cluster: Cluster, load: Load) -> None:
    """All processes at once, as when the power goes (and disks keep what the kernel has)."""
    cluster.kill(*cluster.names, *cluster.metas.names)
    await start(cluster)
    await cluster.settled()
    await load.acknowledged(SOME)


async def rolling_restart(cluster: Cluster, load: Load) -> None:
    """SIGTERM and a start, one broker after the other."""
    for name in cluster.names:
        cluster.process(name).signal(signal.SIGTERM)
        code = await asyncio.to_thread(cluster.process(name).wait)
        assert code == 0, f"{name} exited {code}\n{cluster.brokers[name].log[-5000:]}"
        await load.acknowledged(SOME)
        await start(cluster, name)
        await cluster.settled()


FAULTS: Final = (
    kill_owner, kill_follower, kill_quickly, kill_two_in_turn, kill_two_at_once, pause_owner, wipe, kill_meta_leader,
    kill_brokers, kill_everything, rolling_restart,
)  # fmt: skip
