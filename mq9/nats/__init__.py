"""The NATS client protocol, seen from the server, without any IO: bytes in, frames out, and bytes for what we say.

    parser.Parser   bytes of a connection -> frames        frames    what a client can say
    encoder         what a server says -> bytes            headers   blocks of `Name: value` lines
    subjects        validity and wildcard matching         connect   the options of CONNECT

Nothing here knows sockets, time, tasks or logging; the session (`broker_node/session.py`) gives every frame its meaning.
Subjects, headers and payloads are bytes. The only exception that leaves this package is `frames.ProtocolError`.
"""
