"""Examples without end: formulas put together from terms that mathtext laid out, and drawn scenes; each with what stands in which patch."""

from __future__ import annotations

import pickle
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scripts.tiny_vl.network import MAX_PIXELS, MIN_PIXELS
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from weitiao.demo.formulas import EXTRA, GREEK, LATIN, OPERATORS, RELATIONS, join, make_pieces
from weitiao.demo.scenes import draw_scene, make_scene, sentences
from weitiao.demo.typeset import Layout, draw, lay_out, side_by_side
from weitiao.log import progress

FONT = "cm"
PATCH = 14
SIZES = 19.0, 24.0
"""Of the font in pixels: what else there is, tuning has still to teach."""
N_CLASSES = 384
"""Kinds of marks that the helping head tells apart."""


@dataclass(frozen=True, slots=True)
class Example:
    """A picture and what is to be said of it."""

    pixels: np.ndarray
    """Height x width x 3, bytes, both multiples of 28."""
    answer: str
    is_formula: bool
    marks: tuple[tuple[int, float, float], ...]
    """Class, x and y of every sign or shape, in pixels."""


class Terms:
    """Laid-out terms by level: mathtext is asked once for each."""

    def __init__(self, file: Path, n_per_level: dict[int, int]) -> None:
        """Read or make the terms.

        Args:
            file: where they are kept.
            n_per_level: formulas of each level whose terms are laid out.
        """
        if not file.is_file():
            file.write_bytes(pickle.dumps(_make_terms(n_per_level)))
        self.layouts: dict[int, list[tuple[list[str], Layout]]]
        self.layouts, self.signs = pickle.loads(file.read_bytes())
        faces = sorted({(sign.font, sign.code) for terms in self.layouts.values() for _, layout in terms for sign in layout.signs})
        faces += sorted({(sign.font, sign.code) for layout in self.signs.values() for sign in layout.signs} - set(faces))
        self.classes = {face: index for index, face in enumerate(faces)}

    def formula(self, rng: random.Random, level: int) -> tuple[str, Layout]:
        """Put terms together in a new way."""
        wanted = make_pieces(rng, level)
        tokens: list[str] = []
        layouts: list[Layout] = []
        for piece in wanted:
            if all(token in self.signs for token in piece):
                tokens += piece
                layouts += [self.signs[token] for token in piece]
            else:
                term, layout = rng.choice(self.layouts[min(self.layouts, key=lambda known: abs(known - level))])
                tokens += term
                layouts.append(layout)
        return join(tokens), side_by_side(layouts)

    def example(self, rng: random.Random, level: int) -> Example:
        """A drawn formula in some size, its picture brought to multiples of 28 pixels as the model's own processor does."""
        latex, layout = self.formula(rng, level)
        drawing = draw(layout, rng.uniform(*SIZES), margin=2)
        ink, shift = _with_margins(drawing.ink, rng)
        height, width = ink.shape
        new_height, new_width = smart_resize(height, width, 28, MIN_PIXELS, MAX_PIXELS)
        paper = 255 - np.asarray(Image.fromarray(ink).resize((new_width, new_height), Image.Resampling.BICUBIC))
        scale = new_width / width, new_height / height
        marks = tuple(
            (self.classes.get((sign.font, sign.code), N_CLASSES - 1), (x + shift[0]) * scale[0], (y + shift[1]) * scale[1])
            for sign, (x, y) in zip(layout.signs, drawing.centres, strict=True)
        )
        return Example(np.repeat(paper[..., None], 3, axis=2), latex, True, marks)


def scene_example(rng: random.Random, n_signs: int) -> Example:
    """A drawn scene; shapes and colours are marked with classes after those of the signs."""
    scene = make_scene(rng)
    picture = np.asarray(draw_scene(scene))
    marks = []
    for thing in scene.things:
        code = (hash_of(thing.shape), hash_of(thing.colour), 60 + thing.is_large)
        marks += [(n_signs + value, thing.x * 84, thing.y * 84) for value in code]
    return Example(picture, sentences(scene)[0], False, tuple(marks))


def hash_of(word: str) -> int:
    """A small number for a word, the same in every process."""
    return sum(ord(letter) * (i + 1) for i, letter in enumerate(word)) % 60


def _with_margins(ink: np.ndarray, rng: random.Random) -> tuple[np.ndarray, tuple[int, int]]:
    left, right, top, bottom = (rng.randint(0, 10) for _ in range(4))
    return np.pad(ink, ((top, bottom), (left, right))), (left, top)


def _make_terms(n_per_level: dict[int, int]) -> tuple[dict[int, list[tuple[list[str], Layout]]], dict[str, Layout]]:
    known: dict[str, Layout] = {}
    levels: dict[int, list[tuple[list[str], Layout]]] = {}
    for level, n in n_per_level.items():
        rng = random.Random(1000 + level)
        terms = [
            piece for _ in range(n) for piece in make_pieces(rng, level) if any(token in "^_{}()" or len(token) > 3 for token in piece)
        ]
        with progress(f"laying out terms of level {level}", len(terms), "terms") as advance:
            for term in terms:
                latex = join(term)
                known[latex] = known.get(latex) or lay_out(latex, FONT)
                advance(1)
        levels[level] = [(term, known[join(term)]) for term in terms]
    single = {symbol: lay_out(symbol, FONT) for symbol in (*LATIN, *"0123456789", *GREEK, *EXTRA)}
    return levels, single | {sign: _sign(sign) for sign in (*OPERATORS, *RELATIONS)}


def _sign(sign: str) -> Layout:
    """An operator with the space that mathtext leaves on both sides of it."""
    both, left, right = lay_out(f"a{sign} b", FONT), lay_out("a", FONT), lay_out("b", FONT)
    inner = tuple(type(one)(one.font, one.code, one.size, one.x - left.width, one.y) for one in both.signs[1:-1])
    return Layout(inner, (), both.width - left.width - right.width, both.height, both.depth)
