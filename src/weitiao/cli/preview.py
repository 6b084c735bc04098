"""``weitiao check`` and ``weitiao look``: what can be seen before a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from weitiao.cli.ahead import importing
from weitiao.cli.fail import EXIT_WRONG_INPUT
from weitiao.cli.verbs import AsJson, Overrides, app, read_recipe

if TYPE_CHECKING:
    from weitiao.recipe import Recipe

RecipeOrData = Annotated[
    Path,
    typer.Argument(metavar="RECIPE", help="A recipe file (YAML), or data as `weitiao init` takes it: then the recipe that it would write."),
]


@app.command()
def check(recipe: RecipeOrData, overrides: Overrides = None, as_json: AsJson = False) -> int:
    """Check a recipe and its data; writes nothing.

    Shows counts, rejected rows, duplicates, leakage, labels, images and lengths in tokens. Exit code 2 where the data cannot be used.
    """
    loaded = _recipe_of(recipe, overrides)
    with importing():
        from weitiao import preview
    from weitiao.cli.show import say, show_json, show_report

    report = preview.check_recipe(loaded)
    n_errors = sum(finding.severity == "error" for finding in report.findings)
    if as_json:
        show_json(report)
    else:
        show_report(report)
        say(f"errors: {n_errors}; a run would stop here" if n_errors else f"no errors; next: {_next_step(recipe)}")
    return EXIT_WRONG_INPUT if n_errors else 0


@app.command()
def look(
    recipe: RecipeOrData,
    overrides: Overrides = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Rows to show.")] = 3,
    ids: Annotated[bool, typer.Option("--ids", help="Show token ids as well.")] = False,
) -> None:
    """Show rows as the model sees them, trained tokens coloured."""
    loaded = _recipe_of(recipe, overrides)
    with importing():
        from weitiao import preview
    from weitiao.cli.show import show_look

    show_look(preview.look_at(loaded, n), with_ids=ids)


def _recipe_of(path: Path, overrides: Sequence[str] | None) -> Recipe:
    if not _is_data(path):
        return read_recipe(path, overrides)
    from weitiao import data
    from weitiao.cli.show import say

    proposal = data.propose_recipe(str(path), None)
    say(proposal.recognised)
    with TemporaryDirectory() as folder:
        written = Path(folder) / "recipe.yaml"
        written.write_text(proposal.text, encoding="utf-8")
        return read_recipe(written, overrides)


def _is_data(path: Path) -> bool:
    """Whether this is no recipe: another ending, a folder that is no run, a pattern, or a name on a hub."""
    if path.suffix.lower() in (".yaml", ".yml") or (path / "recipe.yaml").exists():
        return False
    return bool(path.suffix) or path.exists() or any(sign in str(path) for sign in "*?[:")


def _next_step(path: Path) -> str:
    if _is_data(path):
        return f"`weitiao init {path}` writes the recipe"
    return f"`weitiao look {path}` shows rows as the model sees them, `weitiao run {path}` trains"
