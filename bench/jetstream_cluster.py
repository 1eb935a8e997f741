"""Three nats-servers as one JetStream cluster: every stream has three replicas, every write is synced before it is answered."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.broker import LoadFailed
from bench.systems import HOST, PLACES, Box, ask, attempts
from tests.meta.cluster import free_ports
from tests.support.nats_server import NatsServer

NODES: Final = ("js1", "js2", "js3")
STEP_S: Final = 5.0  # for another leader to be there before one is asked for again
CONFIG: Final = """\
server_name: {name}
jetstream {{ store_dir: "{folder}", sync_interval: always }}
cluster {{ name: bench, listen: "{host}:{port}", routes: [{routes}] }}
"""


class JetStreamCluster:
    """See System. What leads a stream leads its consumer too, so that both systems read where they write."""

    name = "jetstream"

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        """Start it; the stack stops it."""
        self._made = 0
        self._servers: dict[str, NatsServer] = {}
        routes = dict(zip(NODES, free_ports(len(NODES)), strict=True))
        for name, port in routes.items():
            folder = directory / name
            folder.mkdir(parents=True)
            urls = ", ".join(f'"nats-route://{HOST}:{other}"' for other in routes.values())
            config = folder / "nats.conf"
            config.write_text(CONFIG.format(name=name, folder=folder, host=HOST, port=port, routes=urls))
            self._servers[name] = NatsServer(folder, "-c", str(config)).start()
            stack.callback(self._servers[name].stop)
        self.drop(self.boxes(len(NODES)))  # it is ready when it can do this

    def pids(self) -> list[int]:
        return [server.pid for server in self._servers.values()]

    def boxes(self, count: int) -> list[Box]:
        made = []
        for number in range(count):
            self._made += 1
            name, leader = f"box{self._made}", NODES[(self._made if count == 1 else number) % len(NODES)]
            self._make(name)
            self._lead(f"STREAM.INFO.{name}", f"STREAM.LEADER.STEPDOWN.{name}", leader)
            made.append(Box(name, self._ports(leader)))
        return made

    def add_readers(self, boxes: list[Box]) -> list[Box]:
        for box in boxes:
            config = {"durable_name": "g", "ack_policy": "all", "deliver_policy": "all", "max_ack_pending": -1}
            body = {"stream_name": box.name, "config": config}
            leader = next(name for name, server in self._servers.items() if server.port == box.ports["leader"])
            for _ in attempts(f"a consumer of {box.name}"):
                if self._ask(f"CONSUMER.DURABLE.CREATE.{box.name}.g", body) is not None:
                    break
            self._lead(f"CONSUMER.INFO.{box.name}.g", f"CONSUMER.LEADER.STEPDOWN.{box.name}.g", leader)
        return boxes

    def drop(self, boxes: list[Box]) -> None:
        for box in boxes:
            self._ask(f"STREAM.DELETE.{box.name}", {})

    def send_arguments(self, boxes: list[Box]) -> tuple[str, str]:
        return ",".join(f"load.{box.name}" for box in boxes), '"seq":'

    def pull_arguments(self, boxes: list[Box]) -> tuple[str, str]:
        return "jetstream", ",".join(f"{box.name}.g" for box in boxes)

    def _ports(self, leader: str) -> dict[str, int]:
        other = NODES[(NODES.index(leader) + 1) % len(NODES)]
        return dict(zip(PLACES, (self._servers[leader].port, self._servers[other].port), strict=True))

    def _make(self, name: str) -> None:
        stream = {"name": name, "subjects": [f"load.{name}"], "storage": "file", "retention": "limits", "num_replicas": 3}
        for _ in attempts(f"the stream {name}"):
            if self._ask(f"STREAM.CREATE.{name}", stream) is not None:
                return

    def _lead(self, info: str, step_down: str, leader: str) -> None:
        """Have `leader` lead, and wait until its followers have what it has."""
        for _ in attempts(f"{leader} to lead what {info} is about"):
            self._ask(step_down, {"placement": {"preferred": leader}})
            try:
                for _ in attempts(leader, STEP_S):
                    state = (self._ask(info, {}) or {}).get("cluster", {})
                    followers = state.get("replicas", ())
                    if state.get("leader") == leader and len(followers) == 2 and all(each["current"] for each in followers):
                        return
            except LoadFailed:
                continue

    def _ask(self, api: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """One request to JetStream; None when it cannot be done now."""
        port = self._servers[NODES[0]].port
        reply = ask(port, f"$JS.API.{api}", body)
        return None if reply is None or reply.get("error") else reply
