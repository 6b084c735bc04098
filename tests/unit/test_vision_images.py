"""The image policy: sizes and tokens from the header, what pixels become, and which files are refused by name and reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weitiao.chat import count_image_tokens, make_renderer
from weitiao.data.image_checks import look_at_images
from weitiao.errors import ModelError, RecipeError, RowError
from weitiao.model import load_base, load_processor
from weitiao.model.tuning import attach_tuning
from weitiao.recipe.sections import Chat, FullTuning, Images, LoraTuning, Model
from weitiao.seams import Message, Part, text_message


def reader(folder: Path, **images: Any) -> Any:
    return make_renderer(load_processor(Model(path=str(folder))), Chat(images=Images(**images))).images


def save(folder: Path, name: str, image: Image.Image, **settings: Any) -> Path:
    image.save(folder / name, **settings)
    return folder / name


@pytest.mark.parametrize(
    ("width", "height", "images", "factor", "n_tokens"),
    [
        pytest.param(640, 480, {}, 28, 17 * 23, id="kept"),
        pytest.param(4000, 3000, {}, 28, 23 * 31, id="made smaller"),
        pytest.param(10, 10, {}, 28, 4, id="enlarged"),
        pytest.param(500, 100, {"max_pixels": 28 * 28 * 40}, 28, 2 * 14, id="within pixels"),
        pytest.param(4000, 30, {"size": [280, 280]}, 28, 100, id="one size"),
        pytest.param(640, 480, {}, 32, 15 * 20, id="Qwen3-VL"),
    ],
)
def test_tokens_are_counted_from_the_size(width: int, height: int, images: dict[str, Any], factor: int, n_tokens: int) -> None:
    assert count_image_tokens(width, height, Images(**images), factor) == n_tokens


def test_pixels_and_patches_are_those_of_transformers_own_processor(tiny_vision: Path, tmp_path: Path) -> None:
    images = reader(tiny_vision)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (170, 333, 3), dtype=np.uint8))
    picture = images.picture(save(tmp_path, "photo.png", photo))
    pixels, grids = images.pixels([picture])
    wanted = images.processor(images=[np.asarray(photo)], size={"shortest_edge": 3136, "longest_edge": 589_824}, return_tensors="pt")
    assert grids.tolist() == wanted["image_grid_thw"].tolist() == [list(picture.grid)]
    assert pixels.shape == wanted["pixel_values"].shape
    assert (pixels - wanted["pixel_values"]).abs().max() == 0
    assert picture.n_tokens == count_image_tokens(333, 170, images.section, images.factor)


def corner(images: Any, path: Path) -> tuple[int, int, int]:
    return images.rgb(images.picture(path)).getpixel((0, 0))


def test_files_of_all_kinds_become_rgb_as_they_are_seen(tiny_qwen2_vl: Path, tmp_path: Path) -> None:
    images, dark = reader(tiny_qwen2_vl), reader(tiny_qwen2_vl, background="black")
    clear = save(tmp_path, "clear.png", Image.new("RGBA", (60, 60), (200, 0, 0, 0)))
    assert (corner(images, clear), corner(dark, clear)) == ((255, 255, 255), (0, 0, 0))
    palette = Image.new("P", (60, 60), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert corner(images, save(tmp_path, "palette.png", palette)) == (10, 20, 30)
    assert corner(images, save(tmp_path, "see-through.png", palette, transparency=1)) == (255, 255, 255)
    deep = Image.fromarray(np.full((60, 60), 128 * 257, np.uint16))
    assert corner(images, save(tmp_path, "deep.png", deep)) == (128, 128, 128)
    for full in (1.0, 255.0, 65535.0, 1e6):
        ramp = np.full((60, 60), 0.5 * full, np.float32)
        ramp[-1, -1] = full
        assert corner(images, save(tmp_path, f"float-{full}.tif", Image.fromarray(ramp))) == (128, 128, 128)
    holed = np.ones((60, 60), np.float32)
    holed[:30, :30] = np.nan
    assert corner(images, save(tmp_path, "holed.tif", Image.fromarray(holed))) == (0, 0, 0)
    assert corner(images, save(tmp_path, "bits.png", Image.new("1", (60, 60), 1))) == (255, 255, 255)
    assert corner(images, save(tmp_path, "grey.png", Image.new("LA", (60, 60), (9, 0)))) == (255, 255, 255)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_a_turned_photo_is_seen_upright(tiny_qwen2_vl: Path, tmp_path: Path, ending: str) -> None:
    images = reader(tiny_qwen2_vl)
    photo = Image.new("RGB", (168, 84), "white")
    photo.paste("red", (0, 0, 84, 84))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = images.picture(save(tmp_path, f"turned.{ending}", photo, exif=exif))
    assert (picture.width, picture.height) == (84, 168)
    seen = images.rgb(picture)
    top, bottom = seen.getpixel((42, 10)), seen.getpixel((42, 160))
    assert top[1] < 40, "the red half is on top"
    assert bottom[1] > 200


def test_a_size_that_the_model_cannot_take_is_refused(tiny_qwen2_vl: Path) -> None:
    with pytest.raises(RecipeError, match=r"chat\.images\.size: \[300, 280\] are no multiples of 28 pixels.*\n.*\[308, 280\]"):
        reader(tiny_qwen2_vl, size=[300, 280])
    with pytest.raises(ValueError, match="min_pixels must not be above max_pixels"):
        Images(min_pixels=10_000, max_pixels=5_000)


def test_bad_images_are_named_with_the_reason(tiny_qwen2_vl: Path, tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.effect_noise((300, 200), 50).convert("RGB").save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:3000])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "words.png").write_text("not an image")
    save(tmp_path, "strip.png", Image.new("RGB", (30_000, 2)))
    save(tmp_path, "print.jpg", Image.new("CMYK", (60, 60)))
    save(tmp_path, "moving.gif", Image.new("RGB", (60, 60)), save_all=True, append_images=[Image.new("RGB", (60, 60), "red")])
    save(tmp_path, "good.png", Image.new("RGB", (60, 60), "red"))
    problems = {path.name: facts.problem for path, facts in look_at_images(sorted(tmp_path.iterdir())).items()}
    assert problems == {
        "cut.jpg": "the image is broken: OSError",
        "empty.png": "the image file has zero bytes",
        "good.png": "",
        "moving.gif": "",
        "print.jpg": "",
        "strip.png": "the image is more than 200 times as long as wide",
        "words.png": "the image cannot be read",
    }
    images = reader(tiny_qwen2_vl)
    for name, reason in {"empty.png": "cannot be read", "words.png": "cannot be read", "strip.png": "more than 200 times"}.items():
        with pytest.raises(RowError, match=reason):
            images.picture(tmp_path / name)
    with pytest.raises(RowError, match=r"cut\.jpg: the image is broken"):
        images.rgb(images.picture(tmp_path / "cut.jpg"))
    assert corner(images, tmp_path / "moving.gif") == (0, 0, 0), "the first of several frames"
    assert corner(images, tmp_path / "print.jpg") == (255, 255, 255), "no ink is white"
    with pytest.raises(RowError, match=r"gone\.png: the image file is missing"):
        images.picture(tmp_path / "gone.png")


# ---- tokens -----------------------------------------------------------------------------------------------------------


def test_an_image_stands_as_its_tokens_and_only_the_answer_is_trained(tiny_qwen2_vl: Path, tmp_path: Path) -> None:
    renderer: Any = make_renderer(load_processor(Model(path=str(tiny_qwen2_vl))), Chat())
    path = save(tmp_path, "a.png", Image.new("RGB", (84, 56), "red"))
    user = Message("user", (Part("image", image=path), Part("text", "读 <|image_pad|>")))
    row = renderer.conversation([user, text_message("assistant", "x")])
    start = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
    assert renderer.text(row.input_ids) == (
        start + "<|image_pad|>" * 6 + "<|vision_end|>读 <|image_pad|><|im_end|>\n<|im_start|>assistant\nx<|im_end|>\n"
    )
    placeholder = renderer.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert row.input_ids.count(placeholder) == 6, "what the user writes is letters"
    trained = [token for token, on in zip(row.input_ids, row.trained, strict=True) if on]
    assert renderer.text(trained) == "x<|im_end|>"
    assert row.input_ids[: row.trained.index(True)] == renderer.prompt([user]).input_ids


def test_images_are_never_cut_and_a_row_that_does_not_fit_says_why(tiny_qwen2_vl: Path, tmp_path: Path) -> None:
    renderer: Any = make_renderer(load_processor(Model(path=str(tiny_qwen2_vl))), Chat())
    path = save(tmp_path, "a.png", Image.new("RGB", (280, 280), "red"))
    user = Message("user", (Part("image", image=path), Part("text", "很长的问题" * 40, shortenable=True)))
    short = renderer.prompt([user], 160)
    assert len(short.input_ids) <= 160
    assert short.n_shortened > 0
    assert short.input_ids.count(renderer.tokenizer.convert_tokens_to_ids("<|image_pad|>")) == 100
    with pytest.raises(RowError, match=r"of which images take 100 \(a\.png\).*\n.*lower chat\.images\.max_pixels"):
        renderer.prompt([user], 90)


# ---- what is trained --------------------------------------------------------------------------------------------------


def trained_names(folder: Path, section: LoraTuning | FullTuning) -> set[str]:
    network = attach_tuning(load_base(Model(path=str(folder), device="cpu")), section).network
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_adapters_sit_on_the_language_model_only(tiny_vision: Path) -> None:
    names = trained_names(tiny_vision, LoraTuning(r=2))
    assert len(names) == 2 * 7 * 2, "two layers, seven names, A and B"
    assert all(".language_model.layers." in name for name in names)


def test_the_merger_or_the_whole_tower_by_choice(tiny_vision: Path) -> None:
    language = trained_names(tiny_vision, LoraTuning(r=2))
    merger = trained_names(tiny_vision, LoraTuning(r=2, vision="merger"))
    tower = trained_names(tiny_vision, LoraTuning(r=2, vision="all"))
    assert language < merger < tower
    assert all(".visual." in name and "merger" in name for name in merger - language)
    assert any(".visual.blocks.0." in name for name in tower)
    full = trained_names(tiny_vision, FullTuning(vision="merger"))
    assert {name for name in full if ".visual." in name} == {name for name in full if "merger" in name}
    assert not [name for name in trained_names(tiny_vision, FullTuning()) if ".visual." in name]


def test_a_text_model_has_no_vision_to_train(tiny_qwen2: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.tuning\.vision: this is a text model"):
        trained_names(tiny_qwen2, LoraTuning(vision="all"))


def test_a_folder_without_its_image_processor_is_refused(tiny_qwen2_vl: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny_qwen2_vl, tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="the image processor cannot be loaded"):
        load_processor(Model(path=str(folder)))
