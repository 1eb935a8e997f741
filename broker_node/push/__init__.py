"""The older dialect's push: subscriptions to mailboxes and to the public directory, and what is said on them."""
