"""What ran, and on what: the facts that ``run.json`` holds from the start."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from weitiao import __version__
from weitiao.recipe import Recipe, recipe_yaml

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "datasets", "numpy", "pydantic", "swanlab")


def first_facts(recipe: Recipe) -> dict[str, Any]:
    """Facts known before anything is loaded.

    Args:
        recipe: the run's recipe.

    Returns:
        Versions, machine, seed, the recipe's hash and the time of the start; ``device`` and ``dtype`` are unknown (None) as yet.
    """
    return {
        "weitiao": __version__,
        "versions": {"python": platform.python_version(), **library_versions()},
        "machine": {
            "platform": platform.platform(),
            "processor": processor_name(),
            "n_processors": usable_processors(),
            "pid": os.getpid(),
        },
        "device": None,
        "dtype": None,
        "seed": recipe.run.seed,
        "hashes": {"recipe": recipe_hash(recipe)},
        "started": now(),
        "finished": None,
        "status": "running",
    }


def now() -> str:
    """The time in UTC to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of the recipe's YAML."""
    return hashlib.sha256(recipe_yaml(recipe).encode()).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on, read without importing them; those not installed are left out."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor_name() -> str:
    """What this machine computes with.

    Returns:
        The processor's name as the system gives it, or the architecture.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if sys.platform == "linux" and cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_processors() -> int:
    """How many processors this process may use.

    Returns:
        At least 1.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
