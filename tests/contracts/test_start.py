"""Start-up: quick, and without the heavy libraries."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import weitiao

WEITIAO = Path(sys.executable).with_name("weitiao")


def seconds_of(*command: str) -> float:
    """The best of three, since other processes share the machine."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def test_the_recipe_room_loads_without_torch_in_half_a_second():
    code = "import time; t = time.perf_counter(); import weitiao.recipe, sys; print(time.perf_counter() - t, 'torch' in sys.modules)"
    measured = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() for _ in range(3)]
    assert {has_torch for _, has_torch in measured} == {"False"}
    assert min(float(seconds) for seconds, _ in measured) < 0.5


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
def test_help_takes_less_than_a_second(words):
    assert seconds_of(str(WEITIAO), *words) < 1.0


@pytest.mark.parametrize("room", ["data", "tasks", "evaluate", "report", "runs", "track", "demo", "cli"])
def test_a_room_loads_without_torch(room):
    code = f"import sys, weitiao.{room}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "False"


def test_the_version_is_the_package_version():
    shown = subprocess.run([str(WEITIAO), "--version"], check=True, capture_output=True, text=True).stdout.strip()
    assert shown == weitiao.__version__
