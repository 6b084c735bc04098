"""``weitiao doctor``: measured facts, and the sentences that follow from them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from weitiao.cli import main
from weitiao.doctor import Diagnosis, advice, diagnose, gemm_gflops

HEALTHY = Diagnosis("chip", 4, 4, ("AVX512", "AMX"), "cpu", "bfloat16", 900.0, 250.0, 64 * 2**30, 48 * 2**30, "the system's", None, ())


def test_nothing_is_said_of_a_healthy_machine() -> None:
    assert advice(HEALTHY) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threads": 1, "gflops": 250.0}, "torch uses 1 of 4 cores: unset OMP_NUM_THREADS, or set it to 4"),
        ({"threads": 8}, "torch uses 8 threads on 4 cores: set OMP_NUM_THREADS=4"),
        ({"gflops": 300.0}, "other work may be running"),
        ({"dtype": "float32"}, "does not multiply in bfloat16"),
        ({"free_bytes": 3 * 2**30}, "3.0 GiB of memory are free: set train.gradient_checkpointing=true"),
    ],
    ids=["idle cores", "too many threads", "busy", "float32", "little memory"],
)
def test_a_weakness_is_named_with_what_helps(change: dict[str, object], words: str) -> None:
    (said,) = advice(replace(HEALTHY, **change))  # type: ignore[arg-type]
    assert words in said


def test_a_hub_is_missed_only_where_it_was_asked() -> None:
    assert advice(HEALTHY, asked_hub=True) == ("no model hub can be reached: start from a `bundled:` model or from a folder.",)
    assert advice(replace(HEALTHY, hub="modelscope"), asked_hub=True) == ()


def test_this_machine_is_measured() -> None:
    found = diagnose()
    assert found.cores >= 1
    assert found.gflops > 0.1
    assert found.memory_bytes > found.free_bytes > 0
    assert found.hub is None


def test_the_rate_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    assert gemm_gflops(torch.device("cpu"), torch.float32, 1, seconds=0.01) > 0.1
    assert torch.get_num_threads() == before


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    assert ended.value.code == 0
    assert {"gflops", "dtype", "free_bytes", "advice"} <= json.loads(capsys.readouterr().out).keys()
