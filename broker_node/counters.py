"""Plain counters of the broker: integers that the hot path adds to and monitoring reads when it is asked."""

from __future__ import annotations


class Counters:
    """Since start. Nothing here is a lock, a label or an object: an add is all it may cost."""

    __slots__ = (
        "acks",
        "agents_registered",
        "commands",
        "damaged_records",
        "dead_letters",
        "delayed_promoted",
        "deletes",
        "discovers",
        "duplicates",
        "errors",
        "fetched_messages",
        "fetches",
        "leases_expired",
        "nacks",
        "queries",
        "reclaimed",
        "redeliveries",
        "refused",
        "replaced_by_key",
        "sends",
        "waits",
    )

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    acks: int
    agents_registered: int
    commands: int
    damaged_records: int
    dead_letters: int
    delayed_promoted: int
    deletes: int
    discovers: int
    duplicates: int
    errors: int
    fetched_messages: int
    fetches: int
    leases_expired: int
    nacks: int
    queries: int
    reclaimed: int
    redeliveries: int
    replaced_by_key: int
    sends: int
    refused: int
    waits: int
