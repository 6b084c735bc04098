"""``weitiao check`` and ``weitiao look``: what can be seen before a run."""

from __future__ import annotations

from typing import Annotated

import typer

from weitiao.cli.fail import EXIT_WRONG_INPUT
from weitiao.cli.verbs import AsJson, Overrides, RecipeFile, app


@app.command()
def check(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> int:
    """Check a recipe and its data; writes nothing.

    Shows counts, rejected rows, duplicates, leakage, labels, images and lengths in tokens. Exit code 2 where the data cannot be used.
    """
    from weitiao.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    from weitiao import preview
    from weitiao.cli.show import show_json, show_report

    report = preview.check_recipe(loaded)
    show_json(report) if as_json else show_report(report)
    return EXIT_WRONG_INPUT if any(finding.severity == "error" for finding in report.findings) else 0


@app.command()
def look(
    recipe: RecipeFile,
    overrides: Overrides = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Rows to show.")] = 3,
    ids: Annotated[bool, typer.Option("--ids", help="Show token ids as well.")] = False,
) -> None:
    """Show rows as the model sees them, trained tokens coloured."""
    from weitiao.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    from weitiao import preview
    from weitiao.cli.show import show_look

    show_look(preview.look_at(loaded, n), with_ids=ids)
