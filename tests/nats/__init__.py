"""The codec: bytes to frames and back, without a socket."""
