"""Fakes that ship with mq9, for its users' tests and its own: time that stands still until told, and a whole broker in this
process. They fake the machine around the broker; the broker itself is the real one, on a real store."""
