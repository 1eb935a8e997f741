"""Generated from proto/mq9/v1 by scripts/proto: the messages brokers, tools and the meta service exchange."""
