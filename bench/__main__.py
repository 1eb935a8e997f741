"""`make bench`: the broker against JetStream. The other benchmarks are modules of their own:

    python -m bench                      bench.broker: SEND and FETCH+ACK against JetStream
    python -m bench.cluster              the same with three replicas; how long a broker that comes back takes to catch up
    python -m bench.push                 how long a pushed message takes to a hundred subscribers
    python -m bench.storage_bench        the store and the group commit alone
    python -m bench.discovery            how well agents are found
    python -m bench.discovery_scale      how fast, with many of them

Each has --help.
"""

from __future__ import annotations

from bench.broker import main

if __name__ == "__main__":
    main()
