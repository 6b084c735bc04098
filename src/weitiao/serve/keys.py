"""Who may ask: keys from a file, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import stat
from dataclasses import dataclass
from pathlib import Path

from weitiao.errors import CommandError
from weitiao.log import logger

MIN_LENGTH = 16
"""Shortest key in characters; shorter ones can be guessed."""
MAKE_ONE = 'make one: python -c "import secrets; print(secrets.token_urlsafe(32))"'


@dataclass(frozen=True, slots=True)
class Keys:
    """SHA-256 of each allowed key; the keys themselves are not kept."""

    digests: tuple[bytes, ...]

    def allow(self, authorization: str | None) -> bool:
        """Whether a request may be answered.

        Args:
            authorization: the request's header; None where it has none.

        Returns:
            Whether it is ``Bearer`` and one of the keys. Takes as long for a wrong key as for a right one.
        """
        scheme, _, given = (authorization or "").partition(" ")
        digest = _digest(given.strip())
        matches = [hmac.compare_digest(digest, known) for known in self.digests]
        return scheme.lower() == "bearer" and any(matches)


def read_keys(path: Path) -> Keys:
    """Read a key file.

    Args:
        path: of the file; see ``read_key_texts``.

    Returns:
        The keys, as digests.
    """
    return Keys(tuple(_digest(key) for key in read_key_texts(path)))


def read_key_texts(path: Path) -> tuple[str, ...]:
    """Read the keys of a file: one a line, empty lines and lines that begin with ``#`` left out.

    Args:
        path: of the file.

    Returns:
        The keys, at least one.

    Raises:
        CommandError: there is no such file, no key in it, or a key is too short or holds a space.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the key file cannot be read: {error}", where=str(path), hint="one key a line, as text") from error
    keys = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip() and not line.strip().startswith("#")]
    if not keys:
        raise CommandError("there is no key in the file", where=str(path), hint=MAKE_ONE)
    for number, key in keys:
        if len(key) < MIN_LENGTH or not key.isascii() or any(letter.isspace() for letter in key):
            what = f"a key has at least {MIN_LENGTH} characters, ASCII and without spaces"
            raise CommandError(what, where=f"{path}:{number}", hint=MAKE_ONE)
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning("%s can be read by other users of this machine; `chmod 600` mends that", path)
    return tuple(key for _, key in keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
