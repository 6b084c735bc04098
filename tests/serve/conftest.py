"""One server of an extraction run for all tests that ask it nothing special."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.runs import EXTRACTION, make_run
from tests.serve.servers import Server, running


@pytest.fixture(scope="session")
def complaints_run(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that pulls fields out of complaints."""
    return make_run(tmp_path_factory.mktemp("serve") / "complaints", tiny_qwen3, EXTRACTION)


@pytest.fixture(scope="session")
def server(complaints_run: Path) -> Iterator[Server]:
    """It, served."""
    with running(complaints_run) as started:
        yield started
