"""Bytes on disk: an ordered key-value store with atomic, durable batches, and what rows and keys look like in it."""
