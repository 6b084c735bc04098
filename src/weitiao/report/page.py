"""Puts the page together and writes it in one step."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from weitiao.errors import WeitiaoError
from weitiao.report.answers import sort_answers
from weitiao.report.curves import draw_curves
from weitiao.report.dataset import describe_data
from weitiao.report.read import RunRecord, read_run
from weitiao.report.suspects import list_suspects
from weitiao.report.tables import task_tables
from weitiao.report.usage import commands, fingerprints, question_rows, run_facts
from weitiao.report.verdict import judge

PAGE = "report.html"


def write_report(run_path: Path) -> Path:
    """Write the run's page: one HTML file that asks nothing of any network.

    Args:
        run_path: a run folder; a run that stopped early gives a page that says what is missing.

    Returns:
        ``run_path/report.html``, replaced whole.

    Raises:
        CommandError: ``run_path`` is no run folder.
        WeitiaoError: the page cannot be written.
    """
    path = run_path.absolute()
    html = render(read_run(path))
    page, partial = path / PAGE, path / f".{PAGE}.{os.getpid()}.partial"
    try:
        partial.write_text(html, encoding="utf-8", errors="replace")
        partial.replace(page)
    except OSError as err:
        partial.unlink(missing_ok=True)
        raise WeitiaoError(f"the report cannot be written ({err.strerror or err})", where=str(page)) from err
    return page


def render(record: RunRecord) -> str:
    """The page of a run as HTML; the same run gives the same text.

    Args:
        record: what was read from the run folder.

    Returns:
        A whole HTML document.
    """
    environment = Environment(
        loader=PackageLoader("weitiao.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        name=record.path.name,
        task=record.task,
        base_model=str((record.recipe.get("model") or {}).get("path") or "unknown model"),
        verdict=judge(record),
        curves=draw_curves(record),
        tables=task_tables(record),
        answers=sort_answers(record),
        questions=question_rows(record),
        data=describe_data(record.data),
        suspects=list_suspects(record),
        has_facts=bool(record.facts),
        facts=run_facts(record),
        fingerprints=fingerprints(record),
        recipe_text=record.recipe_text,
        commands=commands(record),
    )
