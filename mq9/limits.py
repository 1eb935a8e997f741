"""Every limit of the broker: one constant each, with its unit in the name and its reason beside it.

Limits an operator may reasonably change are fields of `mq9.settings.Settings`, with these values as defaults.
"""

from __future__ import annotations

from typing import Final

# --- The wire -------------------------------------------------------------------------------------------------
CONTROL_LINE_BYTES_MAX: Final = 4096  # as nats-server; a longer line is an attack or a bug
HEADERS_BYTES_MAX: Final = 16 * 1024  # a header block is parsed whole
PAYLOAD_BYTES_MAX: Final = 1024 * 1024  # as nats-server's default; INFO announces it
PAYLOAD_BYTES_HARD_MAX: Final = 8 * 1024 * 1024  # the highest value the setting takes: one message is one read buffer
PREAUTH_BUFFER_BYTES_MAX: Final = 8 * 1024  # INFO, CONNECT and PING fit; nothing else is due yet
PREAUTH_TIMEOUT_S: Final = 2.0  # as nats-server's auth timeout
TLS_HANDSHAKE_TIMEOUT_S: Final = 2.0
PREAUTH_CONNECTIONS_MAX: Final = 4096  # connections that have not sent a good CONNECT, all addresses together
PREAUTH_CONNECTIONS_PER_ADDRESS_MAX: Final = 1024  # one host's share of the above
PREAUTH_CONNECTIONS_PER_FAILING_ADDRESS_MAX: Final = 64  # the same for a host that lately gave wrong credentials
AUTH_FAILURE_DELAY_S: Final = 0.1  # what the first wrong credentials of a host wait for their answer; each further one doubles it
AUTH_FAILURE_DELAY_S_MAX: Final = 2.0
AUTH_FAILURE_WINDOW_S: Final = 30.0  # failures of a host are forgotten this long after the last one
AUTH_FAILURE_ADDRESSES_MAX: Final = 4096  # hosts remembered at once
SUBSCRIPTIONS_PER_CONNECTION_MAX: Final = 1000
SUBJECT_TOKENS_MAX: Final = 32  # bounds the depth of every walk of the subscription tree
SUBJECT_BYTES_MAX: Final = 1024
SUBSCRIPTION_ID_BYTES_MAX: Final = 64  # published clients use short decimal numbers
READ_PAUSE_PENDING_BYTES: Final = 1024 * 1024  # a client whose own replies pile up to this is not read until they are gone
PENDING_BYTES_MAX: Final = 8 * 1024 * 1024  # outbound bytes of one connection before it is a slow consumer
WRITE_DEADLINE_S: Final = 10.0  # a socket that takes nothing for this long is closed
PING_INTERVAL_S: Final = 120.0
PINGS_OUT_MAX: Final = 2
CONNECTIONS_MAX: Final = 65_536  # or what the descriptor limit leaves, logged at start
LAME_DUCK_GRACE_S: Final = 10.0  # ldm:true is sent, clients move
LAME_DUCK_CLOSE_S: Final = 30.0  # the rest are closed, spread over this

# --- Requests -------------------------------------------------------------------------------------------------
JSON_BODY_BYTES_MAX: Final = 1024 * 1024  # also bounded by max payload; a request body larger than this is a mistake
JSON_DEPTH_MAX: Final = 64  # AgentCards are about 6 deep
FETCH_MESSAGES_MAX: Final = 1000
FETCH_MESSAGES_DEFAULT: Final = 100  # as the published protocol
FETCH_BYTES_MAX: Final = 4 * 1024 * 1024  # of stored payload in one reply
FETCH_WAIT_MS_DEFAULT: Final = 500  # as the published protocol
FETCH_WAIT_MS_MAX: Final = 60_000  # a longer wait is a new request
FETCH_EARLY_ANSWER_MS: Final = 100  # waits of 1 s and more answer this much early: SDKs time out at the same 5 s
QUERY_MESSAGES_DEFAULT: Final = 100
QUERY_MESSAGES_MAX: Final = 1000
QUERY_SCAN_MAX: Final = 100_000  # records looked at for one QUERY before it answers with what it has
WAITERS_PER_MAILBOX_MAX: Final = 1000
WAITERS_MAX: Final = 100_000
PUSH_WINDOW_MESSAGES: Final = 128  # pushed to one subscriber before others have their turn
PUSH_WINDOW_BYTES: Final = 128 * 1024  # about what a healthy socket takes at once
DISCOVER_LIMIT_MAX: Final = 1000
DISCOVER_LIMIT_DEFAULT: Final = 20

