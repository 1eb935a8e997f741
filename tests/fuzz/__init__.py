"""Arbitrary requests: whatever a client asks, it gets one answer, and the answer is never that we have a bug."""
