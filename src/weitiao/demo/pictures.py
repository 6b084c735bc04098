"""Folders of made-up pictures with what is to be read in them: a domain that the bundled tiny model has not seen.

Formulas: other fonts than the one it was trained on, a slight turn, noise, weak ink. Scenes: the ``night`` world, five captions each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from weitiao.demo.formulas import make_formulas
from weitiao.demo.scenes import draw_scene, make_scene, sentences
from weitiao.demo.typeset import draw, lay_out
from weitiao.log import progress

NEW_FONTS = ("dejavuserif", "stix")
TABLE = "rows.jsonl"


def write_formulas(
    folder: Path, n: int = 8000, seed: int = 0, levels: tuple[int, ...] = (1, 2, 2), fonts: tuple[str, ...] = NEW_FONTS
) -> Path:
    """Write pictures of formulas and a table beside them.

    Args:
        folder: made where it does not exist; files of an earlier call are replaced.
        n: pictures, >= 1.
        seed: the same one writes the same files.
        levels: how long formulas are, 1 to 4, in turn.
        fonts: math fonts of matplotlib, in turn.

    Returns:
        The table: JSON lines with ``image``, ``latex``, ``id`` and ``font``.
    """
    rng = random.Random(seed)
    made = {level: iter(make_formulas(n, seed + 1000, level)) for level in set(levels)}
    rows = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with progress("drawing formulas", n, "pictures") as advance:
        for i in range(n):
            latex, font = next(made[levels[i % len(levels)]]), fonts[i % len(fonts)]
            name = f"images/{i:05}.png"
            drawing = draw(lay_out(latex, font), rng.uniform(17, 27), margin=rng.randint(3, 9))
            _worn(drawing.ink, rng).save(folder / name)
            rows.append({"image": name, "latex": latex, "id": f"formula-{i}", "font": font})
            advance(1)
    return _write_table(folder, rows)


def write_scenes(folder: Path, n: int = 400, seed: int = 0) -> Path:
    """Write pictures of night scenes and a table beside them.

    Args:
        folder: made where it does not exist; files of an earlier call are replaced.
        n: pictures, >= 1.
        seed: the same one writes the same files.

    Returns:
        The table: JSON lines with ``image``, ``captions`` (five) and ``id``.
    """
    rng = random.Random(seed)
    rows = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        scene, name = make_scene(rng, "night"), f"images/{i:05}.png"
        draw_scene(scene).save(folder / name)
        rows.append({"image": name, "captions": sentences(scene), "id": f"scene-{i}"})
    return _write_table(folder, rows)


def _write_table(folder: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    table = folder / TABLE
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return table


def _worn(ink: np.ndarray, rng: random.Random) -> Image.Image:
    """A picture as a scanner sees it: turned by up to two degrees, weaker ink, greyer paper, noise."""
    paper, strength = rng.uniform(215, 255), rng.uniform(0.65, 1.0)
    picture = Image.fromarray(ink)
    turned = picture.rotate(rng.uniform(-2, 2), Image.Resampling.BICUBIC, expand=True)
    values = paper - np.asarray(turned, np.float32) * strength * paper / 255
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 14), values.shape)
    return Image.fromarray(np.clip(values + noise, 0, 255).astype(np.uint8))
