"""What tests share: a real broker process, a real nats-server, and a NATS client that is nothing but a socket."""
