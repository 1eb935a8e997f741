"""The server: router, sessions and connections, on real sockets."""
