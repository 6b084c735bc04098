"""The verbs of ``weitiao``: each parses its words, calls one function, and shows what it returns."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from weitiao import __version__
from weitiao.cli.ahead import importing, reading_ahead
from weitiao.cli.fail import exit_code_of
from weitiao.errors import CommandError

if TYPE_CHECKING:
    from weitiao.recipe import Recipe

DEBUG_FLAG = "--debug"
QUIET_LIBRARIES = {"TRANSFORMERS_VERBOSITY": "error", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "true"}

app = typer.Typer(
    name="weitiao",
    help="Turn your own data into a small private Qwen model, prove on held-out rows that it is better, and put it to work.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="a.b=c", help="Settings that replace those of the recipe, e.g. train.learning_rate=2e-4."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its name under runs/.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit with its code.

    Args:
        arguments: words after ``weitiao``; those of this process when not given.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG_FLAG in given
    words = [word for word in given if word != DEBUG_FLAG] or ["--help"]
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    command = partial(app, args=words, standalone_mode=False, obj=debug)
    sys.exit(exit_code_of(command, debug=debug, verb=words[0]))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")] = False,  # noqa: ARG001
    debug: Annotated[bool, typer.Option(DEBUG_FLAG, help="Show tracebacks and libraries' warnings; may stand anywhere.")] = False,  # noqa: ARG001
) -> None:
    """Prepare stderr for messages and progress."""
    from weitiao.cli.display import show_messages

    show_messages(debug=bool(context.obj))


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file, a folder, a glob, or hub:OWNER/NAME.")],
    task: Annotated[str | None, typer.Option(metavar="KIND", help="Kind of work, where the rows do not tell it.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The recipe to write.")] = Path("recipe.yaml"),
) -> None:
    """Look at data and write a recipe for it.

    Says what was recognised; the recipe is commented and runs as it is.
    """
    from weitiao import data as data_room
    from weitiao.cli.show import say

    if output.exists():
        raise CommandError("the file exists", where=str(output), hint="name another file with -o")
    proposal = data_room.propose_recipe(data, task)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(proposal.text, encoding="utf-8")
    say(f"{proposal.recognised}\nwrote {output}; next: weitiao check {output}")


def read_recipe(path: Path, overrides: Sequence[str] | None) -> Recipe:
    """The recipe, read before the pipeline and with it torch is imported: a misspelt key is told at once."""
    from weitiao.recipe import load_recipe

    return load_recipe(path, overrides or ())


def find_run(path: Path) -> Path:
    """The run folder; likewise, a misspelt one is told before anything heavy is imported."""
    from weitiao.runs import read_run

    return read_run(path).path


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="RUN", help="The run folder; runs/NAME-OF-THE-RECIPE if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Delete the run folder first, if it is one.")] = False,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Try all values of overrides like train.learning_rate=1e-4,2e-4; finish the best."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check, train, compare with the base, export, report.

    Everything goes into one run folder, which every other verb reads.
    """
    mode = _mode(resume=resume, replace=replace)
    if sweep:
        from weitiao.cli.trials import sweep_recipe

        return sweep_recipe(recipe, overrides or (), output, mode, as_json=as_json)
    loaded = read_recipe(recipe, overrides)
    path = output or Path(loaded.run.path or Path("runs") / recipe.stem)
    with reading_ahead(loaded) as rows:
        with importing():
            from weitiao import pipeline
        summary = pipeline.run_recipe(loaded, path, mode, rows)
    from weitiao.cli.show import show_json, show_run

    return show_json(summary) if as_json else show_run(summary)


def _mode(*, resume: bool, replace: bool) -> Literal["new", "resume", "replace"]:
    if resume and replace:
        raise CommandError("--resume and --replace exclude each other", hint="keep one of the two")
    return "resume" if resume else "replace" if replace else "new"


@app.command()
def train(run: RunFolder, as_json: AsJson = False) -> None:
    """Train a run again, on its data as they are now.

    Its baseline stays where the test rows do; the tuned answers, the comparison, the exports and the report are made anew.
    """
    path = find_run(run)
    with importing():
        from weitiao import finished
    from weitiao.cli.show import show_json, show_run

    summary = finished.train_run(path)
    show_json(summary) if as_json else show_run(summary)


