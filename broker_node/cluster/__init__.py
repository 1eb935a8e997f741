"""What makes one broker of several nodes: docs/decisions/0009."""
