"""A folder that cannot be loaded is a sentence."""

import shutil

import pytest
import torch
from tests.tiny import build_tiny

from weitiao.errors import ModelError
from weitiao.model.load import load_network


@pytest.mark.parametrize("content", [b"\x10\x00", b"", b"\xff" * 64])
def test_a_damaged_file_of_weights_is_a_sentence(tmp_path, content):
    folder = build_tiny("qwen3", tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model: the weights cannot be loaded: .+"):
        load_network(shutil.copytree(folder, tmp_path / "copy" / "model"), torch.float32, torch.device("cpu"))