# --- Mailboxes ------------------------------------------------------------------------------------------------
ADDRESS_BYTES_MAX: Final = 128  # as the published protocol
ADDRESS_BYTES_MAX_EXTENDED: Final = 256
GENERATED_ADDRESS_CHARS: Final = 26  # 36**26 > 2**134: unguessability is the security boundary
DESC_BYTES_MAX: Final = 4096
MAILBOXES_MAX: Final = 1_000_000
MAILBOX_MESSAGES_MAX: Final = 1_000_000
MAILBOX_BYTES_MAX: Final = 1024 * 1024 * 1024
GROUPS_PER_MAILBOX_MAX: Final = 1000
GROUP_NAME_BYTES_MAX: Final = 256
UNACKED_PER_GROUP_MAX: Final = 100_000  # handed out and not confirmed; FETCH gives no more until some are
KEY_BYTES_MAX: Final = 256
TAGS_MAX: Final = 64
TAG_BYTES_MAX: Final = 256
MSG_ID_HEADER_BYTES_MAX: Final = 256
ACK_WAIT_MS_DEFAULT: Final = 30_000
ACK_WAIT_MS_MIN: Final = 100
ACK_WAIT_MS_MAX: Final = 24 * 3600 * 1000
DELAY_S_MAX: Final = 365 * 86_400
TTL_S_MAX: Final = 365 * 86_400
DEDUP_WINDOW_S_DEFAULT: Final = 600
DEDUP_WINDOW_S_MIN: Final = 120
DEDUP_WINDOW_S_MAX: Final = 86_400
ACTIVE_MAILBOXES_MAX: Final = 50_000  # in-memory states kept; idle ones are dropped and rebuilt on first touch

# --- Agents ---------------------------------------------------------------------------------------------------
AGENT_NAME_BYTES_MAX: Final = 256
AGENT_RECORD_BYTES_MAX: Final = 1024 * 1024
AGENTS_MAX: Final = 1_000_000

# --- Storage --------------------------------------------------------------------------------------------------
DISK_RESERVE_FRACTION: Final = 0.05  # SEND stops at max(5 %, 1 GiB) free, so that ACK and DELETE still have room
DISK_RESERVE_BYTES: Final = 1024 * 1024 * 1024
MAP_BYTES_INITIAL: Final = 256 * 1024 * 1024
MAP_BYTES_MAX: Final = 1 << 42  # address space, not disk
MAP_RESERVE_BYTES: Final = 64 * 1024 * 1024  # LMDB needs free pages to delete: grow before this is left
BALLAST_BYTES: Final = 16 * 1024 * 1024  # allocated ahead in the data file: deletes work when the disk has no room left
COMMIT_OPS_MAX: Final = 16_384  # operations in one transaction: bounds the time a commit holds the loop
COMMIT_BYTES_MAX: Final = 16 * 1024 * 1024
STAGED_BYTES_MAX: Final = 64 * 1024 * 1024  # waiting for a commit; above this, senders are not read
INLINE_COMMIT_S_MAX: Final = 0.002  # slower syncs than this move commits to the writer thread
RECLAIM_PER_TICK: Final = 1000  # expired rows deleted in one step
RECLAIM_TICK_S: Final = 0.25
SLOTS: Final = 256  # fixed when a data directory is made, so that it can join a cluster later
