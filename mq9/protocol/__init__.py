"""The mq9 commands without NATS: addresses, priorities, headers, requests, replies. Pure functions over bytes."""
