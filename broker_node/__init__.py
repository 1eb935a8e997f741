"""From the bytes of clients to commands and messages, and back: the process that serves one node."""

from mq9 import grpc_engine

grpc_engine.set_up()
