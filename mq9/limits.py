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
TLS_HANDSHAKE_TIMEOUT_S: Final = 2.0  # as nats-server's; a handshake is two round trips
PREAUTH_CONNECTIONS_MAX: Final = 4096  # connections that have not sent a good CONNECT, all addresses together
PREAUTH_CONNECTIONS_PER_ADDRESS_MAX: Final = 1024  # one host's share of the above
PREAUTH_CONNECTIONS_PER_FAILING_ADDRESS_MAX: Final = 64  # the same for a host that lately gave wrong credentials
AUTH_FAILURE_DELAY_S: Final = 0.1  # what the first wrong credentials of a host wait for their answer; each further one doubles it
AUTH_FAILURE_DELAY_S_MAX: Final = 2.0  # a person who mistypes waits no longer; a guesser gets 1,800 tries an hour
AUTH_FAILURE_WINDOW_S: Final = 30.0  # failures of a host are forgotten this long after the last one
AUTH_FAILURE_ADDRESSES_MAX: Final = 4096  # hosts remembered at once
SUBSCRIPTIONS_PER_CONNECTION_MAX: Final = 1000  # clients multiplex their inboxes and need a handful
SUBJECT_TOKENS_MAX: Final = 32  # bounds the depth of every walk of the subscription tree
SUBJECT_BYTES_MAX: Final = 1024  # four times the longest address with its command
SUBSCRIPTION_ID_BYTES_MAX: Final = 64  # published clients use short decimal numbers
READ_PAUSE_PENDING_BYTES: Final = 1024 * 1024  # a client whose own replies pile up to this is not read until they are gone
PENDING_BYTES_MAX: Final = 8 * 1024 * 1024  # outbound bytes of one connection before it is a slow consumer
WRITE_DEADLINE_S: Final = 10.0  # a socket that takes nothing for this long is closed
PING_INTERVAL_S: Final = 120.0  # as nats-server's
PINGS_OUT_MAX: Final = 2  # as nats-server's: a silent client is gone after about five minutes
CONNECTIONS_MAX: Final = 65_536  # or what the descriptor limit leaves, logged at start
LINGER_S: Final = 1.0  # after -ERR the client may still be sending; closing at once would reset the text away
DESCRIPTORS_RESERVED: Final = 128  # of the descriptor limit: for the store, the monitor, logs and what Python opens
ACCEPT_BACKLOG: Final = 1024  # connections the system keeps for us to accept
ROUTE_CACHE_ENTRIES_MAX: Final = 65_536  # as many as connections; a full cache is emptied and refills as it is used
ROUTE_CACHE_KEY_BYTES_MAX: Final = 128  # longer subjects are looked up every time, so that a flood of them cannot fill memory
MONITOR_CONNECTIONS_MAX: Final = 64  # scrapers and a few people; clients need the descriptors
MONITOR_REQUEST_S: Final = 10.0  # from connecting, or from the last request, to the end of the next one
MONITOR_PAGE_MAX: Final = 1024  # rows of one page, as nats-server
LAME_DUCK_GRACE_S: Final = 10.0  # ldm:true is sent, clients move
LAME_DUCK_CLOSE_S: Final = 30.0  # the rest are closed, spread over this

# --- Requests -------------------------------------------------------------------------------------------------
JSON_BODY_BYTES_MAX: Final = 1024 * 1024  # also bounded by max payload; a request body larger than this is a mistake
JSON_DEPTH_MAX: Final = 64  # AgentCards are about 6 deep
FETCH_MESSAGES_MAX: Final = 1000  # ten times the default; a reply is one frame, bounded by bytes too
FETCH_MESSAGES_DEFAULT: Final = 100  # as the published protocol
FETCH_BYTES_MAX: Final = 4 * 1024 * 1024  # of stored payload in one reply
FETCH_WAIT_MS_DEFAULT: Final = 500  # as the published protocol
FETCH_WAIT_MS_MAX: Final = 60_000  # a longer wait is a new request
FETCH_EARLY_ANSWER_MS: Final = 100  # waits of 1 s and more answer this much early: SDKs time out at the same 5 s
QUERY_MESSAGES_DEFAULT: Final = 100  # as FETCH
QUERY_MESSAGES_MAX: Final = 1000  # as FETCH
QUERY_SCAN_MAX: Final = 100_000  # records looked at for one QUERY before it answers with what it has
WAITERS_PER_MAILBOX_MAX: Final = 1000  # each arrival looks at them; more readers than this share a group
WAITERS_MAX: Final = 100_000  # about 1 kB each: 100 MB of long polls
PUSH_WINDOW_MESSAGES: Final = 128  # pushed to one subscriber before others have their turn
PUSH_RETRY_S: Final = 1.0  # after a refusal of the disk, until it is asked again to claim messages for a group
PUSH_WINDOW_BYTES: Final = 128 * 1024  # about what a healthy socket takes at once
LISTED_MESSAGES_MAX: Final = 10_000  # of one MAILBOX.LIST, the older dialect's: about 1 MB of reply; it says when there are more
PUBLIC_TOLD_MAX: Final = 200_000  # public mailboxes that all readers of PUBLIC.LIST on a broker of a cluster remember: 40 MB
DISCOVER_LIMIT_MAX: Final = 1000  # a page is ranked and answered whole; the rest is on the next one
DISCOVER_LIMIT_DEFAULT: Final = 20  # more than anybody reads
DISCOVER_GATHER_S: Final = 3.0  # in a cluster: what other brokers have not ranked by then is left out
DISCOVER_SHOW_S: Final = 1.0  # the same for the bodies of the agents found

