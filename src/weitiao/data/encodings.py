"""Find out how a text file is encoded, and open it so that no byte is lost without a trace.

Bytes that do not fit the encoding become lone surrogates (Python's ``surrogateescape``); rows that hold one are rejected later, by row.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import TextIO

from weitiao.errors import DataError

SAMPLE_BYTES = 1 << 20
PAIR = re.compile(rb"[\x81-\xfe]([\x40-\x7e\x80-\xfe])")
"""A character of two bytes in GBK."""
MAX_RARE_SHARE = 0.35
"""Share of such characters with an ASCII byte up to which a text counts as Chinese."""
GZIP = b"\x1f\x8b"
"""How a packed file begins."""
MAX_BAD_SHARE = 0.02
"""Bytes that do not fit, as a share of the non-ASCII ones, up to which a file still counts as being of that encoding."""

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_text(path: Path, encoding: str | None) -> TextIO:
    """Open a text file in its own encoding; only a line feed ends a line, and ends are kept as they are.

    Args:
        path: the file.
        encoding: a Python codec name, or None to find out.

    Returns:
        The opened file. What does not fit the encoding reads as lone surrogates, in UTF-16 and UTF-32 as U+FFFD.

    Raises:
        DataError: the encoding is unknown to Python or fits the file in no way, or the file cannot be opened.
    """
    codec = encoding or find_encoding(path)
    try:
        codec = codecs.lookup(codec).name
    except LookupError:
        raise DataError(f"unknown encoding `{encoding}`", where="data.encoding", hint="use utf-8, gb18030 or utf-16") from None
    errors = "replace" if codec.startswith(("utf-16", "utf-32")) else "surrogateescape"
    try:
        return path.open(encoding=codec, errors=errors, newline="\n")
    except OSError as err:
        raise DataError(f"the file cannot be opened: {err.strerror}", where=str(path)) from err


def find_encoding(path: Path) -> str:
    """Tell the encoding from a byte-order mark, or from what the bytes can be.

    Args:
        path: a text file.

    Returns:
        A Python codec name: ``utf-8``, ``utf-8-sig``, ``utf-16`` (also ``-le`` and ``-be``), ``utf-32`` or ``gb18030``.

    Raises:
        DataError: the bytes are no text in any of them, the file is packed, or it cannot be read.
    """
    sample = _telling_bytes(path)
    if sample.startswith(GZIP):
        raise DataError("the file is packed with gzip", where=str(path), hint=f"unpack it: gzip -dc {path.name} > unpacked{path.suffix}")
    for bom, name in BOMS:
        if sample.startswith(bom):
            return name
    if not sample or (sample.isascii() and b"\0" not in sample):
        return "utf-8"
    wide = _utf16_without_bom(sample)
    if wide:
        return wide
    if sample.count(0) > MAX_BAD_SHARE * len(sample):
        raise _no_text(path)
    n_wide = len(sample.translate(None, delete=bytes(range(0x80))))
    for name in ("utf-8", "gb18030"):
        if _n_bad(sample, name) <= MAX_BAD_SHARE * n_wide:
            if name == "gb18030" and _is_hardly_chinese(sample):
                raise _no_text(path)
            return name
    if _n_bad(sample, "utf-8") <= max(_n_bad(sample, "gb18030"), 0.5 * n_wide) and b"\0" not in sample:
        return "utf-8"
    raise _no_text(path)


def _is_hardly_chinese(sample: bytes) -> bool:
    """Whether bytes that could be GB18030 are likelier Big5 or a Western encoding: pairs whose second byte is ASCII are rare characters.

    Measured shares of such pairs: simplified text none, traditional text in GBK 0.12, Big5 0.53, German in cp1252 all.
    """
    seconds: list[bytes] = PAIR.findall(sample)
    return sum(second < b"\x80" for second in seconds) > MAX_RARE_SHARE * len(seconds)


def _no_text(path: Path) -> DataError:
    hint = "save it as UTF-8, or name its encoding: data.encoding: big5 (or cp1252, gb18030, …)"
    return DataError("this is not text in UTF-8, UTF-16 or GB18030", where=str(path), hint=hint)


def _telling_bytes(path: Path) -> bytes:
    """The first megabyte, or, where that is ASCII only, the first megabyte that is not."""
    try:
        with path.open("rb") as file:
            first = sample = file.read(SAMPLE_BYTES)
            while sample.isascii() and len(sample) == SAMPLE_BYTES:
                sample = file.read(SAMPLE_BYTES)
                if sample and not sample.isascii():
                    # A block may begin inside a character.
                    return sample.lstrip(bytes(range(0x80, 0xC0))) or sample
            return first if first.startswith(tuple(bom for bom, _ in BOMS)) else sample or first
    except OSError as err:
        raise DataError(f"the file cannot be read: {err.strerror}", where=str(path)) from err


def _utf16_without_bom(sample: bytes) -> str | None:
    """Line ends and ASCII signs are a zero byte beside another one in UTF-16, and hardly ever in anything else."""
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if max(even, odd) < 0.02 * len(sample) or min(even, odd) * 10 > max(even, odd):
        return None
    name = "utf-16-le" if odd > even else "utf-16-be"
    return name if _n_bad(sample, name) == 0 else None


def _n_bad(sample: bytes, name: str) -> int:
    """Places where the bytes do not fit; a character cut off at the end is none."""
    decoder = codecs.getincrementaldecoder(name)(errors="replace")
    return decoder.decode(sample).count("\ufffd") - sample.count("\ufffd".encode(name))
