"""What operators see: NATS-style JSON pages, health, and Prometheus metrics. Reads plain counters; changes nothing."""