# --- Mailboxes ------------------------------------------------------------------------------------------------
ADDRESS_BYTES_MAX: Final = 128  # as the published protocol
ADDRESS_BYTES_MAX_EXTENDED: Final = 256  # room for names made of ids
GENERATED_ADDRESS_CHARS: Final = 26  # 36**26 > 2**134: unguessability is the security boundary
DESC_BYTES_MAX: Final = 4096  # a description, not a document: it is in memory with the mailbox
MAILBOXES_MAX: Final = 1_000_000  # stops a runaway creator; a definition is about 200 B on disk
MAILBOX_MESSAGES_MAX: Final = 1_000_000  # a mailbox is a backlog, not an archive
MAILBOX_BYTES_MAX: Final = 1024 * 1024 * 1024  # one mailbox must not fill the disk of all
GROUPS_PER_MAILBOX_MAX: Final = 1000  # all groups of a mailbox in use are in memory
GROUP_NAME_BYTES_MAX: Final = 256  # part of a key; LMDB takes keys of 511 bytes
GROUP_LAG_COUNT_MAX: Final = 10_000  # how far the messages are counted that a group is behind: what is more is simply far
UNACKED_PER_GROUP_MAX: Final = 100_000  # handed out and not confirmed; FETCH gives no more until some are
KEY_BYTES_MAX: Final = 256  # an identifier, not a payload: it is stored with every message
TAGS_MAX: Final = 64  # each is compared for every message that a filter looks at
TAG_BYTES_MAX: Final = 256  # an identifier, as a key
MSG_ID_HEADER_BYTES_MAX: Final = 256  # room for several UUIDs; only a digest is kept
ACK_WAIT_MS_DEFAULT: Final = 30_000  # as JetStream's
ACK_WAIT_MS_MIN: Final = 100  # shorter than a bad round trip, and everything is delivered twice
ACK_WAIT_MS_MAX: Final = 24 * 3600 * 1000  # a day: work that takes longer should report, not hold a lease
DELAY_S_MAX: Final = 365 * 86_400  # a year
TTL_S_MAX: Final = 365 * 86_400  # a year, as the delay
DEDUP_WINDOW_S_DEFAULT: Final = 600  # five times JetStream's: outlasts a restart and a failover
DEDUP_WINDOW_S_MIN: Final = 120  # JetStream's default
DEDUP_WINDOW_S_MAX: Final = 86_400  # every id is a row until its window ends
ACTIVE_MAILBOXES_MAX: Final = 50_000  # in-memory states kept; idle ones are dropped and rebuilt on first touch

# --- Agents ---------------------------------------------------------------------------------------------------
AGENT_NAME_BYTES_MAX: Final = 256  # part of a key; LMDB takes keys of 511 bytes
AGENT_RECORD_BYTES_MAX: Final = 1024 * 1024  # as a message; AgentCards are a few kB
AGENTS_MAX: Final = 1_000_000  # the indexes are in memory

# --- Storage --------------------------------------------------------------------------------------------------
DISK_RESERVE_FRACTION: Final = 0.05  # SEND stops at max(5 %, 1 GiB) free, so that ACK and DELETE still have room
DISK_RESERVE_BYTES: Final = 1024 * 1024 * 1024  # the larger of the two counts
MAP_BYTES_INITIAL: Final = 256 * 1024 * 1024  # more than small installations use; it grows by itself
MAP_BYTES_MAX: Final = 1 << 42  # address space, not disk
MAP_RESERVE_BYTES: Final = 64 * 1024 * 1024  # LMDB needs free pages to delete: grow before this is left
BALLAST_BYTES: Final = 16 * 1024 * 1024  # allocated ahead in the data file: deletes work when the disk has no room left
COMMIT_OPS_MAX: Final = 16_384  # operations in one transaction: bounds the time a commit holds the loop
COMMIT_BYTES_MAX: Final = 16 * 1024 * 1024  # bounds a commit as the operations do, when messages are large
STAGED_BYTES_MAX: Final = 64 * 1024 * 1024  # waiting for a commit; above this, senders are not read
INLINE_COMMIT_S_MAX: Final = 0.002  # slower syncs than this move commits to the writer thread
RECLAIM_PER_TICK: Final = 1000  # expired rows deleted in one step
RECLAIM_TICK_S: Final = 0.25  # with the step above 4,000 rows a second
SLOTS: Final = 256  # fixed when a data directory is made, so that it can join a cluster later

