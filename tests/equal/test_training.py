"""Training on a tiny model: the loss falls, the best checkpoint is kept, and a killed run goes on to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import build_tiny_vision

from weitiao.encode import plan_steps
from weitiao.errors import ModelError, TrainingError
from weitiao.model import restore_weights
from weitiao.model.load import load_network
from weitiao.model.tuning import attach_tuning
from weitiao.recipe.sections import FullTuning, LoraTuning, Train
from weitiao.seams import IGNORED, EncodedRow, LoadedModel, TrainResult
from weitiao.train import TrainHooks, run_training
from weitiao.train.arguments import _use_card

SEED = 3


def rows(n: int = 24) -> list[EncodedRow]:
    """A task that can be learnt: the answer repeats the three tokens before it."""
    dice = random.Random(0)
    made = []
    for _ in range(n):
        word = [dice.randrange(20, 40) for _ in range(3)]
        ids = [5, 9, 17, 33, 65, 129, 257, 300, 11, 23, *word, 7, *word]
        made.append(EncodedRow(ids, [IGNORED] * 14 + word, (len(ids),)))
    return made


class Notes:
    """What the hooks were told."""

    def __init__(self, scores: list[float] | None = None) -> None:
        self.logged: list[Mapping[str, float]] = []
        self.scores = scores or []
        self.saved: list[Path] = []
        self.network: Any = None


def train_tiny(
    folder: Path,
    place: Path,
    section: Train,
    *,
    tuning: Any = None,
    notes: Notes | None = None,
    resume: bool = False,
    log: Any = None,
    dtype: torch.dtype = torch.float32,
) -> TrainResult:
    base, processor = load_network(folder, dtype, torch.device("cpu"))
    model = attach_tuning(LoadedModel(base, processor, folder, "tiny", dtype), tuning or LoraTuning(r=4), seed=1)
    noted = notes or Notes()
    noted.network = model.network

    def evaluate(_step: int) -> dict[str, float]:
        return {"score": noted.scores.pop(0)} if noted.scores else {}

    def save(path: Path) -> None:
        noted.saved.append(path)
        model.network.save_pretrained(path)

    hooks = TrainHooks(evaluate, "score", False, save, lambda path: restore_weights(model, path), log or noted.logged.append)
    steps = plan_steps(rows(), batch_tokens=8192, batch_rows=8, micro_batch_tokens=60, packing=True, share_prefix=True, seed=SEED)
    return run_training(model, steps, section, hooks, folder=place / "checkpoints", best=place / "best", seed=SEED, resume=resume)


def test_one_process_trains_on_the_recipes_card_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    arguments: Any = SimpleNamespace(_n_gpu=2)
    _use_card(arguments, torch.device("cuda:1"))
    assert (chosen, arguments._setup_devices, arguments._n_gpu) == ([torch.device("cuda:1")], torch.device("cuda:1"), 1)


@pytest.mark.parametrize(
    ("tuning", "optim"),
    [(LoraTuning(r=8), "adamw"), (FullTuning(), "adamw"), (FullTuning(), "adafactor")],
    ids=["lora", "full", "full-adafactor"],
)
def test_the_loss_falls(tiny_qwen3: Path, tmp_path: Path, tuning: Any, optim: Any) -> None:
    notes = Notes()
    section = Train(num_train_epochs=12, learning_rate=2e-2, batch_rows=8, optim=optim)
    result = train_tiny(tiny_qwen3, tmp_path, section, tuning=tuning, notes=notes)
    state = torch.load(tmp_path / "checkpoints" / "step-36" / "optimizer.pt")["state"]
    assert any("exp_avg_sq_row" in entry for entry in state.values()) is (optim == "adafactor")
    assert result.n_steps == 36
    losses = [entry["loss"] for entry in notes.logged]
    assert len(losses) == 36
    assert sum(losses[-3:]) / 3 < 0.6 * sum(losses[:3]) / 3
    assert notes.logged[0]["supervised_tokens"] == 24
    assert notes.logged[0]["grad_norm"] > 0
    assert result.checkpoint == tmp_path / "best"


def test_the_best_checkpoint_is_the_one_with_the_best_metric(tiny_qwen2: Path, tmp_path: Path) -> None:
    notes = Notes([0.2, 0.9, 0.5])
    result = train_tiny(tiny_qwen2, tmp_path, Train(num_train_epochs=3, learning_rate=1e-2, batch_rows=8), notes=notes)
    assert (result.best_step, result.best_metric, result.n_steps) == (6, 0.9, 9)
    best = load_file(tmp_path / "best" / "adapter_model.safetensors")
    in_memory = dict(result.model.network.named_parameters())
    name = next(name for name in best if "layers.1" in name and "lora_B" in name)
    assert torch.equal(in_memory[name.replace(".weight", ".default.weight")], best[name])
    last = load_file(tmp_path / "checkpoints" / "step-9" / "adapter_model.safetensors")
    assert not torch.equal(last[name], best[name])


def test_training_stops_early_without_a_better_metric(tiny_qwen2: Path, tmp_path: Path) -> None:
    section = Train(num_train_epochs=9, batch_rows=8, early_stopping_patience=2)
    assert train_tiny(tiny_qwen2, tmp_path, section, notes=Notes([0.5, 0.4, 0.3, 0.9])).n_steps == 9


def test_a_loss_that_is_not_finite_stops_with_the_step(tiny_qwen2: Path, tmp_path: Path) -> None:
    notes = Notes()

    def poison(entry: Mapping[str, float]) -> None:
        if entry["step"] == 4:
            next(notes.network.parameters()).data.fill_(float("nan"))

    with pytest.raises(TrainingError, match="the loss is nan at step 5") as caught:
        train_tiny(tiny_qwen2, tmp_path, Train(num_train_epochs=3, batch_rows=8), notes=notes, log=poison)
    assert "train.learning_rate" in caught.value.hint
    assert str(tmp_path / "checkpoints" / "step-3") in caught.value.hint


def test_recomputing_activations_changes_nothing(tiny_qwen3: Path, tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        notes = Notes()
        section = Train(num_train_epochs=2, learning_rate=1e-2, batch_rows=8, gradient_checkpointing=checkpointing)
        train_tiny(tiny_qwen3, tmp_path / str(checkpointing), section, tuning=LoraTuning(r=4, lora_dropout=0.0), notes=notes)
        found.append([(entry["loss"], entry["grad_norm"]) for entry in notes.logged])
    assert len(found[0]) == 6
    assert [value for pair in found[1] for value in pair] == pytest.approx([value for pair in found[0] for value in pair], rel=1e-5)


@pytest.mark.parametrize("fast", ["all", "none"])
def test_full_tuning_computes_in_sixteen_bits_and_keeps_float32_weights(tiny_qwen3: Path, tmp_path: Path, fast: Any) -> None:
    seen: dict[torch.dtype, set[torch.dtype]] = {}
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        notes, found = Notes(), seen.setdefault(dtype, set())
        section = Train(num_train_epochs=2, learning_rate=1e-3, batch_rows=8, fast=fast)
        handle = torch.nn.modules.module.register_module_forward_hook(partial(_note_dtype, found))
        try:
            result = train_tiny(tiny_qwen3, tmp_path / str(dtype), section, tuning=FullTuning(), notes=notes, dtype=dtype)
        finally:
            handle.remove()
        assert {parameter.dtype for parameter in result.model.network.parameters()} == {torch.float32}
        losses[dtype] = [entry["loss"] for entry in notes.logged]
    assert seen == {torch.float32: {torch.float32}, torch.bfloat16: {torch.bfloat16}}
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)


def _note_dtype(found: set[torch.dtype], module: torch.nn.Module, _inputs: Any, output: Any) -> None:
    if isinstance(module, torch.nn.Linear):
        found.add(output.dtype)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_every_weight_of_a_vision_model_comes_back(family: Any, tmp_path: Path) -> None:
    """The published names of Qwen2-VL's tensors are not the network's."""
    folder = build_tiny_vision(family, tmp_path / "model")
    base, processor = load_network(folder, torch.float32, torch.device("cpu"))
    model = attach_tuning(LoadedModel(base, processor, folder, "tiny", torch.float32, is_vision=True), FullTuning(vision="all"))
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    model.network.save_pretrained(tmp_path / "best")
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.fill_(2.0)
    restored = restore_weights(model, tmp_path / "best").network.state_dict()
    assert all(torch.equal(restored[name], tensor) for name, tensor in before.items())
    (tmp_path / "best" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks"):
        restore_weights(model, tmp_path / "best")


def test_a_checkpoint_is_found_again_where_its_replacement_was_killed(tiny_qwen3: Path, tmp_path: Path) -> None:
    result = train_tiny(tiny_qwen3, tmp_path, Train(num_train_epochs=1, batch_rows=8))
    (tmp_path / "best").rename(tmp_path / "best.old")
    restore_weights(result.model, tmp_path / "best")
    assert (tmp_path / "best" / "adapter_model.safetensors").exists()


def test_old_checkpoints_are_removed(tiny_qwen2: Path, tmp_path: Path) -> None:
    train_tiny(tiny_qwen2, tmp_path, Train(num_train_epochs=5, batch_rows=8, save_total_limit=2))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-12", "step-15"]


def test_a_killed_run_goes_on_to_the_last_bit(tiny_qwen3: Path, tmp_path: Path) -> None:
    section = Train(num_train_epochs=6, learning_rate=1e-2, batch_rows=8, eval_steps=2)
    whole, first, second = Notes(), tmp_path / "whole", tmp_path / "killed"
    train_tiny(tiny_qwen3, first, section, notes=whole)
    child = subprocess.Popen(
        [sys.executable, "-c", _killable(tiny_qwen3, second, section)],
        env=os.environ | {"PYTHONPATH": "."},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (second / "checkpoints" / "step-6").exists() and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    print(child.communicate())
    assert child.returncode == -signal.SIGKILL
    rest = Notes()
    newest = max((second / "checkpoints").glob("step-*[0-9]"), key=lambda path: int(path.name.removeprefix("step-")))
    spent = json.loads((newest / "spent.json").read_text(encoding="utf-8"))
    result = train_tiny(tiny_qwen3, second, section, notes=rest, resume=True)
    assert 0 < len(rest.logged) < 18
    assert result.seconds > spent["seconds"] > spent["compute_seconds"] > 0
    assert rest.logged[0]["seconds"] > spent["compute_seconds"]
    wanted = {entry["step"]: (entry["loss"], entry["grad_norm"], entry["learning_rate"]) for entry in whole.logged}
    assert {entry["step"]: (entry["loss"], entry["grad_norm"], entry["learning_rate"]) for entry in rest.logged} == {
        step: values for step, values in wanted.items() if step >= rest.logged[0]["step"]
    }
    ends = [load_file(place / "best" / "adapter_model.safetensors") for place in (first, second)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(tiny_qwen3: Path, tmp_path: Path) -> None:
    section = Train(num_train_epochs=500, batch_rows=8, eval_steps=1000)
    child = subprocess.Popen(
        [sys.executable, "-c", _killable(tiny_qwen3, tmp_path, section)],
        env=os.environ | {"PYTHONPATH": "."},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    lines = []
    for line in iter(child.stderr.readline, ""):
        lines.append(line)
        if "step 5" in line:
            break
    assert "step 5" in "".join(lines[-1:]), "".join(lines)
    child.send_signal(signal.SIGINT)
    said = child.stderr.read()
    assert child.wait(60) != 0
    assert "KeyboardInterrupt: after step" in said
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert {"adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"} <= {
        path.name for path in checkpoint.iterdir()
    }


def _killable(folder: Path, place: Path, section: Train) -> str:
    return textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path.cwd())!r})
        from pathlib import Path
        from tests.equal.test_training import Notes, Train, train_tiny
        notes = Notes()
        class Slow(list):
            def append(self, entry):
                import time
                print("step", entry["step"], file=sys.stderr, flush=True)
                time.sleep(0.05)
        notes.logged = Slow()
        train_tiny(Path({str(folder)!r}), Path({str(place)!r}), Train.model_validate({section.model_dump()!r}), notes=notes)
    """)
