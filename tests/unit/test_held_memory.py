"""While training lasts, freed memory is kept for what comes next; in processes of their own, for what was freed before matters."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from typing import Any

import pytest

SCRIPT = """
import json, resource, psutil, torch
from weitiao.train.memory import held_memory

MEGABYTES = [24, 3, 17, 9, 24, 5, 30, 2] * 2

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(size << 20, dtype=torch.uint8) for size in MEGABYTES]
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return psutil.Process().memory_info().rss >> 20

before = resident()
try:
    with held_memory():
        pages = [new_pages() for _ in range(12)]
        within = resident()
        raise KeyboardInterrupt
except KeyboardInterrupt:
    after = resident()
print(json.dumps({"needed": sum(MEGABYTES), "pages": pages[6:], "within": within - before, "after": after - before}))
"""

if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"):
    pytest.skip("only glibc gives memory back by settings", allow_module_level=True)


def measured() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_freed_tensors_pages_are_used_again_and_given_back_at_the_end() -> None:
    held = measured()
    assert max(held["pages"]) < 0.01 * held["needed"] * 256
    assert held["within"] > 0.9 * held["needed"]
    assert held["after"] < 0.1 * held["needed"], "also where training was interrupted"