# --- Meta service ---------------------------------------------------------------------------------------------
META_COMMAND_BYTES_MAX: Final = 512 * 1024  # half an append batch: PySyncObj then never splits (and pickles) an entry
META_APPEND_BYTES_MAX: Final = 1024 * 1024  # entries in one frame, but for the one that passes it
META_FRAME_BYTES_MAX: Final = 4 * 1024 * 1024  # an append batch, its last entry and their wrapping fit twice
META_HELLO_BYTES_MAX: Final = 4096  # before a peer has proven itself
META_HELLO_TIMEOUT_S: Final = 2.0  # as before the CONNECT of a client
META_HELLOS_MAX: Final = 32  # connections that have not proven themselves, at once
META_PEER_PENDING_BYTES_MAX: Final = 16 * 1024 * 1024  # unsent to one peer; beyond it frames are dropped, and Raft repeats
META_PROPOSALS_MAX: Final = 10_000  # waiting for a commit; more are refused
META_LOG_ENTRIES_MAX: Final = 20_000  # the journal's prefix is dropped beyond this
META_LOG_BYTES_MAX: Final = 64 * 1024 * 1024  # the same by size, because the journal is held in memory too
META_LOG_ENTRIES_KEPT: Final = 5_000  # applied entries kept for peers that lag a little, which spares them a snapshot
META_SNAPSHOT_CHUNK_BYTES: Final = 256 * 1024  # read and sent between two heartbeats
META_MAP_BYTES: Final = 1 << 36  # address space, not disk
META_CLIENTS_REMEMBERED_MAX: Final = 4096  # answers kept for repeated requests; the longest unused goes first
META_FLOORS_PER_COMMAND_MAX: Final = 10_000  # what is applied in one turn, 16 ms of it
META_FLOORS_PER_CHUNK: Final = 2_000  # of one GetOffsets message
META_BROKERS_MAX: Final = 1_000  # each has a heartbeat and a watch stream
META_SLOTS_MAX: Final = 4_096  # the slot table is in memory and in every snapshot whole
META_NAME_BYTES_MAX: Final = 256  # of a broker, zone or address
META_STREAMS_MAX: Final = 4_096  # heartbeat and watch streams of one node

# --- Brokers of a cluster -------------------------------------------------------------------------------------
PEER_QUEUE_BYTES_MAX: Final = 8 * 1024 * 1024  # waiting for one peer; above this, what can wait is not sent to it
PEER_MESSAGE_BYTES_MAX: Final = 96 * 1024 * 1024  # one stream message: the largest payload, or a repair, with its wrapping
SLOT_LOG_BYTES_MAX: Final = 8 * 1024 * 1024  # keys in one slot's operation log; a replica further behind is sent a copy
REPAIR_BYTES_MAX: Final = 16 * 1024 * 1024  # values sent in one step to a replica that is behind; more is a copy
COPY_ROWS: Final = 1000  # of one part of a copy, read in one go
COPY_BYTES: Final = 1024 * 1024  # the same by size
COPIES_PER_PEER_MAX: Final = 4  # slots copied to one replica at a time
REPLICA_LAG_S_MAX: Final = 2.0  # an in-sync replica that has confirmed nothing for this long leaves the set
UNCOMMITTED_S_MAX: Final = 5.0  # after this long without enough replicas, those who wait are told to ask again
PEER_BATCH_ENVELOPES_MAX: Final = 1000  # what one side says at once; handling it takes the other a few milliseconds
PEER_BATCH_BYTES_MAX: Final = 1024 * 1024  # the same when envelopes are large
PEER_BACKLOG_BYTES_MAX: Final = 256 * 1024 * 1024  # waiting for a peer that takes nothing: the link is given up
PEER_HELLO_TIMEOUT_S: Final = 2.0  # as before the CONNECT of a client
PEER_HELLOS_MAX: Final = 64  # streams that have not said who they are, at once
PEER_STREAMS_PER_CONNECTION_MAX: Final = 16  # a broker opens one; what a second dialling leaves behind fits too
PEER_KEEPALIVE_MS: Final = 2000  # a peer that is silent on the network for twice this is gone
PEER_REDIAL_S_MAX: Final = 2.0  # between attempts to reach a broker, however many failed
FORWARD_WAIT_S: Final = 5.0  # a slot has a new leader within this, or its requests are refused; SDKs time out then too
FORWARD_RETRY_S: Final = 0.1  # between looks whether a slot that was not served is now
FORWARD_WAITING_MAX: Final = 1000  # requests that wait for the leader of one slot
FORWARD_WAITING_BYTES_MAX: Final = 8 * 1024 * 1024  # the same in bytes; a request that is larger waits alone
FORWARDS_MAX: Final = WAITERS_MAX  # on their way to other brokers, long polls included
PUSH_AHEAD_BYTES: Final = 4 * PUSH_WINDOW_BYTES  # pushed across brokers and not known to be taken: what a round trip carries
