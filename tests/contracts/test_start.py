"""Start-up: quick, and without the heavy libraries."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import weitiao

WEITIAO = Path(sys.executable).with_name("weitiao")


def seconds_of(*command: str) -> float:
    """Processor time of a command, best of three: what other processes do on the machine does not count."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_the_recipe_room_loads_without_torch_in_half_a_second():
    # Processor time: what other processes do on the machine does not count.
    code = "import time; t = time.process_time(); import weitiao.recipe, sys; print(time.process_time() - t, 'torch' in sys.modules)"
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
