"""Every setting of a meta node: one field of one frozen dataclass, with flag, environment name (MQ9_META_...) and doc.

Precedence: flag, environment, TOML file, default. The table in docs/meta.md is checked against the fields.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mq9 import limits
from mq9.errors import error

ENV_PREFIX: Final = "MQ9_META_"
API_PORT: Final = 9323
RAFT_PORT: Final = 9423
MONITOR_PORT: Final = 8322


def _setting(default: Any, doc: str, *, secret: bool = False, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"doc": doc, "secret": secret, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaSettings:
    """What `python -m meta_service` runs with. Times are seconds, sizes bytes."""

    node: str = _setting("meta1", "Name of this node, one of --members.")
    members: str = _setting(
        "", "All nodes, the same on each: name=host[:raft port[:API port]], comma-separated; 1, 3 or 5. Empty: this node alone."
    )
    cluster: str = _setting("mq9", "Name of the cluster; nodes of another name are refused.")
    host: str = _setting("127.0.0.1", "Address of the API (gRPC). Nothing but localhost unless you say so.")
    port: int = _setting(API_PORT, "Port of the API; 0 picks a free one and the ready line names it.")
    raft_host: str = _setting("127.0.0.1", "Address the other nodes connect to. Beyond localhost it needs a secret or TLS.")
    raft_port: int = _setting(RAFT_PORT, "Port for the other nodes; 0 picks a free one (a single node has no use for it).")
    monitor_host: str = _setting("127.0.0.1", "Address of the monitoring pages, which anybody who reaches them can read.")
    monitor_port: int = _setting(MONITOR_PORT, "Port of the monitoring pages (HTTP); 0 picks a free one, -1: none.")
    data_dir: str = _setting("./mq9-meta", "Directory of the journal and the state; made when absent.")
    secret: str = _setting("", "Known to all nodes, which prove it to each other. Prefer MQ9_META_SECRET.", secret=True)
    token: str = _setting("", "What brokers and tools must show the API. Prefer MQ9_META_TOKEN.", secret=True)
    tls_cert: str = _setting("", "Certificate (PEM) of this node, for API and Raft; names its host. Turns TLS on.")
    tls_key: str = _setting("", "Private key (PEM) of --tls-cert.")
    tls_ca: str = _setting("", "Certificates (PEM) that peers and API clients must be signed by. Needed with --tls-cert.")
    slots: int = _setting(limits.SLOTS, "Slots of a new cluster; fixed from then on.")
    replication_factor: int = _setting(3, "Replicas of each slot in a new cluster.")
    min_in_sync: int = _setting(2, "In-sync replicas a write needs in a new cluster.")
    heartbeat_s: float = _setting(0.5, "How often brokers send heartbeats.")
    lease_s: float = _setting(2.5, "How long a broker serves after sending the last heartbeat that was answered.")
    session_s: float = _setting(4.0, "How long after the last heartbeat a broker is fenced. At least 1.5 x --lease-s.")
    raft_heartbeat_s: float = _setting(0.05, "How often the leader sends to the other nodes.")
    election_min_s: float = _setting(0.3, "Shortest silence of the leader before an election; over 3 x --raft-heartbeat-s.")
    election_max_s: float = _setting(0.6, "Longest silence of the leader before an election.")
    barrier_s: float = _setting(0.2, "How often the leader proves that it still leads.")
    log_entries_max: int = _setting(limits.META_LOG_ENTRIES_MAX, "Journal entries beyond which old ones are dropped.")
    log_entries_kept: int = _setting(limits.META_LOG_ENTRIES_KEPT, "Applied entries that are kept for nodes that lag.")
    disk_reserve: int = _setting(64 * 1024 * 1024, "Free bytes below which changes are refused.")
    log_level: str = _setting("info", "debug, info, warning or error.", choices=("debug", "info", "warning", "error"))


FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(MetaSettings)}

# What a number may be, where zero or more is not the answer.
_RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "raft_port": (0, 65_535),
    "monitor_port": (-1, 65_535),
    "slots": (1, limits.META_SLOTS_MAX),
    "replication_factor": (1, 16),
    "min_in_sync": (1, 16),
    "heartbeat_s": (0.01, 3600),
    "barrier_s": (0.01, 60),
    "raft_heartbeat_s": (0.005, 10),
    "log_entries_max": (100, 10_000_000),
    "log_entries_kept": (10, 10_000_000),
}


def resolve(flags: Mapping[str, Any], environ: Mapping[str, str], config: str = "") -> MetaSettings:
    """The settings that hold. Raises INVALID_REQUEST naming the setting that cannot be."""
    given: dict[str, Any] = {}
    if config:
        try:
            given.update(tomllib.loads(Path(config).read_text(encoding="utf-8")))
        except (OSError, ValueError) as failure:
            raise error("INVALID_REQUEST", reason=f"settings file {config}: {failure}") from failure
    given.update((name, environ[ENV_PREFIX + name.upper()]) for name in FIELDS if ENV_PREFIX + name.upper() in environ)
    given.update((name, value) for name, value in flags.items() if value is not None)
    unknown = sorted(given.keys() - FIELDS.keys())
    if unknown:
        raise error("INVALID_REQUEST", reason=f"no such setting: {', '.join(unknown)}")
    settings = MetaSettings(**{name: _checked(name, value) for name, value in given.items()})
    _check_together(settings)
    return settings


def _checked(name: str, value: Any) -> Any:
    field = FIELDS[name]
    kind: type[Any] = type(field.default)
    try:
        converted = kind(value)
    except (TypeError, ValueError):
        converted = None
    low, high = _RANGES.get(name, (0, 1 << 62))
    choices = field.metadata["choices"]
    wrong = (
        converted is None
        or isinstance(value, bool)
        or (choices and converted not in choices)
        or (kind in {int, float} and not low <= converted <= high)
    )
    if wrong:
        wanted = f"one of {', '.join(choices)}" if choices else "text" if kind is str else f"{kind.__name__} from {low} to {high}"
        shown = "" if field.metadata["secret"] else f", not {value!r}"
        raise error("INVALID_REQUEST", reason=f"--{name.replace('_', '-')} must be {wanted}{shown}")
    return converted


def _check_together(settings: MetaSettings) -> None:
    """Settings that are fine alone and dangerous together."""
    rules = {
        "--session-s must be at least 1.5 x --lease-s": settings.session_s >= 1.5 * settings.lease_s,
        "--session-s must be at least --lease-s and 4 x --barrier-s": settings.session_s
        >= settings.lease_s + 4 * settings.barrier_s,
        "--lease-s must be over 2 x --heartbeat-s": settings.lease_s > 2 * settings.heartbeat_s,
        "--election-min-s must be over 3 x --raft-heartbeat-s": settings.election_min_s > 3 * settings.raft_heartbeat_s,
        "--election-max-s must be over --election-min-s": settings.election_max_s > settings.election_min_s,
        "--min-in-sync must not be over --replication-factor": settings.min_in_sync <= settings.replication_factor,
        "--log-entries-kept must be under half of --log-entries-max": settings.log_entries_kept * 2 <= settings.log_entries_max,
        "--tls-cert, --tls-key and --tls-ca go together": len({bool(s) for s in _tls(settings)}) == 1,
    }
    for rule, holds in rules.items():
        if not holds:
            raise error("INVALID_REQUEST", reason=rule)
    parse_members(settings)


def _tls(settings: MetaSettings) -> tuple[str, str, str]:
    return settings.tls_cert, settings.tls_key, settings.tls_ca


@dataclass(frozen=True, slots=True)
class Member:
    """Where a node is."""

    host: str
    raft_port: int
    api_port: int

    @property
    def api_address(self) -> str:
        return f"[{self.host}]:{self.api_port}" if ":" in self.host else f"{self.host}:{self.api_port}"


def parse_members(settings: MetaSettings) -> dict[str, Member]:
    """All nodes by name, this one included. Raises INVALID_REQUEST."""
    if not settings.members:
        return {settings.node: Member(settings.host, settings.raft_port, settings.port)}
    members: dict[str, Member] = {}
    for part in settings.members.split(","):
        name, _, where = part.strip().partition("=")
        host, ports = _split_host(where)
        try:
            raft_port, api_port = ([int(port) for port in ports] + [RAFT_PORT, API_PORT][len(ports) :])[:2]
        except ValueError:
            raft_port = api_port = 0
        if not name or not host or not (0 < raft_port < 65_536 and 0 < api_port < 65_536) or len(ports) > 2 or name in members:
            reason = f"--members: {part.strip()!r} is not name=host[:raft port[:API port]], or is there twice"
            raise error("INVALID_REQUEST", reason=reason)
        members[name] = Member(host, raft_port, api_port)
    if settings.node not in members:
        raise error("INVALID_REQUEST", reason=f"--members does not name this node, {settings.node}")
    if len(members) not in {1, 3, 5}:
        raise error("INVALID_REQUEST", reason=f"--members names {len(members)} nodes; 1, 3 or 5 make sense")
    return members


def _split_host(where: str) -> tuple[str, list[str]]:
    """Host and ports; an IPv6 address is in brackets."""
    if where.startswith("["):
        host, _, rest = where[1:].partition("]")
        return host, [port for port in rest.split(":") if port]
    host, *ports = where.split(":")
    return host, ports
