"""Mailbox addresses: what is legal, and how unguessable ones are made."""

from __future__ import annotations

import re
import secrets
from typing import Final

from mq9.errors import error
from mq9.limits import ADDRESS_BYTES_MAX, ADDRESS_BYTES_MAX_EXTENDED, GENERATED_ADDRESS_CHARS

_STRICT: Final = re.compile(rb"[a-z0-9](?:[a-z0-9.]*[a-z0-9])?")
_EXTENDED: Final = re.compile(rb"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_PUBLIC: Final = re.compile(rb"[^\x00-\x20\x7f.*>]+(?:\.[^\x00-\x20\x7f.*>]+)*")
_DIGITS: Final = b"0123456789abcdefghijklmnopqrstuvwxyz"
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


def check_address(name: bytes, naming: str) -> bytes:
    """`name` if it is a legal address under the `strict` or `extended` rule; raises INVALID_ADDRESS."""
    if not name:
        raise error("INVALID_ADDRESS", reason="empty")
    extended = naming == "extended"
    longest = ADDRESS_BYTES_MAX_EXTENDED if extended else ADDRESS_BYTES_MAX
    if len(name) > longest:
        raise error("INVALID_ADDRESS", reason=f"longer than {longest} characters")
    if b".." in name:
        raise error("INVALID_ADDRESS", reason="two dots in a row")
    if not (_EXTENDED if extended else _STRICT).fullmatch(name):
        allowed = "a-z, 0-9, '.', '-' and '_'" if extended else "a-z, 0-9 and '.'"
        raise error("INVALID_ADDRESS", reason=f"only {allowed}, beginning and ending with a letter or digit")
    return name


def check_public_address(name: bytes) -> bytes:
    """`name` if it may be a public mailbox of the older dialect: any subject tokens without wildcards."""
    if not name:
        raise error("INVALID_ADDRESS", reason="empty")
    if len(name) > ADDRESS_BYTES_MAX_EXTENDED:
        raise error("INVALID_ADDRESS", reason=f"longer than {ADDRESS_BYTES_MAX_EXTENDED} bytes")
    if not _PUBLIC.fullmatch(name):
        raise error("INVALID_ADDRESS", reason="not subject tokens: empty token, wildcard, space or control character")
    return name


def new_address() -> bytes:
    """A fresh address that nobody can guess: knowing it is the right to use the mailbox."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(GENERATED_ADDRESS_CHARS)).encode()


def base36(number: int, width: int) -> bytes:
    """`number` in the digits and letters of `new_address`, the least significant last: what int(text, 36) reads."""
    digits = bytearray(width)
    for at in range(width - 1, -1, -1):
        number, digit = divmod(number, 36)
        digits[at] = _DIGITS[digit]
    return bytes(digits)


def bare_address(uri: str) -> str:
    """`mq9://host/addr` reduced to `addr`; anything else as it is."""
    scheme, found, rest = uri.partition("://")
    if not found or scheme.lower() != "mq9":
        return uri
    return rest.partition("/")[2]
