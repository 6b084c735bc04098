"""Made-up formulas and scenes: seeded, drawn as mathtext draws them, and true to what is said of them."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from weitiao.demo import write_formulas, write_scenes
from weitiao.demo.formulas import MOST_SYMBOLS, join, make_formulas
from weitiao.demo.scenes import Scene, Thing, draw_scene, make_scene, sentences
from weitiao.demo.typeset import draw, lay_out, side_by_side
from weitiao.tasks.latex import normalised, tokens


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_formulas_depend_on_the_seed_alone_and_are_all_different(level):
    made = make_formulas(50, 3, level)
    assert made == make_formulas(50, 3, level)
    assert len(set(made)) == 50
    assert not set(made[:20]) & set(make_formulas(20, 3, level, avoid=made[:20]))
    assert max(len(tokens(latex)) for latex in made) <= MOST_SYMBOLS[level]


def test_formulas_are_written_in_the_normal_form():
    for latex in make_formulas(100, 1, 3):
        assert normalised(latex) == latex


def test_a_blank_stands_only_where_a_command_would_swallow_a_letter():
    assert join(["\\alpha", "x", "+", "\\beta", "2", "a", "b"]) == r"\alpha x+\beta2ab"


@pytest.mark.parametrize("font", ["cm", "stix", "dejavuserif"])
def test_a_drawn_formula_is_mathtexts_picture(font):
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser

    latex = r"\frac{\hat{a}+b}{2}=\sqrt{x_{i}^{2}}"
    ours = draw(lay_out(latex, font), 40, margin=0).ink
    theirs = MathTextParser("agg").parse(f"${latex}$", 72, FontProperties(size=40, math_fontfamily=font)).image
    rows, columns = (np.flatnonzero((theirs > 0).any(axis=axis)) for axis in (1, 0))
    theirs = theirs[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert np.abs(np.subtract(ours.shape, theirs.shape)).max() <= 3
    height, width = (min(sizes) for sizes in zip(ours.shape, theirs.shape, strict=True))
    # Hinting moves strokes by a pixel: pictures are compared blurred.
    blurred = [
        np.asarray(Image.fromarray(ink[:height, :width]).resize((width // 5, height // 5), Image.Resampling.BOX)) for ink in (ours, theirs)
    ]
    assert np.corrcoef(blurred[0].ravel(), blurred[1].ravel())[0, 1] > 0.9


def test_terms_side_by_side_stand_on_one_line():
    fraction, letter = lay_out(r"\frac{a}{b}"), lay_out("x")
    joined, whole = side_by_side([letter, fraction]), lay_out(r"x\frac{a}{b}")
    assert joined.width == pytest.approx(whole.width, abs=0.03)
    assert [sign.y for sign in joined.signs] == pytest.approx([sign.y for sign in whole.signs], abs=0.03)


def test_what_mathtext_cannot_draw_is_refused():
    with pytest.raises(ValueError, match="nosuch"):
        lay_out(r"\nosuch{x}")


def test_sentences_say_what_the_scene_shows():
    things = (Thing("circle", "red", False, 0.25, 0.5, 0.1), Thing("square", "blue", True, 0.75, 0.5, 0.2))
    said = sentences(Scene("plain", things, "left", "#ffffff"))
    assert said[0] == "a small red circle to the left of a large blue square"
    assert said[1] == "a large blue square to the right of a small red circle"
    picture = draw_scene(Scene("plain", things, "left", "#ffffff"))
    assert picture.size == (84, 84)
    assert picture.getpixel((21, 42)) == (0xD6, 0x28, 0x28)
    assert picture.getpixel((63, 42)) == (0x1D, 0x4E, 0xD8)
    assert picture.getpixel((2, 2)) == (255, 255, 255)


def test_every_shape_of_both_worlds_is_drawn_inside_of_the_picture():
    rng = random.Random(0)
    for world in ("plain", "night"):
        for _ in range(60):
            scene = make_scene(rng, world)
            assert len(sentences(scene)) == 5
            edge = np.asarray(draw_scene(scene))[[0, -1]]
            assert (edge == edge[0, 0]).all()


def test_folders_of_pictures_are_the_same_for_the_same_seed(tmp_path):
    for folder in ("a", "b"):
        write_formulas(tmp_path / folder / "formulas", 4, 1)
        write_scenes(tmp_path / folder / "scenes", 3, 1)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 9
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    rows = [json.loads(line) for line in (tmp_path / "a" / "formulas" / "rows.jsonl").read_text("utf-8").splitlines()]
    assert [row["font"] for row in rows] == ["dejavuserif", "stix", "dejavuserif", "stix"]
    assert Image.open(tmp_path / "a" / "formulas" / rows[0]["image"]).mode == "L"
