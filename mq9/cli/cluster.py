"""`mq9 cluster`: run one on this machine, see what one does, and tell brokers to leave."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mq9 import __version__
from mq9.cli import exits, output
from mq9.cli.cluster_session import ClusterSession
from mq9.cli.command import command, failures, run_async
from mq9.errors import Mq9Error, error
from mq9.limits import GROUP_LAG_COUNT_MAX

if TYPE_CHECKING:
    from mq9.cli.cluster_files import ClusterFiles
    from mq9.meta.client import MetaClient
    from mq9.v1 import meta_pb2 as meta

app = typer.Typer(no_args_is_help=True, help="Run a cluster of brokers, see its state, move what it holds.")

POLL_S: Final = 0.2  # between two looks at what is waited for
NUMBERS_SHOWN_MAX: Final = 12
GROUPS_SHOWN: Final = 5  # unless all that are known are asked for

Node = Annotated[str, typer.Argument(help="Name of the broker.", metavar="NODE", show_default=False)]
SlotNumber = Annotated[int, typer.Argument(help="Number of the slot.", metavar="SLOT", show_default=False, min=0)]
DataDir = Annotated[Path, typer.Option("--data-dir", envvar="MQ9_CLUSTER_DIR", help="Where everything is.", metavar="DIR")]


# --- Running one on this machine --------------------------------------------------------------------------------------


@app.command("up")
def up(
    nodes: Annotated[int, typer.Option("--nodes", "-n", help="Brokers.", min=0, max=16)] = 3,
    data_dir: DataDir = Path("mq9-cluster"),
    metas: Annotated[int, typer.Option("--meta", help="Nodes of the meta service: 1, 3 or 5.")] = 3,
    port: Annotated[int, typer.Option("--port", help="Port of the first broker, the others follow; 0: free ones.")] = 4222,
    slots: Annotated[int, typer.Option("--slots", help="Slots of a new cluster; fixed from then on.", min=1)] = 256,
    restart: Annotated[bool, typer.Option(help="Start a process again that dies.")] = True,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Go on in the background; `mq9 cluster down` ends it.")] = False,
) -> None:
    """Run a whole cluster on this machine until Ctrl-C: brokers and meta service, each a process, all on 127.0.0.1.

    With the same directory it goes on where it was. Secrets are made in files that only you can read.
    Settings of brokers and meta nodes that are in the environment (MQ9_..., MQ9_META_...) are theirs.
    """
    if metas not in {1, 3, 5}:
        raise typer.BadParameter("1, 3 or 5 meta nodes make sense", param_hint="--meta")
    with failures(as_json=False):
        if detach:
            raise typer.Exit(_detach(data_dir))
        from mq9.cli import cluster_files, local_cluster  # noqa: PLC0415  # processes and locks, which no other verb needs

        with cluster_files.lock(data_dir):
            files = cluster_files.prepare(data_dir.resolve(), brokers=nodes, metas=metas, port=port)
            flags = {"slots": slots, "replication-factor": min(3, nodes or 3), "min-in-sync": min(2, nodes or 2)}
            more = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
            cluster = local_cluster.LocalCluster(files, more, output.note, restart=restart)
            run_async(local_cluster.run(files, cluster, lambda: _serving(files)))


def _detach(data_dir: Path) -> int:
    """The same command again, in the background; returns when that is ready, or has failed."""
    import subprocess  # noqa: PLC0415  # see `up`

    arguments = [each for each in sys.argv[1:] if each not in {"--detach", "-d"}]
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "up.log").open("ab") as log:
        child = subprocess.Popen(  # noqa: S603  # ourselves, same arguments
            [sys.executable, "-m", "mq9.cli", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True, text=True,
        )  # fmt: skip
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            output.line(line.rstrip("\n"))
            if " cluster ready " in line:
                child.returncode = exits.OK  # it goes on without us, and Popen need not mind
                return exits.OK
    output.note(f"error: it did not start; {data_dir / 'up.log'} says why")
    return child.wait() or exits.FAILED


async def _serving(files: ClusterFiles) -> None:
    """Wait until every slot is led, and say where the brokers are."""
    import asyncio  # noqa: PLC0415  # see run_async

    session = ClusterSession(data_dir=str(files.root), timeout=60)  # the first election on a busy machine may take a while
    async with session.client() as client:
        while True:
            view = await client.view()
            brokers = sum(broker.id in files.brokers for broker in view.brokers)
            led = bool(view.slots) and all(slot.primary for slot in view.slots)
            if view.config.cluster_id and (led or brokers < view.config.replication_factor) and brokers == len(files.brokers):
                break
            await asyncio.sleep(POLL_S)
    for name, url in files.client_urls.items():
        output.line(f"{name}  {url}")
    urls, addresses = ",".join(files.client_urls.values()) or "-", ",".join(files.meta_addresses)
    output.line(f"mq9 {__version__} cluster ready {urls} meta={addresses} data={files.root}")
    sys.stdout.flush()


@app.command("down")
def down(data_dir: DataDir = Path("mq9-cluster")) -> None:
    """End the `mq9 cluster up` that runs in a directory, and wait until everything has stopped."""
    import os  # noqa: PLC0415  # see `up`
    import signal  # noqa: PLC0415
    import time  # noqa: PLC0415

    from mq9.cli.cluster_files import runner  # noqa: PLC0415

    pid = runner(data_dir)
    if pid is None:
        output.note(f"error: nobody runs a cluster in {data_dir}")
        raise typer.Exit(exits.NOT_FOUND)
    os.kill(pid, signal.SIGTERM)
    while runner(data_dir) == pid:
        time.sleep(POLL_S)


# --- Seeing -----------------------------------------------------------------------------------------------------------


Heard = dict[str, "meta.HeartbeatRequest"]


async def meta_nodes(session: ClusterSession, client: MetaClient) -> tuple[list[dict[str, Any]], Heard]:
    """What each meta node says of itself, one that does not answer having the role `unreachable`; and what the leader heard
    last of each broker."""
    nodes: list[dict[str, Any]] = []
    heard: Heard = {}
    for address in session.addresses():
        try:
            status = await client.status(address)
        except Mq9Error as failure:
            if failure.code == "FORBIDDEN":
                raise
            nodes.append({"node": "", "address": address, "role": "unreachable"})
            continue
        numbers = {name: getattr(status, name) for name in ("term", "commit_index", "applied_index", "fsyncs")}
        nodes.append({"node": status.node, "address": address, "role": status.role, "leader": status.leader, **numbers})
        heard.update({each.node: each for each in status.heard})
    return nodes, heard


@command(app, "status", ClusterSession)
async def status(
    session: ClusterSession,
    slots: Annotated[bool, typer.Option("--slots", help="Every slot too: who leads it, its replicas, who is in sync.")] = False,
    groups: Annotated[bool, typer.Option("--groups", help="More consumer groups: the 20 of each broker most behind.")] = False,
) -> None:
    """Show the meta service, the brokers and what each leads, consumer groups that are behind, and slots that lack something."""
    from mq9.meta.summary import summary  # noqa: PLC0415

    async with session.client() as client:
        nodes, heard = await meta_nodes(session, client)
        view = await client.view()
    found = summary(view.config, view.brokers, view.slots)
    config = {name: getattr(view.config, name) for name in ("slots", "replication_factor", "min_in_sync", "rebalance")}
    lists = {name: getattr(found, name) for name in ("without_primary", "under_replicated", "not_writable", "lost", "moving")}
    behind = _groups_behind(heard, view)
    if not groups:
        behind = [each for each in behind if each["lag"]][:GROUPS_SHOWN]
    if session.json:
        brokers = [{**_broker(each), **_share(found.shares[each.id]), **_said(heard, each.id)} for each in view.brokers]
        answer = {"cluster": {**config, "rev": view.rev, **lists}, "meta": nodes, "brokers": brokers, "groups": behind}
        output.as_json({**answer, "slots": [_slot(each) for each in view.slots]} if slots else answer)
        return
    names = ("node", "address", "role", "term", "commit_index", "applied_index")
    output.table(
        ("META", "ADDRESS", "ROLE", "TERM", "COMMITTED", "APPLIED"),
        [[node.get(name, "-") if node.get(name) != "" else "-" for name in names] for node in nodes],
    )
    rows = []
    for each in sorted(view.brokers, key=lambda broker: broker.id):
        share = found.shares[each.id]
        shown = _broker(each)
        place = [shown["client"], shown["peer"], each.zone or "-"]
        said = _said(heard, each.id).values()
        rows.append((each.id, shown["state"], *place, share.leads, share.follows, share.lags, *said))
    columns = ("BROKER", "STATE", "CLIENTS", "PEERS", "ZONE", "LEADS", "FOLLOWS", "NOT IN SYNC", "OFFSETS LAG", "DISK FREE")
    output.table(columns, rows)
    if behind:
        output.table(("MAILBOX", "GROUP", "BEHIND", "OLDEST", "LEADER"), [_behind_row(each) for each in behind])
    if slots:
        slot_columns = ("SLOT", "EPOCH", "PRIMARY", "IN SYNC", "REPLICAS", "ADDING", "REMOVING")
        output.table(slot_columns, [[_cell(cell) for cell in _slot(each).values()] for each in view.slots])
    output.fields({**config, **{name.replace("_", " "): _numbers(numbers) for name, numbers in lists.items()}})


def _groups_behind(heard: Heard, view: meta.Delta) -> list[dict[str, Any]]:
    """What brokers said of groups of the slots they lead, those that are furthest behind first."""
    leaders = {slot.slot: slot.primary for slot in view.slots}
    found = [
        {
            "mailbox": each.address,
            "group": each.group,
            "lag": each.lag,
            "oldest_age_s": each.oldest_age_ms / 1000,
            "leader": broker,
        }
        for broker, latest in heard.items()
        for each in latest.groups
        if leaders.get(each.mailbox >> 48) == broker
    ]
    return sorted(found, key=lambda each: (-each["lag"], -each["oldest_age_s"], each["mailbox"], each["group"]))


def _behind_row(group: dict[str, Any]) -> tuple[object, ...]:
    """One line of the table. Brokers stop counting at a limit."""
    lag = f"{group['lag']}+" if group["lag"] >= GROUP_LAG_COUNT_MAX else group["lag"]
    age = output.span_text(group["oldest_age_s"]) if group["lag"] else "-"
    return group["mailbox"], group["group"], lag, age, group["leader"]


def _broker(broker: meta.Broker) -> dict[str, Any]:
    from mq9.v1 import meta_pb2 as meta  # noqa: PLC0415

    return {
        "id": broker.id, "state": meta.BrokerState.Name(broker.state).lower(), "draining": broker.drain, "zone": broker.zone,
        "client": broker.client_address, "peer": broker.peer_address, "incarnation": broker.incarnation, "weight": broker.weight,
    }  # fmt: skip


def _share(share: Any) -> dict[str, int]:
    return {"leads": share.leads, "follows": share.follows, "not_in_sync": share.lags}


def _said(heard: Heard, broker: str) -> dict[str, int]:
    """What a broker said in its latest heartbeat: consumer offsets it has not committed yet, free bytes on its disk."""
    latest = heard.get(broker)
    return {"offsets_lag": latest.offsets_waiting if latest else 0, "disk_free": latest.free_bytes if latest else 0}


def _slot(slot: meta.Slot) -> dict[str, Any]:
    return {
        "slot": slot.slot, "epoch": slot.epoch, "primary": slot.primary, "in_sync": list(slot.isr),
        "replicas": list(slot.replicas), "adding": list(slot.adding), "removing": list(slot.removing),
    }  # fmt: skip


def _cell(value: object) -> str:
    return (",".join(value) if isinstance(value, list) else str(value)) or "-"


def _numbers(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:NUMBERS_SHOWN_MAX])) + (", ..." if len(numbers) > NUMBERS_SHOWN_MAX else "")
    return f"{len(numbers)} ({shown})" if numbers else "0"


# --- Changing ---------------------------------------------------------------------------------------------------------


async def _admin(client: MetaClient, **op: Any) -> meta.AdminReply:
    """One operation. Raises INVALID_REQUEST or UNAVAILABLE when it is refused."""
    from mq9.v1 import meta_pb2 as meta  # noqa: PLC0415

    reply = await client.admin(meta.AdminRequest(**op))
    if reply.result.outcome == meta.STALE:
        raise error("UNAVAILABLE", reason=f"it changed meanwhile: {reply.result.text}")
    if reply.result.outcome != meta.OK:
        raise error("INVALID_REQUEST", reason=reply.result.text)
    return reply


async def _place(client: MetaClient, number: int) -> dict[str, int]:
    """A slot with its epoch and version, as operations name it."""
    for slot in (await client.view()).slots:
        if slot.slot == number:
            return {"slot": number, "epoch": slot.epoch, "ver": slot.ver}
    raise error("INVALID_REQUEST", reason=f"there is no slot {number}")


def _answer(session: ClusterSession, text: str, **values: Any) -> None:
    if session.json:
        output.as_json(values)
    else:
        output.line(text)


@command(app, "drain", ClusterSession)
async def drain(
    session: ClusterSession,
    node: Node,
    cancel: Annotated[bool, typer.Option("--cancel", help="It stays after all.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has given up what others can take.")] = False,
) -> None:
    """Have a broker hand over what it leads, and move its replicas to others while there are enough of them."""
    import asyncio  # noqa: PLC0415

    from mq9.meta.summary import Share, summary  # noqa: PLC0415
    from mq9.v1 import meta_pb2 as meta  # noqa: PLC0415

    async with session.client() as client:
        await _admin(client, drain=meta.Drain(node=node, cancel=cancel))
        while True:
            view = await client.view()
            share = summary(view.config, view.brokers, view.slots).shares.get(node, Share())
            others = sum(not broker.drain and broker.state == meta.ALIVE for broker in view.brokers)
            # With too few others it stays a replica: giving that up would leave one copy less than was asked for.
            done = not share.leads and (not share.holds or others < view.config.replication_factor)
            if done or cancel or not wait:
                break
            await asyncio.sleep(POLL_S)
    word = "stays" if cancel else "is drained" if not share.holds else "is being drained" if not done else "leads nothing"
    _answer(session, f"{node} {word}; it leads {share.leads} slots and holds {share.holds}", node=node, **_share(share))


@command(app, "rebalance", ClusterSession)
async def rebalance(
    session: ClusterSession,
    auto: Annotated[bool | None, typer.Option("--auto/--no-auto", help="Whether replicas move by themselves.")] = None,
) -> None:
    """Have all brokers lead about as many slots in proportion to their weight; replicas move by themselves unless told not to."""
    from mq9.meta.summary import evened  # noqa: PLC0415
    from mq9.v1 import meta_pb2 as meta  # noqa: PLC0415

    async with session.client() as client:
        if auto is not None:
            await _admin(client, configure=meta.Configure(rebalance=auto))
        view = await client.view()
        moved = 0
        for slot, to in evened(view.brokers, view.slots):
            change = meta.TransferPrimary(slot=slot.slot, epoch=slot.epoch, ver=slot.ver, to=to)
            reply = await client.admin(meta.AdminRequest(transfer=change))
            moved += reply.result.outcome == meta.OK  # another slot than was looked at is left as it is now
        view = await client.view()
    moving = sum(bool(slot.adding or slot.removing) for slot in view.slots)
    text = (
        f"{moved} slots have another primary; {moving} are moving; automatic moves are {'on' if view.config.rebalance else 'off'}"
    )
    _answer(session, text, transferred=moved, moving=moving, auto=view.config.rebalance)


@command(app, "forget", ClusterSession)
async def forget(session: ClusterSession, node: Node) -> None:
    """Remove a broker that was drained and stopped for good."""
    from mq9.v1 import meta_pb2 as meta  # noqa: PLC0415

    async with session.client() as client:
        await _admin(client, forget=meta.ForgetBroker(node=node))
    _answer(session, f"{node} is forgotten", node=node)


@command(app, "transfer", ClusterSession)
async def transfer(session: ClusterSession, slot: SlotNumber, node: Node) -> None:
    """Have another in-sync replica lead a slot."""
    from mq9.v1 import meta_pb2 as meta  # noqa: PLC0415

    async with session.client() as client:
        reply = await _admin(client, transfer=meta.TransferPrimary(**await _place(client, slot), to=node))
    _answer(session, f"{node} leads slot {slot} in epoch {reply.result.slot.epoch}", **_slot(reply.result.slot))


@command(app, "move", ClusterSession)
async def move(
    session: ClusterSession,
    slot: SlotNumber,
    add: Annotated[list[str] | None, typer.Option("--add", help="A broker to become a replica; repeatable.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A replica to go then; repeatable.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Call the move off that is under way.")] = False,
) -> None:
    """Move replicas of a slot: the new ones catch up first. Without `rebalance --no-auto` it may move back by itself."""
    from mq9.v1 import meta_pb2 as meta  # noqa: PLC0415

    async with session.client() as client:
        place = await _place(client, slot)
        if cancel:
            reply = await _admin(client, cancel_move=meta.CancelMove(**place))
        else:
            reply = await _admin(client, start_move=meta.StartMove(**place, add=add or [], remove=remove or []))
    word = "stays where it is" if cancel else "is moving"
    _answer(session, f"slot {slot} {word}", **_slot(reply.result.slot))


@command(app, "elect", ClusterSession)
async def elect(
    session: ClusterSession,
    slot: SlotNumber,
    node: Node,
    lose_data: Annotated[bool, typer.Option("--lose-data", help="Said by whoever knows what is given up.")] = False,
) -> None:
    """Give up what the lost in-sync replicas of a slot had, and have another replica lead with what it has."""
    if not lose_data:
        raise typer.BadParameter("messages may be lost by this; say --lose-data if the in-sync replicas will not be back")
    from mq9.v1 import meta_pb2 as meta  # noqa: PLC0415

    async with session.client() as client:
        reply = await _admin(client, unclean_elect=meta.UncleanElect(**await _place(client, slot), to=node))
    _answer(session, f"{node} leads slot {slot} in epoch {reply.result.slot.epoch}", **_slot(reply.result.slot))
