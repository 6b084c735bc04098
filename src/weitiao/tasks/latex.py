r"""When two pieces of LaTeX are the same formula to write down.

The rule: delimiters around the whole (``$``, ``$$``, ``\(``, ``\[``) and ``\label{…}`` are taken off; what is left is cut into tokens (a
command such as ``\frac``, an escaped character such as ``\,``, or a single character); white space between tokens never counts, so
``\left (`` is ``\left(`` and ``x ^ 2`` is ``x^2``. Nothing else is changed: ``x^2`` is not ``x^{2}``, and ``\left(`` is not ``(``.
"""

from __future__ import annotations

import re

TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|\S", re.DOTALL)
LABEL = re.compile(r"\\label\s*\{[^{}]*\}")
COMMENT = re.compile(r"(?<!\\)(?:\\\\)*%")
DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\[", "\\]"), ("\\(", "\\)"))


def without_labels(latex: str) -> str:
    r"""The text without ``\label{…}``, which cannot be seen in a picture."""
    return LABEL.sub("", latex)


def tokens(latex: str) -> list[str]:
    r"""The tokens of a formula after the rule above.

    Args:
        latex: any text.

    Returns:
        Commands, escaped characters and single characters; a blank that is meant (``\ ``) is a token.
    """
    text = without_labels(latex).strip()
    for opening, closing in DELIMITERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing):
            inner = text[len(opening) : len(text) - len(closing)]
            # `$a$ and $b$` is not one formula in dollars.
            if opening not in inner:
                text = inner.strip()
                break
    return TOKEN.findall(text)


def normalised(latex: str) -> str:
    r"""The formula as one text, tokens joined, a blank only where two would melt into another (``\alpha x``)."""
    text = ""
    for token in tokens(latex):
        melts = re.search(r"\\[A-Za-z]+\*?\Z", text) is not None and (token[0].isalpha() or token == "*")
        text += f" {token}" if melts else token
    return text
