"""What users get wrong, given to the real command: the exit code, one clear message, no traceback, and nothing overwritten."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.command import RECIPE, write_rows

from weitiao.cli.fail import exit_code_of
from weitiao.demo import make_complaints
from weitiao.recipe import load_recipe
from weitiao.runs import open_run

WEITIAO = Path(sys.executable).with_name("weitiao")


@pytest.fixture
def folder(tmp_path: Path, tiny_qwen2: Path) -> Path:
    """A folder with a recipe that works, thirty rows, and a tiny model."""
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "tiny").symlink_to(tiny_qwen2)
    write_rows(tmp_path / "rows.jsonl", make_complaints(30))
    return tmp_path


def weitiao(folder: Path, *words: str, max_file_kilobytes: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit_files() -> None:
        if max_file_kilobytes is not None:
            n_bytes = max_file_kilobytes * 1024
            resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    return subprocess.run([str(WEITIAO), *words], cwd=folder, capture_output=True, text=True, check=False, preexec_fn=limit_files)


def refused(folder: Path, *words: str, exit_code: int = 2, **limits: int) -> str:
    """The message of a command that must be refused: everything from ``weitiao: `` on."""
    done = weitiao(folder, *words, **limits)
    assert done.returncode == exit_code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("weitiao: ") == 1
    return done.stderr[done.stderr.index("weitiao: ") :].replace(f"{folder}/", "")


def test_an_unknown_recipe_key_with_its_line_and_the_nearest_name(folder):
    (folder / "recipe.yaml").write_text(RECIPE.replace("max_steps", "max_stesp"), encoding="utf-8")
    message = refused(folder, "run", "recipe.yaml")
    assert message == "weitiao: recipe.yaml:6: unknown key `max_stesp` in `train`\n  did you mean `max_steps`?\n"
    assert not (folder / "runs").exists()


def test_an_unknown_override(folder):
    message = refused(folder, "run", "recipe.yaml", "train.max_stesp=3")
    assert message == "weitiao: override train.max_stesp=3: unknown key `max_stesp` in `train`\n  did you mean `max_steps`?\n"


def test_a_missing_recipe(folder):
    assert refused(folder, "run", "recip.yaml") == "weitiao: recip.yaml: no such recipe\n  recipes here: recipe.yaml\n"


def test_a_missing_data_file(folder):
    message = refused(folder, "run", "recipe.yaml", "data.train.path=row.jsonl")
    assert message.startswith("weitiao: row.jsonl: there is no such file or folder\n")
    assert "rows.jsonl" in message


def test_a_wrong_column(folder):
    message = refused(folder, "run", "recipe.yaml", "data.columns.text=instructoin")
    assert message.startswith("weitiao: rows.jsonl: there is no column `instructoin`, which data.columns names for text\n")
    assert "instruction" in message.splitlines()[-1]


def test_missing_and_empty_answers_and_a_broken_line_with_their_numbers(folder):
    rows = make_complaints(30)
    rows[6]["output"] = ""
    del rows[8]["output"]
    write_rows(folder / "rows.jsonl", rows)
    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    lines[11] = '{"instruction": "断了\n'
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    message = refused(folder, "run", "recipe.yaml")
    assert message.startswith("weitiao: 3 of 30 rows cannot be used (10.0%)")
    assert "rows.jsonl:7: the answer is empty" in message
    assert "rows.jsonl:9: " in message
    assert "rows.jsonl:12: not JSON" in message


def test_rows_that_are_all_too_long(folder):
    message = refused(folder, "run", "recipe.yaml", "encode.max_tokens=16")
    assert "do not fit into encode.max_tokens" in message
    assert "rows.jsonl:" in message
    assert "raise encode.max_tokens" in message


def test_a_wrong_metric_name(folder):
    message = refused(folder, "run", "recipe.yaml", "evaluate.select_by=f1")
    assert "field_f1" in message


def test_no_space_left_at_the_start(folder):
    message = refused(folder, "run", "recipe.yaml", "-o", "run", exit_code=1, max_file_kilobytes=1)
    assert message == "weitiao: run/recipe.yaml: no space left on the disk\n  free some space, then go on with --resume\n"


def test_no_space_left_for_a_checkpoint_and_going_on_afterwards(folder):
    message = refused(folder, "run", "recipe.yaml", "-o", "run", exit_code=1, max_file_kilobytes=30)
    assert message == f"weitiao: {folder / 'run'}: no space left on the disk\n".replace(f"{folder}/", "") + (
        "  free some space, then go on with --resume\n"
    )
    assert json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))["status"] == "failed"
    resumed = weitiao(folder, "run", "recipe.yaml", "-o", "run", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))["status"] == "finished"


@pytest.fixture
def finished_run(folder: Path) -> Path:
    run = open_run(folder / "run", "new")
    with run.recording(load_recipe(folder / "recipe.yaml")):
        run.save("scores", {"kept": True})
    return run.path


def test_a_run_folder_that_exists(folder, finished_run):
    before = {path: path.read_bytes() for path in finished_run.iterdir() if path.is_file()}
    message = refused(folder, "run", "recipe.yaml", "-o", "run")
    assert message.splitlines() == [
        "weitiao: run: the run folder exists",
        "  --resume goes on with it (its status: finished)",
        "  -o FOLDER starts a run in another folder",
        "  --replace deletes it and starts anew",
    ]
    assert {path: path.read_bytes() for path in finished_run.iterdir() if path.is_file()} == before


def test_resuming_with_another_recipe(folder, finished_run):
    message = refused(folder, "run", "recipe.yaml", "train.learning_rate=5e-5", "-o", "run", "--resume")
    assert message.startswith(
        "weitiao: run: the recipe has changed since this run was started\n  train.learning_rate: was 0.0001, now 5e-05\n"
    )
    assert (finished_run / "scores.json").exists()


def test_replacing_a_folder_that_is_no_run(folder):
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.tex").write_text("x", encoding="utf-8")
    message = refused(folder, "run", "recipe.yaml", "-o", "thesis", "--replace")
    assert "--replace deletes run folders only" in message
    assert (folder / "thesis" / "chapter.tex").exists()


def test_an_export_of_nothing(folder):
    run = open_run(folder / "run", "new")
    with run.recording(load_recipe(folder / "recipe.yaml", ["export=[]"])):
        pass
    assert refused(folder, "export", "run").splitlines() == [
        "weitiao: run: nothing is exported, for the run's recipe has `export: []`",
        "  name what to write: weitiao export run --kind merged   (or adapter, gguf, ollama, openvino)",
    ]


@pytest.mark.parametrize("verb", ["evaluate", "export", "report", "chat"])
@pytest.mark.usefixtures("finished_run")
def test_a_run_that_is_not_there(folder, verb):
    assert refused(folder, verb, "rnu") == "weitiao: rnu: there is no such run folder\n  did you mean run?\n"


@pytest.mark.usefixtures("finished_run")
def test_a_run_without_a_trained_model(folder):
    done = weitiao(folder, "evaluate", "run")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["rnu"], "No such command 'rnu'", id="verb"),
        pytest.param(["run"], "Missing argument 'RECIPE'", id="argument"),
        pytest.param(["run", "recipe.yaml", "--resum"], "No such option: --resum", id="option"),
        pytest.param(["run", "recipe.yaml", "--resume", "--replace"], "exclude each other", id="options together"),
    ],
)
def test_a_wrong_command_line(folder, words, message):
    assert message in refused(folder, *words)


def test_debug_shows_the_traceback(folder):
    done = weitiao(folder, "run", "recip.yaml", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("run", "interrupted; the same command with --resume goes on"),
        ("train", "interrupted; `weitiao run RUN/recipe.yaml -o RUN --resume` goes on"),
        ("predict", "interrupted; the same command goes on"),
        ("evaluate", "interrupted"),
    ],
)
def test_an_interrupted_command_says_what_goes_on(verb, said, capsys):
    def command():
        raise KeyboardInterrupt

    assert exit_code_of(command, debug=False, verb=verb) == 130
    assert capsys.readouterr().err == f"weitiao: {said}\n"
