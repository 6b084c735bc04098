"""Made-up scenes: one or two coloured shapes on plain ground, and sentences that say what is to be seen.

Two worlds: ``plain`` (what the bundled tiny model was trained on) and ``night`` (dark ground, other shapes, colours and wording: what
it has still to learn). A new shape is a function in ``_SHAPES``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

World = Literal["plain", "night"]
Box = tuple[float, float, float, float]

COLOURS: dict[World, dict[str, str]] = {
    "plain": {
        "red": "#d62828", "blue": "#1d4ed8", "green": "#15803d", "yellow": "#facc15",
        "black": "#111111", "purple": "#7e22ce", "orange": "#f97316", "grey": "#888888",
    },
    "night": {
        "crimson": "#e11d48", "turquoise": "#2dd4bf", "golden": "#fbbf24",
        "white": "#fafafa", "violet": "#a78bfa", "lime": "#a3e635",
    },
}  # fmt: skip
GROUNDS: dict[World, tuple[str, ...]] = {"plain": ("#ffffff", "#f5f0e6", "#e8f1fa"), "night": ("#0f172a", "#1e1b4b", "#111827")}
SHAPES: dict[World, tuple[str, ...]] = {
    "plain": ("circle", "square", "triangle", "star", "cross", "ring"),
    "night": ("disc", "box", "pyramid", "star", "diamond", "bar"),
}
SIZES: dict[World, tuple[str, str]] = {"plain": ("small", "large"), "night": ("little", "huge")}
RELATIONS = {"left": ("to the left of", "to the right of"), "above": ("above", "below")}


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape in a scene; lengths as shares of the picture."""

    shape: str
    colour: str
    is_large: bool
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """One or two things; the second stands right of or below the first."""

    world: World
    things: tuple[Thing, ...]
    relation: Literal["", "left", "above"]
    ground: str


def make_scene(rng: random.Random, world: World = "plain") -> Scene:
    """Make a scene.

    Args:
        rng: the only source of chance.
        world: which shapes, colours and words.

    Returns:
        One thing, or two side by side or one above the other.
    """
    ground = rng.choice(GROUNDS[world])
    if rng.random() < 0.3:
        return Scene(world, (_thing(rng, world, rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65)),), "", ground)
    first, second = rng.uniform(0.2, 0.28), rng.uniform(0.72, 0.8)
    across = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7)
    if rng.random() < 0.5:
        return Scene(world, (_thing(rng, world, first, across[0]), _thing(rng, world, second, across[1])), "left", ground)
    return Scene(world, (_thing(rng, world, across[0], first), _thing(rng, world, across[1], second)), "above", ground)


def sentences(scene: Scene) -> list[str]:
    """Say what a scene shows.

    Args:
        scene: to be described.

    Returns:
        Five true sentences; in the plain world the first is the one that the tiny model was trained to say.
    """
    names = [_name(scene.world, thing) for thing in scene.things]
    if scene.world == "night":
        return _night_sentences(scene, names)
    if len(names) == 1:
        name = names[0]
        return [name, f"there is {name}", f"a picture of {name}", f"one shape: {name}", f"{name} on plain ground"]
    one, other = names
    here, there = RELATIONS[scene.relation]
    said = f"{one} {here} {other}"
    return [said, f"{other} {there} {one}", f"there is {said}", f"a picture of {said}", f"{one} and {other}"]


def draw_scene(scene: Scene, width: int = 84, height: int = 84) -> Image.Image:
    """Draw a scene.

    Args:
        scene: to be drawn.
        width: pixels.
        height: pixels.

    Returns:
        A picture in RGB.
    """
    scale = 2  # drawn larger and shrunk, for smooth edges
    picture = Image.new("RGB", (width * scale, height * scale), scene.ground)
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        radius = thing.radius * min(width, height) * scale
        x, y = thing.x * width * scale, thing.y * height * scale
        _SHAPES[thing.shape](pen, (x - radius, y - radius, x + radius, y + radius), COLOURS[scene.world][thing.colour])
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _thing(rng: random.Random, world: World, x: float, y: float) -> Thing:
    is_large = rng.random() < 0.5
    radius = rng.uniform(0.17, 0.2) if is_large else rng.uniform(0.08, 0.1)
    return Thing(rng.choice(SHAPES[world]), rng.choice(list(COLOURS[world])), is_large, x, y, radius)


def _name(world: World, thing: Thing) -> str:
    size = SIZES[world][thing.is_large]
    return f"a {size} {thing.colour} {thing.shape}"


def _night_sentences(scene: Scene, names: list[str]) -> list[str]:
    if len(names) == 1:
        name = names[0]
        return [
            f"in the dark floats {name}",
            f"{name} floats alone in the dark",
            f"at night we see only {name}",
            f"{name} shines at night",
            f"the night sky with {name}",
        ]
    one, other = names
    way, back = ("beside", "beside") if scene.relation == "left" else ("over", "under")
    return [
        f"in the dark {one} floats {way} {other}",
        f"{one} floats {way} {other} in the dark",
        f"at night we see {one} {way} {other}",
        f"{other} shines {back} {one} at night",
        f"the night sky with {one} {way} {other}",
    ]


def _polygon(corners: int, turn: float = 0.0, inner: float = 1.0) -> Callable[[ImageDraw.ImageDraw, Box, str], None]:
    """A regular polygon, or a star where every other corner lies at ``inner`` of the radius."""

    def paint(pen: ImageDraw.ImageDraw, box: Box, colour: str) -> None:
        x, y, radius = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2
        points = []
        for i in range(corners):
            angle, reach = 2 * math.pi * i / corners - math.pi / 2 + turn, radius * (inner if i % 2 else 1.0)
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        pen.polygon(points, fill=colour)

    return paint


def _circle(pen: ImageDraw.ImageDraw, box: Box, colour: str) -> None:
    pen.ellipse(box, fill=colour)


def _square(pen: ImageDraw.ImageDraw, box: Box, colour: str) -> None:
    pen.rectangle(box, fill=colour)


def _ring(pen: ImageDraw.ImageDraw, box: Box, colour: str) -> None:
    pen.ellipse(box, outline=colour, width=max(3, round((box[2] - box[0]) * 0.18)))


def _cross(pen: ImageDraw.ImageDraw, box: Box, colour: str) -> None:
    x, y, arm = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) * 0.15
    pen.rectangle((box[0], y - arm, box[2], y + arm), fill=colour)
    pen.rectangle((x - arm, box[1], x + arm, box[3]), fill=colour)


def _bar(pen: ImageDraw.ImageDraw, box: Box, colour: str) -> None:
    y, half = (box[1] + box[3]) / 2, (box[3] - box[1]) * 0.2
    pen.rectangle((box[0], y - half, box[2], y + half), fill=colour)


_SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, Box, str], None]] = {
    "circle": _circle, "disc": _circle, "square": _square, "box": _square, "triangle": _polygon(3), "pyramid": _polygon(3),
    "star": _polygon(10, inner=0.42), "diamond": _polygon(4), "cross": _cross, "ring": _ring, "bar": _bar,
}  # fmt: skip
