"""``weitiao models``: what can be tuned and where its weights lie."""

from __future__ import annotations

from typing import Annotated

import typer

from weitiao.cli.verbs import AsJson, app

models = typer.Typer(help="Bundled and hub models.", rich_markup_mode=None)
app.add_typer(models, name="models")


@models.command("list")
def models_list(as_json: AsJson = False) -> None:
    """Show names, sizes, licences and places."""
    from weitiao import model
    from weitiao.cli.show import show_json, show_models

    known = model.list_models()
    show_json({"models": known}) if as_json else show_models(known)


@models.command("pull")
def models_pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="bundled:NAME, or a hub id such as Qwen/Qwen3-0.6B.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
) -> None:
    """Fetch weights now and say where they lie."""
    from weitiao import model
    from weitiao.cli.show import say

    say(f"{name}  {model.resolve_weights(name, revision)}")
