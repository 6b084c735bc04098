"""The verbs as a user meets them: the real command, what it prints where, and the files it leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.command import RECIPE, write_rows

from weitiao.cli import main
from weitiao.cli.display import duration, progress_line
from weitiao.demo import make_complaints

WEITIAO = Path(sys.executable).with_name("weitiao")


def weitiao(folder: Path, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(WEITIAO), *words], cwd=folder, capture_output=True, text=True, check=False, input=typed)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_qwen2: Path) -> Path:
    """A working folder with a recipe, rows and a tiny model."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "tiny").symlink_to(tiny_qwen2)
    write_rows(folder / "rows.jsonl", make_complaints(30))
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> subprocess.CompletedProcess[str]:
    """A run of that recipe, as ``runs/recipe``."""
    return weitiao(folder, "run", "recipe.yaml", "--json")


def test_run_prints_one_json_object_and_leaves_a_run_folder(folder, finished):
    assert finished.stdout.count("\n") == 1
    summary = json.loads(finished.stdout)
    run = folder / "runs" / "recipe"
    assert summary["path"] == str(run)
    assert summary["comparison"]["tuned"]["n"] == summary["comparison"]["baseline"]["n"] > 0
    assert set(summary["comparison"]["gain"]) == set(summary["comparison"]["tuned"]["metrics"])
    names = {"recipe.yaml", "run.json", "data.json", "events.jsonl", "evaluations.jsonl", "scores.json", "report.html"}
    assert names | {"baseline", "tuned", "best", "merged", "checkpoints"} <= {entry.name for entry in run.iterdir()}
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["status"] == "finished"
    assert "training" in finished.stderr


@pytest.mark.usefixtures("finished")
def test_chat_answers_every_line_until_an_empty_one(folder):
    done = weitiao(folder, "chat", "recipe", typed="你好\n再见\n\nnot asked\n")
    assert done.stdout == ""
    assert done.stderr.count("> ") == 3


def test_look_marks_what_is_trained(folder):
    done = weitiao(folder, "look", "recipe.yaml", "-n", "2")
    assert done.stderr.count("⟦") == done.stderr.count("⟧") == 2
    assert '⟦{"name": ' in done.stderr
    assert "<|im_end|>" in done.stderr[done.stderr.index("⟦") : done.stderr.index("⟧")]


def test_init_writes_a_recipe_that_check_accepts(folder):
    said = weitiao(folder, "init", "rows.jsonl", "-o", "mine.yaml").stderr
    assert "extraction" in said
    report = json.loads(weitiao(folder, "check", "mine.yaml", "--json").stdout)
    assert (report["n_read"], report["n_kept"]) == (30, 30)
    assert not (folder / "runs" / "mine").exists()


def test_init_does_not_overwrite(folder):
    (folder / "there.yaml").write_text("mine", encoding="utf-8")
    done = subprocess.run([str(WEITIAO), "init", "rows.jsonl", "-o", "there.yaml"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "weitiao: there.yaml: the file exists\n  name another file with -o\n"
    assert (folder / "there.yaml").read_text(encoding="utf-8") == "mine"


def test_the_demos_data_alone(folder):
    weitiao(folder, "demo", "--data-only", "complaints.jsonl")
    rows = [json.loads(line) for line in (folder / "complaints.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 800
    assert {"instruction", "output"} <= set(rows[0])


def test_folders_are_made_for_what_is_written(folder):
    weitiao(folder, "init", "rows.jsonl", "-o", "new/deep/mine.yaml")
    weitiao(folder, "demo", "--data-only", "other/complaints.jsonl")
    assert (folder / "new" / "deep" / "mine.yaml").read_text(encoding="utf-8").startswith("# ")
    assert (folder / "other" / "complaints.jsonl").is_file()


def test_no_words_show_the_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 0
    assert "Check, train, compare with the base, export, report." in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_error_message(folder):
    code = f"{WEITIAO} check recipe.yaml --json | head -c 1"
    done = subprocess.run(["bash", "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert (done.stdout, "Traceback" in done.stderr, "BrokenPipe" in done.stderr) == ("{", False, False)


@pytest.mark.parametrize(
    ("n_done", "total", "seconds", "line"),
    [
        (120, 400, 60.0, "answering: 120 of 400 rows, 2.0 rows/s, 2 min 20 s left"),
        (0, 400, 3.0, "answering: 0 of 400 rows, 3.0 s"),
        (400, 400, 200.0, "answering: 400 rows, 2.0 rows/s, 3 min 20 s"),
        (2, 10, 60.0, "answering: 2 of 10 rows, 30.0 s/row, 4 min 0 s left"),
        (50_000, None, 10.0, "answering: 50,000 rows, 5,000 rows/s, 10 s"),
    ],
)
def test_progress_in_a_log(n_done, total, seconds, line):
    assert progress_line("answering", n_done, total, "rows", seconds) == line


@pytest.mark.parametrize(
    ("n_done", "n_begun", "line"),
    [
        (0, 0.0, "answering: 0 of 170 rows, 64 at work, 12 of at most 256 tokens, 1 min 30 s"),
        (1, 44.0, "answering: 1 of 170 rows, 64 at work, 12 of at most 256 tokens, 0.5 rows/s, 4 min 10 s left"),
    ],
    ids=["no estimate before it means something", "half an answer is half a row"],
)
def test_progress_within_a_wide_batch(n_done, n_begun, line):
    words = "64 at work, 12 of at most 256 tokens"
    assert progress_line("answering", n_done, 170, "rows", 90.0, n_begun, words) == line


@pytest.mark.parametrize(
    ("n_done", "line"),
    [
        (77, "training: 77 of 194 steps, 20 s"),
        (81, "training: 81 of 194 steps, 5.0 s/step, 9 min 25 s left"),
        (194, "training: 194 steps, 5.8 steps/s, 20 s"),
    ],
    ids=["nothing new", "only new steps have a rate", "at the end"],
)
def test_progress_of_work_that_goes_on(n_done, line):
    assert progress_line("training", n_done, 194, "steps", 20.0, n_before=77) == line


def test_progress_of_work_that_was_done_before():
    assert progress_line("answering", 8, 8, "rows", 2.0, n_before=8) == "answering: 8 rows, 2.0 s"


@pytest.mark.parametrize(("seconds", "words"), [(0.42, "0.4 s"), (45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_duration(seconds, words):
    assert duration(seconds) == words
