"""``weitiao plan``: what a run will take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from weitiao.cli.ahead import importing
from weitiao.cli.verbs import AsJson, Overrides, RecipeFile, app, read_recipe

if TYPE_CHECKING:
    from weitiao.planning import Plan


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    measure: Annotated[bool, typer.Option("--measure", help="Load the weights and train a few steps, instead of deriving.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a run will take: parameters, memory, tokens, steps, time.

    Nothing is kept; a model that cannot fit is refused with what would fit.
    """
    loaded = read_recipe(recipe, overrides)
    from weitiao.cli.show import show_json

    with importing():
        from weitiao.planning import plan_recipe
    planned = plan_recipe(loaded, measure=measure)
    show_json(planned) if as_json else _show(planned)


def _show(planned: Plan) -> None:
    from weitiao.cli.display import duration
    from weitiao.cli.show import result_table, say, size, stderr_console

    trained = f"{planned.n_trainable:,} trained ({planned.n_trainable / planned.n_parameters:.2%})"
    say(f"{planned.model}: {planned.n_parameters:,} parameters, {trained}, {planned.dtype} on {planned.device}")
    shortened = f", {planned.n_shortened:,} of them shortened" if planned.n_shortened else ""
    say(f"{planned.n_rows:,} training rows{shortened}; the longest has {planned.longest_row:,} tokens")
    say(f"{planned.n_tokens:,} tokens an epoch, {planned.n_supervised_tokens:,} of them trained; {planned.n_steps:,} optimizer steps")
    table = result_table("memory", ["part", "size"])
    for part, n_bytes in planned.memory.items():
        table.add_row(part, size(n_bytes), style="dim")
    source = "measured" if planned.measured else "derived"
    table.add_row(f"training, {source}", size(planned.training_bytes))
    table.add_row("answering rows, derived", size(planned.answering_bytes))
    table.add_row("peak", size(planned.peak_bytes), style="bold")
    table.add_row("this device", size(planned.device_bytes))
    stderr_console().print(table)
    say(f"training time, {source}: {duration(planned.seconds)}; answering rows before, meanwhile and after comes on top")
    if planned.peak_bytes > planned.device_bytes:
        say("this does not fit: lower train.micro_batch_tokens or encode.max_tokens, or tune with model.tuning.kind=lora")
