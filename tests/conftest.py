"""Fixtures for every test: tiny models as folders on disk. For variants of them call ``tests.tiny.build_tiny``."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import build_tiny, build_tokenizer


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Qwen2.5 model (default system text, no thinking)."""
    return build_tiny("qwen2", tmp_path_factory.mktemp("models") / "tiny-qwen2")


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Qwen3 model (thinking mode in its template)."""
    return build_tiny("qwen3", tmp_path_factory.mktemp("models") / "tiny-qwen3")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """The tiny Qwen3 tokenizer, without a model."""
    return build_tokenizer("qwen3")
