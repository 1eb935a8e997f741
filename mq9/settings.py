"""Every setting of the broker: one field each of one frozen dataclass.

A field carries its flag, environment name and one-line description; `--help`, the table in docs/settings.md and the
TOML file are made from or checked against them. Precedence: flag, environment, TOML file, default.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from mq9 import limits
from mq9.errors import error

ENV_PREFIX = "MQ9_"


def _setting(default: Any, doc: str, *, secret: bool = False, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"doc": doc, "secret": secret, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `mq9 server` runs with. Times are seconds, sizes bytes, unless the name says otherwise."""

    host: str = _setting("127.0.0.1", "Address NATS clients connect to. Nothing but localhost unless you say so.")
    port: int = _setting(4222, "Port for NATS clients; 0 picks a free one and the ready line names it.")
    monitor_host: str = _setting("127.0.0.1", "Address of the monitoring HTTP server.")
    monitor_port: int = _setting(8222, "Port of the monitoring HTTP server; 0 picks a free one, -1 turns it off.")
    data_dir: str = _setting("./mq9-data", "Directory of the store; made when absent.")
    storage: str = _setting("lmdb", "Store: lmdb (durable) or memory (lost at exit).", choices=("lmdb", "memory"))
    server_name: str = _setting("", "Name in INFO and in monitoring; default: the server id.")
    user: str = _setting("", "User name clients must give.")
    password: str = _setting(
        "", "Password clients must give. Prefer MQ9_PASSWORD: a flag is seen in the process list.", secret=True
    )
    token: str = _setting("", "Token clients must give. Prefer MQ9_TOKEN: a flag is seen in the process list.", secret=True)
    tls_cert: str = _setting("", "Certificate file (PEM); turns TLS on, with --tls-key.")
    tls_key: str = _setting("", "Private key file (PEM) of --tls-cert.")
    tls_ca: str = _setting("", "Certificates (PEM) that client certificates are checked against.")
    tls_verify: bool = _setting(False, "Require a client certificate signed by --tls-ca.")
    ws_host: str = _setting("127.0.0.1", "Address WebSocket clients connect to.")
    ws_port: int = _setting(-1, "Port for WebSocket clients (wss with --tls-cert, else ws); -1: off, 0: a free one.")
    ws_allowed_origins: str = _setting("", "Origins of pages that may connect, by comma; * for any. This host's own always may.")
    naming: str = _setting(
        "strict",
        "Mailbox names: strict is [a-z0-9.] up to 128; extended adds - and _, up to 256.",
        choices=("strict", "extended"),
    )
    encoding: str = _setting(
        "auto", "Payload encoding of FETCH and QUERY replies when the request does not say.", choices=("auto", "text", "base64")
    )
    default_ttl_s: int = _setting(0, "TTL of mailboxes made without one; 0: they never expire.")
    ack_wait_ms: int = _setting(limits.ACK_WAIT_MS_DEFAULT, "Lease of a fetched message, unless mailbox or FETCH say otherwise.")
    dedup_window_s: int = _setting(limits.DEDUP_WINDOW_S_DEFAULT, "How long an mq9-msg-id is remembered.")
    max_payload: int = _setting(limits.PAYLOAD_BYTES_MAX, "Largest message, headers included.")
    max_connections: int = _setting(limits.CONNECTIONS_MAX, "Most clients at once; less if descriptors are fewer.")
    max_subscriptions: int = _setting(limits.SUBSCRIPTIONS_PER_CONNECTION_MAX, "Most subscriptions of one connection.")
    max_pending: int = _setting(
        limits.PENDING_BYTES_MAX, "Outbound bytes of one connection before it is closed as a slow consumer."
    )
    write_deadline_s: float = _setting(limits.WRITE_DEADLINE_S, "A socket that takes nothing for this long is closed.")
    ping_interval_s: float = _setting(limits.PING_INTERVAL_S, "Idle time before the server pings a client.")
    max_pings_out: int = _setting(limits.PINGS_OUT_MAX, "Unanswered pings before a client is closed as stale.")
    lame_duck_grace_s: float = _setting(limits.LAME_DUCK_GRACE_S, "After SIGTERM: time clients have to move away by themselves.")
    lame_duck_close_s: float = _setting(limits.LAME_DUCK_CLOSE_S, "After that: time over which the rest are closed.")
    max_mailboxes: int = _setting(limits.MAILBOXES_MAX, "Most mailboxes.")
    max_mailbox_messages: int = _setting(limits.MAILBOX_MESSAGES_MAX, "Most messages in one mailbox.")
    max_mailbox_bytes: int = _setting(limits.MAILBOX_BYTES_MAX, "Most bytes in one mailbox.")
    commit: str = _setting(
        "auto",
        "Where commits run: auto measures the disk; inline in the loop; thread on a writer thread.",
        choices=("auto", "inline", "thread"),
    )
    sync: bool = _setting(True, "fsync before every acknowledgement. Off loses acknowledged messages at a power cut.")
    disk_reserve: int = _setting(-1, "Free bytes below which SEND is refused; -1: the larger of 5 % of the disk and 1 GiB.")
    embedding: str = _setting(
        "minilm",
        "How agents are compared by meaning: minilm (needs no network), wordllama (lighter), blend (both), http, none.",
        choices=("minilm", "wordllama", "blend", "http", "none"),
    )
    embedding_url: str = _setting("", "OpenAI-compatible service of --embedding http, up to /v1; minilm stands in for it.")
    embedding_model: str = _setting("text-embedding-3-small", "Model asked for at --embedding-url.")
    embedding_key: str = _setting("", "Bearer token for --embedding-url. Prefer MQ9_EMBEDDING_KEY.", secret=True)
    embedding_timeout_s: float = _setting(5.0, "Time one request to --embedding-url may take.")
    max_agents: int = _setting(limits.AGENTS_MAX, "Most registered agents.")
    agent_heartbeat_s: int = _setting(0, "Agents silent for 3 x this leave DISCOVER; 0: only those that gave a `heartbeat`.")
    node_id: str = _setting("", "Name of this broker in its cluster, the same for ever; empty: a single node.")
    meta: str = _setting("", "APIs of the cluster's meta service, some or all: host:port, comma-separated.")
    peer_host: str = _setting("127.0.0.1", "Address other brokers connect to. Beyond localhost it needs --cluster-token or TLS.")
    peer_port: int = _setting(9324, "Port for other brokers; 0 picks a free one and the ready line names it.")
    peer_advertise: str = _setting("", "host:port where other brokers find this one; empty: --peer-host and --peer-port.")
    client_advertise: str = _setting("", "host:port that clients of other brokers are told; empty: --host and --port.")
    zone: str = _setting("", "What fails together, such as a rack: replicas are spread over zones.")
    weight: int = _setting(100, "Share of the slots this broker takes, compared with others.")
    cluster_token: str = _setting(
        "", "Shown to the meta service and between brokers. Prefer MQ9_CLUSTER_TOKEN: a flag is seen in the process list.",
        secret=True,
    )  # fmt: skip
    cluster_tls_cert: str = _setting("", "Certificate (PEM) of this broker, for meta service and peers; names --peer-host.")
    cluster_tls_key: str = _setting("", "Private key (PEM) of --cluster-tls-cert.")
    cluster_tls_ca: str = _setting("", "Certificates (PEM) that meta nodes and brokers must be signed by.")
    log_level: str = _setting("info", "debug, info, warning or error.", choices=("debug", "info", "warning", "error"))
    log_format: str = _setting("text", "text or json, one line an event.", choices=("text", "json"))


FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Settings)}


def flag(name: str) -> str:
    """The command-line flag of a field: `data_dir` -> `--data-dir`."""
    return "--" + name.replace("_", "-")


def env(name: str) -> str:
    """The environment variable of a field: `data_dir` -> `MQ9_DATA_DIR`."""
    return ENV_PREFIX + name.upper()


def resolve(flags: Mapping[str, Any], environ: Mapping[str, str], config: str = "") -> Settings:
    """The settings that hold: flags before environment before the TOML file `config` before defaults.

    `flags` maps field names to values (text is fine; None: not given), `environ` is os.environ or like it. Raises
    INVALID_REQUEST naming the setting for a value of the wrong type or range and for an unknown name in the file.
    """
    given: dict[str, Any] = dict(_read_file(config)) if config else {}
    given.update((name, environ[env(name)]) for name in FIELDS if env(name) in environ)
    given.update((name, value) for name, value in flags.items() if value is not None)
    settings = Settings(**{name: _checked(name, value) for name, value in given.items()})
    check_cluster(settings)
    return settings


def check_cluster(settings: Settings) -> None:
    """Raises INVALID_REQUEST for settings of a cluster that contradict each other, or that would let strangers in."""
    tls = (settings.cluster_tls_cert, settings.cluster_tls_key, settings.cluster_tls_ca)
    is_proven = bool(settings.cluster_token or settings.cluster_tls_cert)
    is_member = bool(settings.node_id)
    rules = {
        "--node-id and --meta go together": is_member == bool(settings.meta),
        "--cluster-tls-cert, --cluster-tls-key and --cluster-tls-ca go together": len({bool(path) for path in tls}) == 1,
        "--meta must be host:port, comma-separated": all(_is_address(each) for each in meta_addresses(settings)),
        "--peer-advertise must be host:port": not settings.peer_advertise or _is_address(settings.peer_advertise),
        "--client-advertise must be host:port": not settings.client_advertise or _is_address(settings.client_advertise),
        f"--node-id and --zone have at most {limits.META_NAME_BYTES_MAX} bytes": (
            max(len(settings.node_id.encode()), len(settings.zone.encode())) <= limits.META_NAME_BYTES_MAX
        ),
        "a member of a cluster needs --storage lmdb": not is_member or settings.storage == "lmdb",
        f"the listener for brokers on {settings.peer_host} needs --cluster-token or --cluster-tls-cert": (
            not is_member or is_proven or _is_local(settings.peer_host)
        ),
        f"--peer-host {settings.peer_host} needs --peer-advertise: others cannot connect to it": (
            not is_member or bool(settings.peer_advertise) or settings.peer_host not in {"", "0.0.0.0", "::"}  # noqa: S104  # compared
        ),
    }
    for rule, holds in rules.items():
        if not holds:
            raise error("INVALID_REQUEST", reason=rule)


