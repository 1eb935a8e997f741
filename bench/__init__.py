"""Benchmarks: what the figures in the documents were measured with."""

import os

# As the broker does, and before anything here imports numpy (see mq9/registry/background.py).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