@app.command()
def evaluate(
    run: RunFolder,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score these rows, of the same shape, instead of the test rows.")
    ] = None,
    baseline: Annotated[bool, typer.Option("--baseline", help="Score the base model instead of the tuned one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score a run's tuned model, or its base.

    On the run's test rows, or on another file of the same shape.
    """
    path = find_run(run)
    with importing():
        from weitiao import finished
    from weitiao.cli.show import show_json, show_scores

    scores = finished.evaluate_run(path, data, baseline)
    show_json(scores) if as_json else show_scores(scores)


@app.command()
def export(
    run: RunFolder,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="adapter, merged, gguf, ollama or openvino; may stand several times. The recipe's if not given."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the weights in the files, with --kind; see docs/export.md.")] = None,
) -> None:
    """Export a run's best checkpoint, and check it.

    Each artifact is read back by the engine that it is meant for, and its answers are compared with the run's.
    """
    path = find_run(run)
    if dtype is not None and not kind:
        raise CommandError("--dtype goes with --kind", hint="add --kind merged, gguf, ollama or openvino")
    with importing():
        from weitiao import finished
    from weitiao.cli.show import show_artifacts

    artifacts = finished.export_run(path, kind or (), dtype)
    if not artifacts:
        hint = f"name what to write: weitiao export {run} --kind merged   (or adapter, gguf, ollama, openvino)"
        raise CommandError("nothing is exported, for the run's recipe has `export: []`", where=str(path), hint=hint)
    show_artifacts(artifacts)


@app.command()
def report(run: RunFolder) -> None:
    """Write a run's report.html again."""
    path = find_run(run)
    with importing():
        from weitiao import finished
    from weitiao.cli.show import say

    say(f"report  {finished.report_run(path)}")


@app.command()
def predict(
    run: RunFolder,
    input_path: Annotated[str, typer.Option("-i", "--input", metavar="FILE", help="Rows to answer: a file, or a folder of images.")],
    output_path: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Answers (JSONL); rows that are there are not done again.")
    ],
    engine: Annotated[
        str, typer.Option(metavar="NAME[:ARG]", help="What answers: embedded, or another engine; see docs/predict.md.")
    ] = "embedded",
    min_confidence: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Rows that are less sure go to OUTPUT.unsure.jsonl, for people.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a file of rows.

    Answers are written as they come; the same command again goes on where it stopped.
    """
    path = find_run(run)
    with importing():
        from weitiao import finished
    from weitiao.cli.show import show_facts, show_json
    from weitiao.runs import jsonable

    summary = finished.predict_run(path, input_path, output_path, engine=engine, min_confidence=min_confidence)
    show_json(summary) if as_json else show_facts(jsonable(summary))


@app.command()
def chat(
    run: RunFolder,
    web: Annotated[bool, typer.Option("--web", help="On a page in the browser, base and tuned model side by side.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page, on 127.0.0.1; 0 for any that is free.")] = 7860,
) -> None:
    """Talk to a run's tuned model.

    Labels come with their probabilities. An empty line or Ctrl-D ends it; with --web, Ctrl-C.
    """
    path = find_run(run)
    if web:
        from weitiao.cli.page import show_page

        return show_page(path, port)
    from weitiao import trying
    from weitiao.cli.show import ask, show_answer

    answer = trying.tuned_model(path)
    while question := ask():
        show_answer(answer(question, None))
    return None


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Gets the data, the recipe and the run.")] = Path(
        "runs/demo"
    ),
    replace: Annotated[bool, typer.Option("--replace", help="Run it anew where it has run already.")] = False,
    whole: Annotated[bool, typer.Option("--whole", help="Train on 200 rows on a slow machine too.")] = False,
    data_only: Annotated[Path | None, typer.Option(metavar="FILE", help="Only write the 800 complaints to FILE (JSONL).")] = None,
    formulas: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Only write pictures of 8,000 formulas with their LaTeX.")] = None,
    scenes: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Only write 400 drawn scenes with five captions each.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole path on made-up complaints.

    Needs no data and no model hub: weights of 491 MB come with pip, once. Ten minutes on two cores; a slow machine trains on fewer rows.
    """
    from weitiao.cli.demonstrate import run_demo, write_data, write_pictures
    from weitiao.cli.show import show_json, show_run

    if data_only is not None:
        return write_data(data_only)
    if formulas is not None or scenes is not None:
        return write_pictures(formulas, scenes)
    summary = run_demo(output, replace=replace, whole=whole)
    return show_json(summary) if as_json else show_run(summary)
