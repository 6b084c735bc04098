"""``weitiao doctor``: what this machine can do, and what would help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from weitiao.cli.verbs import AsJson, app

if TYPE_CHECKING:
    from weitiao.doctor import Diagnosis


@app.command()
def doctor(
    hub: Annotated[bool, typer.Option("--hub", help="Also ask over the network which model hub answers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can do for tuning, measured in about two seconds, and what would help."""
    from weitiao.cli.show import show_json
    from weitiao.doctor import diagnose

    found = diagnose(ask_hub=hub)
    show_json(found) if as_json else _show(found, asked_hub=hub)


def _show(found: Diagnosis, *, asked_hub: bool) -> None:
    from weitiao.cli.show import say, size

    said = ", ".join(found.instructions) or "no instruction set that is known here"
    say(f"processor  {found.processor}, {found.cores} cores, {found.threads} threads ({said})")
    say(f"training   on {found.device} in {found.dtype}: {found.gflops:,.0f} GFLOP/s in plain matrix products")
    say(f"           one thread alone: {found.gflops_of_one_thread:,.0f} GFLOP/s")
    say(f"memory     {size(found.free_bytes)} of {size(found.memory_bytes)} free, allocator: {found.allocator}")
    if asked_hub:
        say(f"hub        {found.hub or 'none answers'}")
    for sentence in found.advice or ("nothing stands in the way.",):
        say(f"- {sentence}")
