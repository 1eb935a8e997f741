"""What is committed names the project alone: no machine's paths, no registry's host, no secrets."""

from __future__ import annotations

import re
import tomllib

from tests.tidy.sources import CODE, ROOT, texts

# Written in pieces, so that this file passes itself.
MACHINE_PATHS = re.compile("/" + "(?:work|root|home|Users)" + r"/[\w.-]+")
REGISTRY_HOSTS = re.compile(
    r"\b(?:registry\.npmjs|files\.pythonhosted|pypi\.org|proxy\.golang|repo1?\.maven|deb\.debian|(?:index|static)\.crates)\b"
)
PRIVATE_KEYS = re.compile("-----BEGIN " + "(?:RSA |EC )?PRIVATE KEY")

# Lock files name their package index by its canonical name; that is part of their format.
LOCKS = ("Cargo.lock", "tests/tidy/test_texts.py")


def _found(pattern: re.Pattern[str], *, without: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path}:{number} {match[0]}"
        for path, text in texts()
        if not path.endswith(without)
        for number, line in enumerate(text.splitlines(), 1)
        if (match := pattern.search(line))
    ]


def test_no_machine_path() -> None:
    assert not _found(MACHINE_PATHS)


def test_no_registry_host() -> None:
    assert not _found(REGISTRY_HOSTS, without=LOCKS)


def test_no_private_key() -> None:
    """Tests make their keys when they run."""
    assert not _found(PRIVATE_KEYS)


def test_what_is_not_python_is_packaged() -> None:
    """A file that the code reads at run time must be in the wheel, not only in the repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packaged = {
        path
        for package, patterns in project["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package).glob(pattern)
    }
    others = {path for room in CODE for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert not {path for path in others if path.suffix not in (".py", ".pyi")} - packaged
