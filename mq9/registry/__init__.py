"""Agents: who is registered, until when, and which of them can do what somebody asks for.

`registry.Registry` is the one door. It belongs to the thread of the event loop, knows no NATS and no asyncio, and answers
through callbacks. Two threads of its own do what takes long: one writes the indexes, one ranks.
"""