def meta_addresses(settings: Settings) -> list[str]:
    """Where the meta service is: host:port of each API."""
    return [address.strip() for address in settings.meta.split(",") if address.strip()]


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65_536


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_file(path: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as failure:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise error("INVALID_REQUEST", reason=f"settings file {path}: {failure}") from failure
    unknown = sorted(values.keys() - FIELDS.keys())
    if unknown:
        raise error("INVALID_REQUEST", reason=f"settings file {path}: no such setting: {', '.join(unknown)}")
    return values


# What a number may be, where zero or more is not the answer. Times and sizes are never negative.
_RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "monitor_port": (-1, 65_535),
    "ws_port": (-1, 65_535),
    "peer_port": (0, 65_535),
    "weight": (1, 10_000),
    "disk_reserve": (-1, 1 << 62),
    "max_payload": (1, limits.PAYLOAD_BYTES_HARD_MAX),
    "max_connections": (1, limits.CONNECTIONS_MAX),
    "max_pending": (limits.PAYLOAD_BYTES_HARD_MAX // 128, 1 << 32),
    "default_ttl_s": (0, limits.TTL_S_MAX),
    "ack_wait_ms": (limits.ACK_WAIT_MS_MIN, limits.ACK_WAIT_MS_MAX),
    "dedup_window_s": (limits.DEDUP_WINDOW_S_MIN, limits.DEDUP_WINDOW_S_MAX),
    "ping_interval_s": (0.01, 1e9),
    "write_deadline_s": (0.01, 1e9),
}


def _checked(name: str, value: Any) -> Any:
    """`value` as the type of the field. Text is converted as a flag or variable would be."""
    field = FIELDS[name]
    kind: type[Any] = type(field.default)
    converted = _converted(kind, value)
    if converted is None:
        shown = "" if field.metadata["secret"] else f", not {value!r}"
        raise error("INVALID_REQUEST", reason=f"{flag(name)} must be {_KINDS[kind]}{shown}")
    choices = field.metadata["choices"]
    if choices and converted not in choices:
        raise error("INVALID_REQUEST", reason=f"{flag(name)} must be one of {', '.join(choices)}, not {converted!r}")
    if kind in {int, float}:
        low, high = _RANGES.get(name, (0, 1 << 62))
        if not low <= converted <= high:
            raise error("INVALID_REQUEST", reason=f"{flag(name)} must be from {low} to {high}, not {converted}")
    return converted


def _converted(kind: type[Any], value: Any) -> Any:
    """`value` as `kind`, or None. Text becomes what it spells; of the rest only a whole number becomes another kind."""
    if isinstance(value, PathLike):
        value = fspath(value)
    try:
        if isinstance(value, str):
            return _BOOLS.get(value.lower()) if kind is bool else kind(value)
    except ValueError:
        return None
    if kind is float and type(value) is int:
        return float(value)
    return value if type(value) is kind else None


_BOOLS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
