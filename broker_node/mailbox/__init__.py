"""The mailbox domain: what a mailbox, a group and a lease are. Knows the store's contract; never sees a socket."""
