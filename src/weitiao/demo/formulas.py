r"""Made-up formulas: a seeded grammar of LaTeX that matplotlib's mathtext can draw.

One way to write each thing: scripts always in braces, commands followed by a blank only where a letter comes next. ``level`` is how much a
formula may hold; ``SYMBOLS`` and ``_term`` are where a new symbol or structure goes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

LATIN = tuple("abcdefghijkmnpqrstuvwxyzABCDEFGHKLMNPQRSTVWXYZ")
_GREEK = "alpha beta gamma delta epsilon theta lambda mu nu pi rho sigma tau phi psi omega Gamma Delta Lambda Phi Psi Omega"
GREEK = tuple(f"\\{name}" for name in _GREEK.split())
OPERATORS = ("+", "-", "\\times", "\\cdot", "\\pm")
RELATIONS = ("=", "<", ">", "\\leq", "\\geq", "\\neq", "\\in", "\\to", "\\approx")
FUNCTIONS = ("\\sin", "\\cos", "\\log", "\\exp", "\\ln", "\\lim")
ACCENTS = ("\\hat", "\\bar", "\\tilde", "\\vec", "\\dot")
EXTRA = ("\\partial", "\\infty", "\\nabla")
COMMANDS = (*GREEK, *OPERATORS[2:], *RELATIONS[3:], *FUNCTIONS, *ACCENTS, *EXTRA, "\\frac", "\\sqrt", "\\sum", "\\int")

N_TERMS = {1: (1, 1), 2: (1, 2), 3: (2, 4), 4: (4, 7)}
"""Level -> fewest and most terms of a formula."""
MOST_SYMBOLS = {1: 5, 2: 12, 3: 26, 4: 48}
"""Level -> LaTeX tokens of a formula, braces included."""


def make_formulas(n: int, seed: int, level: int, avoid: Collection[str] = ()) -> list[str]:
    """Make different formulas.

    Args:
        n: how many, >= 0.
        seed: the same one gives the same formulas.
        level: 1 (a symbol or two) to 4 (long).
        avoid: formulas that must not come up, e.g. those of another split.

    Returns:
        LaTeX without delimiters.
    """
    rng = random.Random(f"{seed}:{level}")
    seen = set(avoid)
    found: list[str] = []
    while len(found) < n:
        tokens = [token for piece in make_pieces(rng, level) for token in piece]
        latex = join(tokens)
        if latex not in seen and len(tokens) <= MOST_SYMBOLS[level]:
            seen.add(latex)
            found.append(latex)
    return found


def make_pieces(rng: random.Random, level: int) -> list[list[str]]:
    """Make one formula as its terms and the signs between them, each a list of LaTeX tokens."""
    if level == 1:
        return _simple(rng)
    low, high = N_TERMS[level]
    n_terms = rng.randint(low, high)
    related = rng.randrange(1, n_terms) if n_terms > 1 and rng.random() < 0.55 else None
    pieces = [_term(rng, level)]
    for place in range(1, n_terms):
        sign = _operator(rng) if place != related else rng.choice(RELATIONS) if rng.random() < 0.5 else "="
        pieces += [[sign], _term(rng, level)]
    return pieces


def join(tokens: list[str]) -> str:
    """Write LaTeX tokens in a row, with a blank only where a command would swallow the next letter."""
    text = ""
    for token in tokens:
        swallows = text[-1:].isalpha() and token[:1].isalpha() and text[text.rfind("\\") + 1 :].isalpha() and "\\" in text
        text += f" {token}" if swallows else token
    return text


def _simple(rng: random.Random) -> list[list[str]]:
    """A symbol, two in a row, or two with a sign between."""
    kind = rng.random()
    if kind < 0.3:
        return [[_symbol(rng)]]
    if kind < 0.5:
        return [[_symbol(rng), _symbol(rng)]]
    if kind < 0.65:
        return [_scripted(rng, 1)]
    return [[_symbol(rng)], [rng.choice((*OPERATORS, *RELATIONS))], [_symbol(rng)]]


def _symbol(rng: random.Random) -> str:
    kind = rng.random()
    return rng.choice(LATIN) if kind < 0.6 else rng.choice("0123456789") if kind < 0.8 else rng.choice((*GREEK, *EXTRA))


def _operator(rng: random.Random) -> str:
    return rng.choice("+-") if rng.random() < 0.75 else rng.choice(OPERATORS)


def _term(rng: random.Random, level: int) -> list[str]:
    makers: list[tuple[float, Callable[[], list[str]]]] = [
        (3.0, lambda: [_symbol(rng)]),
        (1.5, lambda: [_symbol(rng), _symbol(rng)]),
        (0.7, lambda: list(str(rng.randint(10, 99)))),
        (3.5, lambda: _scripted(rng, level)),
        (1.6, lambda: ["\\frac", *_braced(_part(rng, level)), *_braced(_part(rng, level))]),
        (0.9, lambda: ["\\sqrt", *_braced(_part(rng, level))]),
        (0.9, lambda: [rng.choice(ACCENTS), *_braced([rng.choice(LATIN)])]),
        (0.7, lambda: [rng.choice(FUNCTIONS), _symbol(rng)]),
        (0.9, lambda: [rng.choice(LATIN), "(", *_part(rng, level - 1), ")"]),
        (0.5, lambda: ["(", *_part(rng, level), ")", *(["^", *_braced([rng.choice("23n")])] if rng.random() < 0.5 else [])]),
        (0.5, lambda: _big(rng)),
    ]
    return rng.choices([make for _, make in makers], [weight for weight, _ in makers])[0]()


def _scripted(rng: random.Random, level: int) -> list[str]:
    base, kind = [_symbol(rng)], rng.random()
    up, down = _script(rng, level), _script(rng, level)
    if kind < 0.45:
        return [*base, "^", *_braced(up)]
    if kind < 0.85 or level == 1:
        return [*base, "_", *_braced(down)]
    return [*base, "_", *_braced(down), "^", *_braced(up)]


def _script(rng: random.Random, level: int) -> list[str]:
    kind = rng.random()
    if level == 1 or kind < 0.7:
        return [_symbol(rng)]
    return [_symbol(rng), rng.choice("+-"), rng.choice("123")] if kind < 0.85 else [_symbol(rng), _symbol(rng)]


def _part(rng: random.Random, level: int) -> list[str]:
    """What stands inside of a fraction, a root or brackets."""
    kind = rng.random()
    if kind < 0.5 or level < 2:
        return [_symbol(rng)]
    if kind < 0.7:
        return [_symbol(rng), _symbol(rng)]
    if kind < 0.85:
        return [_symbol(rng), rng.choice("+-"), _symbol(rng)]
    return _scripted(rng, 1)


def _big(rng: random.Random) -> list[str]:
    index, end = rng.choice("ijkn"), rng.choice(("n", "N", "\\infty", "m"))
    if rng.random() < 0.5:
        return ["\\sum", "_", *_braced([index, "=", rng.choice("01")]), "^", *_braced([end]), *_scripted(rng, 1)]
    return ["\\int", "_", *_braced([rng.choice("0a")]), "^", *_braced([rng.choice(("b", "1", "\\infty"))]), rng.choice("fgh"), "d", "x"]


def _braced(tokens: list[str]) -> list[str]:
    return ["{", *tokens, "}"]
