"""A folder that cannot be loaded is a sentence; what is loaded has the dtype that was asked for."""

import shutil

import pytest
import torch
from tests.serve.runs import EXTRACTION, make_run
from tests.tiny import build_tiny

from weitiao import answering, runs
from weitiao.errors import ModelError
from weitiao.model import checkpoint
from weitiao.model.facts import pick_dtype
from weitiao.model.load import load_network


@pytest.mark.parametrize("content", [b"\x10\x00", b"", b"\xff" * 64])
def test_a_damaged_file_of_weights_is_a_sentence(tmp_path, content):
    folder = build_tiny("qwen3", tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model: the weights cannot be loaded: .+"):
        load_network(shutil.copytree(folder, tmp_path / "copy" / "model"), torch.float32, torch.device("cpu"))


def test_a_trained_run_answers_in_the_dtype_of_its_recipe(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run", build_tiny("qwen3", tmp_path / "base"), EXTRACTION)
    monkeypatch.setattr(checkpoint, "pick_dtype", lambda name, device: torch.bfloat16 if name == "auto" else pick_dtype(name, device))
    network = answering.embedded_engine(runs.read_run(folder))[1].network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
