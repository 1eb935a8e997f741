"""The meta service: what a cluster must agree on, in Raft. Brokers, slots, in-sync sets, consumer offsets, configuration."""

from mq9 import grpc_engine

grpc_engine.set_up()
