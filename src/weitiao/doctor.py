"""What this machine can do for tuning, measured, and what would help: facts and sentences for ``weitiao doctor``."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from weitiao import hubs, runs
from weitiao.model import pick_device, pick_dtype

SHAPE = (1024, 896, 4864)
"""Tokens, inputs and outputs of the matrix product that is timed: the widest of a 0.5B Qwen."""
INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX", "asimd": "NEON", "bf16": "BF16"}
"""Flags of /proc/cpuinfo that matter to matrix products, and their names."""
SMALL_MEMORY = 8 * 2**30
"""Free bytes below which a 0.5B model in float32 is tight."""
SLOW_SHARE = 0.6
"""Share of the rate of a thread alone, per thread, below which threads hinder each other."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a machine is and how fast it multiplies."""

    processor: str
    cores: int
    """That this process may use."""
    threads: int
    """That torch uses."""
    instructions: tuple[str, ...]
    device: str
    dtype: str
    """Of the arithmetic that ``model.dtype: auto`` means here."""
    gflops: float
    """Of plain matrix products on all threads, in ``dtype``."""
    gflops_of_one_thread: float
    memory_bytes: int
    free_bytes: int
    allocator: str
    hub: str | None
    """The hub that answers; None where none does or none was asked."""
    advice: tuple[str, ...]
    """What would help, as sentences; empty where nothing would."""


def diagnose(*, ask_hub: bool = False) -> Diagnosis:
    """Look at this machine and time its matrix products for about two seconds.

    Args:
        ask_hub: also find out which model hub answers, over the network.

    Returns:
        The facts, and what would help.
    """
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    threads = torch.get_num_threads()
    memory = psutil.virtual_memory()
    all_threads, one_thread = gemm_gflops(device, dtype, threads), gemm_gflops(device, dtype, 1)
    facts = Diagnosis(
        processor=runs.processor_name(),
        cores=runs.usable_processors(),
        threads=threads,
        instructions=_instructions(),
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        gflops=round(all_threads, 1),
        gflops_of_one_thread=round(one_thread, 1),
        memory_bytes=memory.total,
        free_bytes=memory.available,
        allocator=_allocator(),
        hub=_hub() if ask_hub else None,
        advice=(),
    )
    return replace(facts, advice=advice(facts, ask_hub))


def advice(facts: Diagnosis, asked_hub: bool = False) -> tuple[str, ...]:
    """Sentences on what would make tuning possible or faster.

    Args:
        facts: of the machine.
        asked_hub: whether a missing hub is known to be missing.

    Returns:
        The most useful first.
    """
    said = []
    if facts.device == "cpu" and facts.threads < facts.cores:
        said.append(f"torch uses {facts.threads} of {facts.cores} cores: unset OMP_NUM_THREADS, or set it to {facts.cores}.")
    if facts.device == "cpu" and facts.threads > facts.cores:
        said.append(f"torch uses {facts.threads} threads on {facts.cores} cores: set OMP_NUM_THREADS={facts.cores}.")
    elif facts.device == "cpu" and facts.threads > 1 and facts.gflops < SLOW_SHARE * facts.threads * facts.gflops_of_one_thread:
        said.append("all cores together are much slower than one alone would suggest: other work may be running on this machine.")
    if facts.device == "cpu" and facts.dtype == "float32":
        said.append(
            "this processor does not multiply in bfloat16: training is in float32, at twice the memory; one with AMX is many times faster."
        )
    if facts.free_bytes < SMALL_MEMORY:
        said.append(
            f"{facts.free_bytes / 2**30:.1f} GiB of memory are free: set train.gradient_checkpointing=true, "
            "and ask `weitiao plan` what a run takes."
        )
    if asked_hub and facts.hub is None:
        said.append("no model hub can be reached: start from a `bundled:` model or from a folder.")
    return tuple(said)


def gemm_gflops_here() -> float:
    """The rate of the device, dtype and threads that a run would take here by itself, timed for a second.

    Returns:
        10^9 operations a second, two for each product and sum.
    """
    device = pick_device("auto")
    return gemm_gflops(device, pick_dtype("auto", device), torch.get_num_threads())


def gemm_gflops(device: torch.device, dtype: torch.dtype, threads: int, seconds: float = 1.0) -> float:
    """The rate of one matrix product, repeated; its best time counts.

    Args:
        device: where it runs.
        dtype: of its numbers.
        threads: that torch may use meanwhile.
        seconds: to go on for.

    Returns:
        10^9 operations a second, two for each product and sum.
    """
    n_tokens, n_in, n_out = SHAPE
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, w = torch.randn(n_tokens, n_in, device=device, dtype=dtype), torch.randn(n_out, n_in, device=device, dtype=dtype)
        best, until = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < until or best == float("inf"):
            started = time.perf_counter()
            # Reading one number waits for the card.
            torch.nn.functional.linear(x, w)[0, 0].item()
            best = min(best, time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return 2 * n_tokens * n_in * n_out / best / 1e9


def _instructions() -> tuple[str, ...]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()}
    return tuple(name for flag, name in INSTRUCTIONS.items() if flag in flags)


def _allocator() -> str:
    preloaded = os.environ.get("LD_PRELOAD", "")
    return next((name for name in ("jemalloc", "tcmalloc", "mimalloc") if name in preloaded), "the system's")


def _hub() -> str | None:
    return next((hub for hub in hubs.chosen_hubs() if hubs.answers(hubs.endpoint(hub))), None)
