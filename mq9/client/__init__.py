"""The Python client, on nats-py. Users import its names from `mq9`.

wire.py        what goes into a request and what a reply says: bytes and records, no IO
message.py     the records: Message, Mailbox, Receipt, ...
retry.py       deadlines, pauses, and which failures are worth another attempt
connection.py  one NATS connection: requests, replies, reconnects
client.py      one method per command
holding.py     what a consumer holds of its group: prefetch and leases as a state machine, no IO
consumer.py    the loop around it
sync.py        the same client for programs without an event loop
compat.py      the constructor of the published SDK
"""
