"""Every setting of the broker: one field each of one frozen dataclass.

A field carries its flag, environment name and one-line description; `--help`, the table in docs/settings.md and the
TOML file are made from or checked against them. Precedence: flag, environment, TOML file, default.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mq9 import limits

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
    password: str = _setting("", "Password clients must give. Prefer MQ9_PASSWORD: a flag is seen in the process list.",
                             secret=True)
    token: str = _setting("", "Token clients must give. Prefer MQ9_TOKEN: a flag is seen in the process list.",
                          secret=True)
    tls_cert: str = _setting("", "Certificate file (PEM); turns TLS on, with --tls-key.")
    tls_key: str = _setting("", "Private key file (PEM) of --tls-cert.")
    tls_ca: str = _setting("", "Certificates (PEM) that client certificates are checked against.")
    tls_verify: bool = _setting(False, "Require a client certificate signed by --tls-ca.")
    naming: str = _setting("strict", "Mailbox names: strict is [a-z0-9.] up to 128; extended adds - and _, up to 256.",
                           choices=("strict", "extended"))
    encoding: str = _setting("auto", "Payload encoding of FETCH and QUERY replies when the request does not say.",
                             choices=("auto", "text", "base64"))
    default_ttl_s: int = _setting(0, "TTL of mailboxes made without one; 0: they never expire.")
    ack_wait_ms: int = _setting(limits.ACK_WAIT_MS_DEFAULT, "Lease of a fetched message, unless mailbox or FETCH say otherwise.")
    dedup_window_s: int = _setting(limits.DEDUP_WINDOW_S_DEFAULT, "How long an mq9-msg-id is remembered.")
    max_payload: int = _setting(limits.PAYLOAD_BYTES_MAX, "Largest message, headers included.")
    max_connections: int = _setting(limits.CONNECTIONS_MAX, "Most clients at once; lowered to what the descriptor limit allows.")
    max_subscriptions: int = _setting(limits.SUBSCRIPTIONS_PER_CONNECTION_MAX, "Most subscriptions of one connection.")
    max_pending: int = _setting(limits.PENDING_BYTES_MAX, "Outbound bytes of one connection before it is closed as a slow consumer.")
    write_deadline_s: float = _setting(limits.WRITE_DEADLINE_S, "A socket that takes nothing for this long is closed.")
    ping_interval_s: float = _setting(limits.PING_INTERVAL_S, "Idle time before the server pings a client.")
    max_pings_out: int = _setting(limits.PINGS_OUT_MAX, "Unanswered pings before a client is closed as stale.")
    lame_duck_grace_s: float = _setting(limits.LAME_DUCK_GRACE_S, "After SIGTERM: time clients have to move away by themselves.")
    lame_duck_close_s: float = _setting(limits.LAME_DUCK_CLOSE_S, "After that: time over which the rest are closed.")
    max_mailboxes: int = _setting(limits.MAILBOXES_MAX, "Most mailboxes.")
    max_mailbox_messages: int = _setting(limits.MAILBOX_MESSAGES_MAX, "Most messages in one mailbox.")
    max_mailbox_bytes: int = _setting(limits.MAILBOX_BYTES_MAX, "Most bytes in one mailbox.")
    commit: str = _setting("auto", "Where commits run: auto measures the disk; inline in the loop; thread on a writer thread.",
                           choices=("auto", "inline", "thread"))
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
    log_level: str = _setting("info", "debug, info, warning or error.", choices=("debug", "info", "warning", "error"))
    log_format: str = _setting("text", "text or json, one line an event.", choices=("text", "json"))


FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Settings)}


def flag(name: str) -> str:
    """The command-line flag of a field: `data_dir` -> `--data-dir`."""
    return "--" + name.replace("_", "-")


def env(name: str) -> str:
    """The environment variable of a field: `data_dir` -> `MQ9_DATA_DIR`."""
    return ENV_PREFIX + name.upper()
