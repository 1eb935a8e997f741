"""Passwords and tokens given as flags leave the process list.

Every user of a machine can read every process's arguments. So a command that finds a secret among its own starts itself
again with the secret in the environment, which only the owner can read; that takes the time Python needs to get here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

# Flags whose values are secrets, and the environment variables the commands read instead.
VARIABLES: Final = {
    "--password": "MQ9_PASSWORD",
    "--token": "MQ9_TOKEN",
    "--embedding-key": "MQ9_EMBEDDING_KEY",
    "--cluster-token": "MQ9_CLUSTER_TOKEN",
}
META_VARIABLES: Final = {"--token": "MQ9_META_TOKEN", "--secret": "MQ9_META_SECRET"}  # of `mq9 meta`
URL_FLAGS: Final = ("--server", "-s")
URL_VARIABLE: Final = "MQ9_URL"


def split_secrets(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments without secrets, and the environment variables that say the same.

    A server URL is a secret when it has a user in it. What follows `--` is not ours to read.
    """
    variables = META_VARIABLES if arguments[:1] == ["meta"] else VARIABLES
    kept: list[str] = []
    secrets: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            kept += [argument, *rest]
            break
        flag, has_value, value = argument.partition("=")
        if flag not in variables and flag not in URL_FLAGS:
            kept.append(argument)
            continue
        if not has_value:
            following = next(rest, None)
            if following is None:
                kept.append(argument)  # a usage error, for the parser to name
                break
            value = following
        if flag in variables:
            secrets[variables[flag]] = value
        elif "@" in value:
            secrets[URL_VARIABLE] = value
        else:
            kept += [argument] if has_value else [argument, value]
    return kept, secrets


def leave_process_list(arguments: Sequence[str]) -> None:
    """Start this command again without the secrets among `arguments`; return when there are none."""
    kept, secrets = split_secrets(arguments)
    if not secrets:
        return
    before = sys.orig_argv[: len(sys.orig_argv) - len(arguments)]
    os.execve(sys.executable, [*before, *kept], {**os.environ, **secrets})  # noqa: S606  # ourselves, same arguments
