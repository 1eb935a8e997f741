"""The way to the meta service: `client.MetaClient`. What is said on it is `proto/mq9/v1/meta.proto`."""
