"""One file per mq9 command, one function each: `handle(broker, request)`. The table of them is `router/dispatch.py`."""
