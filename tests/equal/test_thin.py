"""Frozen matrices kept in their file's 16 bits give the very numbers of matrices that were widened at loading."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.equal.test_packing import ON_CPU, packed, plain, rows
from tests.whole.test_export import SAMPLES, make_run

from weitiao.chat import make_renderer
from weitiao.encode.steps import pack
from weitiao.infer import make_engine
from weitiao.model import attach_tuning, load, load_base, load_checkpoint, outline, parameter_bytes
from weitiao.recipe.sections import Chat, FullTuning, LoraTuning, Model
from weitiao.seams import LoadedModel, Sampling

LORA = LoraTuning(r=4, lora_dropout=0.0)
ROOM = load.SHARE_OF_FREE
NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(autouse=True)
def memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "SHARE_OF_FREE", 0.0)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # only a processor without 16-bit units widens weights


def narrowed(folder: Path, place: Path, dtype: torch.dtype, keep: str = "none") -> Path:
    """A copy of a folder whose weights have 16 bits, but for those with ``keep`` in their name."""
    shutil.copytree(folder, place)
    weights = load_file(place / "model.safetensors")
    save_file({name: weight if keep in name else weight.to(dtype) for name, weight in weights.items()}, place / "model.safetensors")
    return place


@pytest.fixture(scope="module", params=[("qwen2", "bfloat16"), ("qwen3", "bfloat16"), ("qwen3", "float16")], ids="-".join)
def folder(request: pytest.FixtureRequest, tiny_qwen2: Path, tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, dtype = request.param
    return narrowed({"qwen2": tiny_qwen2, "qwen3": tiny_qwen3}[family], tmp_path_factory.mktemp("thin") / "base", NARROW[dtype])


def tuned(path: Path, dtype: Any) -> LoadedModel:
    model = attach_tuning(load_base(Model(path=str(path), dtype=dtype, device="cpu", tuning=LORA)), LORA)
    for name, parameter in model.network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    model.network.train()
    return model


def dtypes(network: Any) -> dict[torch.dtype, set[str]]:
    found: dict[torch.dtype, set[str]] = {}
    for name, parameter in network.named_parameters():
        found.setdefault(parameter.dtype, set()).add(name.rsplit(".", 2)[-2])
    return found


LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_only_the_matrices_of_the_layers_stay_narrow(folder: Path) -> None:
    base = load_base(Model(path=str(folder), device="cpu"))
    (narrow,) = dtypes(base.network).keys() - {torch.float32}
    weights = {name for name, parameter in base.network.named_parameters() if parameter.dtype == narrow}
    assert {name.rsplit(".", 2)[-2] for name in weights} == LINEAR
    assert all(name.endswith(".weight") for name in weights)
    assert (base.dtype, base.network.dtype) == (torch.float32, torch.float32)
    assert base.network.get_input_embeddings().weight is base.network.get_output_embeddings().weight


@pytest.mark.parametrize(
    "names", [[], ["lora_linear"], ["fused_attention"], ["fused_mlp"], ON_CPU], ids=lambda names: "+".join(names) or "none"
)
def test_loss_and_gradients_are_the_same_to_the_last_bit(folder: Path, names: list[str]) -> None:
    recompute = names == ON_CPU
    batch = pack(rows(3), 64)
    results = [packed(tuned(folder, dtype).network, batch, frozenset(names), recompute=recompute) for dtype in ("auto", "float32")]
    (thin_loss, thin), (wide_loss, wide) = results
    assert thin_loss == wide_loss > 0
    assert thin.keys() == wide.keys()
    assert all("lora_" in name for name in thin)
    for name, gradient in wide.items():
        assert torch.equal(thin[name], gradient), name


def test_the_librarys_own_forward_too(folder: Path) -> None:
    thin, wide = (plain(tuned(folder, dtype).network, rows(2)) for dtype in ("auto", "float32"))
    assert thin[0] == wide[0]
    assert all(torch.equal(thin[1][name], gradient) for name, gradient in wide[1].items())


@pytest.mark.parametrize("packed_weights", [True, False], ids=["packed", "plain"])
def test_a_checkpoint_answers_the_same(tmp_path: Path, packed_weights: bool) -> None:
    run = make_run(tmp_path, "qwen3", LORA)
    narrowed(run.parent / "base", tmp_path / "narrow", torch.bfloat16)
    shutil.rmtree(run.parent / "base")
    (tmp_path / "narrow").rename(run.parent / "base")
    answers = []
    for dtype in (None, torch.float32):
        loaded = load_checkpoint(run / "best", device="cpu", dtype=dtype)
        engine = make_engine(loaded, make_renderer(loaded.processor, Chat()), 4, packed=packed_weights)
        answers.append([answer.text for _, answer in sorted(engine.generate(SAMPLES, Sampling(max_new_tokens=12)))])
        narrow = {torch.bfloat16} if dtype is None else set()
        assert dtypes(loaded.network).keys() == {torch.float32} | narrow
        adapter = load_file(run / "best" / "adapter_model.safetensors")
        held = dict(loaded.network.named_parameters())
        assert all(torch.equal(held[name.replace(".weight", ".default.weight")], weight) for name, weight in adapter.items())
    assert answers[0] == answers[1]
    assert any(answers[0])


def test_no_widened_matrix_is_kept_for_the_backward_pass(folder: Path) -> None:
    network = tuned(folder, "auto").network
    matrices = {tuple(p.shape) for name, p in network.named_parameters() if p.dtype != torch.float32}
    kept: set[tuple[tuple[int, ...], bool]] = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.add((tuple(tensor.shape), tensor.dtype == torch.float32))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(input_ids=torch.tensor([rows(1)[0].input_ids])).logits.sum()
    assert {shape for shape, is_wide in kept if not is_wide} >= matrices
    assert not any(is_wide for shape, is_wide in kept if shape in matrices)


def test_what_is_trained_or_asked_for_is_wide(folder: Path) -> None:
    for section in (Model(path=str(folder), tuning=FullTuning(), device="cpu"), Model(path=str(folder), dtype="float32", device="cpu")):
        assert dtypes(load_base(section).network).keys() == {torch.float32}


def test_where_there_is_room_all_is_wide(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "SHARE_OF_FREE", ROOM)
    assert dtypes(load_base(Model(path=str(folder), device="cpu")).network).keys() == {torch.float32}


def test_files_of_several_dtypes_are_widened(tiny_qwen2: Path, tmp_path: Path) -> None:
    """Read in 16 bits, what the file has in 32 would be rounded."""
    mixed = narrowed(tiny_qwen2, tmp_path / "mixed", torch.bfloat16, keep="mlp")
    for path in (mixed, tiny_qwen2):
        assert dtypes(load_base(Model(path=str(path), device="cpu")).network).keys() == {torch.float32}


def test_the_plan_counts_what_stays_narrow(folder: Path) -> None:
    thin, wide = (
        parameter_bytes(outline(Model(path=str(folder), dtype=dtype, device="cpu", tuning=LORA)).network) for dtype in ("auto", "float32")
    )
    loaded = tuned(folder, "auto").network
    assert thin == parameter_bytes(loaded)
    matrices = sum(
        p.numel() for name, p in loaded.named_parameters() if name.rsplit(".", 2)[-2] == "base_layer" and name.endswith("weight")
    )
    assert wide["weights"] - thin["weights"] == 2 * matrices > 0
