"""The vision-feature store: what it gives equals the tower, it is filled once, and what it depends on is in its key."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.equal.test_vision_answers import draw, question
from tests.equal.test_vision_training import assert_equal, packed, rows

from weitiao.chat import make_renderer, make_vision
from weitiao.encode import see_pictures
from weitiao.encode.feature_files import DATA, INDEX, FeatureFiles
from weitiao.encode.features import StoredVision, features_key, picture_key
from weitiao.encode.steps import pack
from weitiao.errors import ModelError
from weitiao.infer import make_engine
from weitiao.model.load import load_network
from weitiao.model.tuning import attach_tuning, count_parameters
from weitiao.model.vision import AbsentTower
from weitiao.recipe.sections import Chat, FullTuning, Images, LoraTuning
from weitiao.seams import DataReport, LoadedModel, Sample, SampleSet, Sampling

REPORT = DataReport("images", 4, 4, {}, {}, (), {}, "fingerprint")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("WEITIAO_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return draw(tmp_path_factory.mktemp("pictures"))


def loaded(folder: Path) -> LoadedModel:
    network, processor = load_network(folder, torch.float32, torch.device("cpu"))
    return LoadedModel(network, processor, folder, "tiny", torch.float32, is_vision=True)


def sample_set(pictures: dict[str, Path]) -> SampleSet:
    train = [
        question(1, "读出公式", pictures["wide"], answer="x"),
        question(2, "no picture", answer="y"),
        question(3, "compare", pictures["small"], pictures["tall"], answer="two"),
        question(4, "again", pictures["tall"], pictures["tall"], pictures["photo"], answer="three"),
    ]
    return SampleSet(train, [], [question(5, "test", pictures["photo"], answer="z")], REPORT)


def test_loss_and_gradients_are_those_without_the_store(tiny_vision: Path, pictures: dict[str, Path]) -> None:
    base = loaded(tiny_vision)
    renderer = make_renderer(base.processor, Chat())
    seeing = see_pictures(base, renderer, sample_set(pictures), store=True)
    live = make_vision(base.network, renderer)
    joined = pack(rows(renderer, pictures), 240)
    network = attach_tuning(replace(base, vision=live), LoraTuning(r=4, lora_dropout=0.0)).network.train()
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    wanted = packed(network, live, joined, fast=True)
    assert_equal(packed(network, seeing.vision, joined, fast=True), wanted)
    assert_equal(packed(network, seeing.vision, joined, fast=False), wanted)


def test_each_picture_goes_through_the_tower_once(tiny_qwen2_vl: Path, pictures: dict[str, Path], tmp_path: Path) -> None:
    base = loaded(tiny_qwen2_vl)
    renderer: Any = make_renderer(base.processor, Chat())
    computed: list[int] = []
    base.network.model.visual.register_forward_hook(
        lambda _module, _args, kwargs, _out: computed.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    first = see_pictures(base, renderer, sample_set(pictures), store=True)
    assert sum(computed) == 4, "four files, though one stands in three places"
    copy = tmp_path / "copy.png"
    shutil.copyfile(pictures["wide"], copy)
    again = see_pictures(base, renderer, sample_set(pictures | {"photo": copy}), store=True)
    assert sum(computed) == 4, "known by what the file holds, not by its name"
    list(make_engine(again, renderer).generate(list(sample_set(pictures).test), Sampling(max_new_tokens=3)))
    assert sum(computed) == 4, "answering looks the picture up too"
    Image.new("RGB", (200, 60), (1, 2, 3)).save(copy)
    see_pictures(base, renderer, sample_set(pictures | {"photo": copy}), store=True)
    assert sum(computed) == 5, "another content is another picture"
    assert first.vision is not None
    assert not first.vision.needs_tower


def test_the_tower_leaves_memory_and_answers_stay(tiny_vision: Path, pictures: dict[str, Path]) -> None:
    base = loaded(tiny_vision)
    renderer = make_renderer(base.processor, Chat())
    samples = sample_set(pictures)
    n_total, _ = count_parameters(base.network)
    before = dict(make_engine(base, renderer).generate(list(samples.test), Sampling(max_new_tokens=6)))
    tuned = attach_tuning(see_pictures(base, renderer, samples, store=True), LoraTuning(r=4))
    inner = tuned.network.get_base_model()
    assert isinstance(inner.model.visual, AbsentTower)
    assert not [name for name, _ in tuned.network.named_parameters() if "visual" in name]
    n_tuned, n_trainable = count_parameters(tuned.network)
    assert n_tuned - n_trainable == n_total, "the tower still counts"
    after = dict(make_engine(tuned, renderer).generate(list(samples.test), Sampling(max_new_tokens=6)))
    assert after[0].text == before[0].text, "new adapters change nothing"
    new = question(9, "new", pictures["photo"].parent / "new.png")
    Image.new("RGB", (90, 90), "red").save(pictures["photo"].parent / "new.png")
    with pytest.raises(ModelError, match="a picture was not there when the features were computed"):
        list(make_engine(tuned, renderer).generate([new], Sampling(max_new_tokens=2)))


def test_where_the_tower_is_trained_or_all_weights_are_it_stays(tiny_qwen2_vl: Path, pictures: dict[str, Path], cache: Path) -> None:
    base = loaded(tiny_qwen2_vl)
    renderer = make_renderer(base.processor, Chat())
    trained = see_pictures(base, renderer, sample_set(pictures), store=False)
    assert trained.vision is not None
    assert trained.vision.needs_tower
    assert not (cache / "vision").exists()
    full = attach_tuning(see_pictures(base, renderer, sample_set(pictures), store=True), FullTuning())
    assert not isinstance(full.network.model.visual, AbsentTower), "a whole folder is saved at the end"


def test_the_key_covers_weights_policy_and_dtype(tiny_qwen2_vl: Path, pictures: dict[str, Path]) -> None:
    base = loaded(tiny_qwen2_vl)

    def key(images: Images | None = None, dtype: torch.dtype = torch.float32) -> str:
        tower = make_vision(base.network, make_renderer(base.processor, Chat(images=images or Images())))
        assert tower is not None
        return features_key(tower, dtype)

    first = key()
    assert key() == first
    assert key(Images(background="black")) != first
    assert key(dtype=torch.bfloat16) != first
    with torch.no_grad():
        base.network.model.visual.merger.mlp[2].bias[0] += 1
    assert key() != first
    renderer: Any = make_renderer(base.processor, Chat())
    small: Any = make_renderer(base.processor, Chat(images=Images(max_pixels=3136)))
    assert picture_key(renderer.images.picture(pictures["photo"])) != picture_key(small.images.picture(pictures["photo"]))


def test_a_text_model_is_left_as_it_is(tiny_qwen2: Path) -> None:
    network, processor = load_network(tiny_qwen2, torch.float32, torch.device("cpu"))
    base = LoadedModel(network, processor, tiny_qwen2, "tiny", torch.float32)
    assert see_pictures(base, make_renderer(processor, Chat()), SampleSet([], [], [], REPORT), store=True) is base


# ---- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_give_back_what_was_put_in(tmp_path: Path, dtype: torch.dtype) -> None:
    files, other = FeatureFiles(tmp_path, 3, dtype), FeatureFiles(tmp_path, 3, dtype)
    one, two = torch.randn(4, 3).to(dtype), torch.randn(1, 3).to(dtype)
    files.append([(b"a" * 16, one)])
    other.append([(b"a" * 16, two), (b"b" * 16, two)])
    assert torch.equal(other.read(b"a" * 16), one), "the first stays"
    assert torch.equal(other.read(b"b" * 16), two)
    assert (b"b" * 16 in files, len(other)) == (False, 2)
    files.append([])
    assert b"b" * 16 in files
    assert (tmp_path / DATA).stat().st_size == 5 * 3 * dtype.itemsize


def test_what_a_killed_process_left_is_not_used(tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path, 2, torch.float32)
    files.append([(b"a" * 16, torch.ones(2, 2))])
    with (tmp_path / DATA).open("ab") as data, (tmp_path / INDEX).open("ab") as index:
        data.write(b"half a matr")
        index.write(b"half")
    again = FeatureFiles(tmp_path, 2, torch.float32)
    assert len(again) == 1
    again.append([(b"b" * 16, torch.full((1, 2), 7.0))])
    final = FeatureFiles(tmp_path, 2, torch.float32)
    assert torch.equal(final.read(b"b" * 16), torch.full((1, 2), 7.0))


def test_samples_share_a_store(tiny_qwen2_vl: Path, pictures: dict[str, Path], cache: Path) -> None:
    base = loaded(tiny_qwen2_vl)
    renderer = make_renderer(base.processor, Chat())
    seen = see_pictures(base, renderer, sample_set(pictures), store=True)
    assert isinstance(seen.vision, StoredVision)
    assert [path.name for path in (cache / "vision").iterdir() if path.is_dir()] == [seen.vision.files.folder.name]
    assert len(seen.vision.files) == 4
    assert isinstance(sample_set(pictures).train[0], Sample)
