"""Run folders: never overwritten, locked, whole files, and a record of how the run ended."""

import errno
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from weitiao.errors import CommandError, WeitiaoError
from weitiao.recipe import Recipe, load_recipe
from weitiao.runs import Run, jsonable, no_space_left, open_run, read_run
from weitiao.seams import Comparison, Scores


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text("task: {kind: ner}\ndata: {train: {path: rows.jsonl}}\nmodel: {path: Qwen/Qwen3-0.6B}\n", encoding="utf-8")
    return load_recipe(path)


def finished_run(path: Path, recipe: Recipe) -> Run:
    run = open_run(path, "new")
    with run.recording(recipe):
        run.save("scores", {"n": 1})
    return run


def test_a_run_records_what_ran_and_how_it_ended(tmp_path, recipe):
    run = open_run(tmp_path / "runs" / "first", "new")
    with run.recording(recipe):
        during = run.read("run")
        run.update(device="cpu", hashes={"data": "abc"})
    facts = run.read("run")
    assert (during["status"], facts["status"]) == ("running", "finished")
    assert (during["device"], facts["device"]) == (None, "cpu")
    assert facts["seed"] == 42
    assert set(facts["hashes"]) == {"recipe", "data"}
    assert set(facts["versions"]) >= {"python", "torch", "transformers", "peft"}
    assert facts["started"] <= facts["finished"]
    assert load_recipe(run.path / "recipe.yaml") == recipe == run.recipe()


@pytest.mark.parametrize(("error", "status"), [(ValueError("x"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_a_failure_is_recorded_and_goes_on_up(tmp_path, recipe, error, status):
    run = open_run(tmp_path / "run", "new")
    with pytest.raises(type(error)), run.recording(recipe):
        raise error
    assert run.read("run")["status"] == status


def test_an_existing_run_is_not_overwritten(tmp_path, recipe):
    finished_run(tmp_path / "run", recipe)
    with pytest.raises(CommandError, match="the run folder exists") as caught:
        open_run(tmp_path / "run", "new")
    assert caught.value.hint.splitlines() == [
        "--resume goes on with it (its status: finished)",
        "-o FOLDER starts a run in another folder",
        "--replace deletes it and starts anew",
    ]
    assert (tmp_path / "run" / "scores.json").exists()


def test_a_folder_with_other_things_is_neither_used_nor_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(CommandError, match="the run folder exists") as caught:
        open_run(tmp_path / "thesis", "new")
    assert "--replace" not in caught.value.hint
    with pytest.raises(CommandError, match="--replace deletes run folders only"):
        open_run(tmp_path / "thesis", "replace")
    assert (tmp_path / "thesis" / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_replace_empties_a_run_folder(tmp_path, recipe):
    run = finished_run(tmp_path / "run", recipe)
    (run.folder("best") / "weights").write_bytes(b"x")
    open_run(tmp_path / "run", "replace")
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == [".lock"]


def test_replace_does_not_follow_a_link_out_of_the_folder(tmp_path, recipe):
    run = finished_run(tmp_path / "run", recipe)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x", encoding="utf-8")
    (run.path / "best").symlink_to(tmp_path / "precious")
    open_run(tmp_path / "run", "replace")
    assert (tmp_path / "precious" / "file").exists()


def test_replace_spares_the_folder_one_works_in(tmp_path, recipe, monkeypatch):
    finished_run(tmp_path / "run", recipe)
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(CommandError, match="the folder you work in"):
        open_run(Path(), "replace")


def test_a_run_that_failed_before_any_result_may_be_started_again(tmp_path, recipe):
    run = open_run(tmp_path / "run", "new")
    with pytest.raises(ValueError, match="x"), run.recording(recipe):
        raise ValueError("x")
    finished_run(tmp_path / "run", recipe)
    with pytest.raises(CommandError):
        open_run(tmp_path / "run", "new")


def test_resume_needs_a_run_and_keeps_what_is_there(tmp_path, recipe):
    with pytest.raises(CommandError, match="there is no run to go on with"):
        open_run(tmp_path / "run", "resume")
    started = finished_run(tmp_path / "run", recipe).read("run")["started"]
    run = open_run(tmp_path / "run", "resume")
    with run.recording(recipe):
        assert run.read("scores") == {"n": 1}
    facts = run.read("run")
    assert (facts["started"], len(facts["resumed"])) == (started, 1)


def test_resume_with_another_recipe_names_the_differences(tmp_path, recipe):
    finished_run(tmp_path / "run", recipe)
    other = load_recipe(tmp_path / "r.yaml", ["train.learning_rate=2e-4", "model.tuning.r=16"])
    run = open_run(tmp_path / "run", "resume")
    with pytest.raises(CommandError, match="the recipe has changed") as caught, run.recording(other):
        raise AssertionError("the run must not start")
    assert caught.value.hint.splitlines()[:2] == ["model.tuning.r: was 8, now 16", "train.learning_rate: was 0.0001, now 0.0002"]
    assert run.read("run")["status"] == "finished"


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("x", encoding="utf-8")
    with pytest.raises(CommandError, match="a file stands where"):
        open_run(tmp_path / "run", "new")


def test_two_processes_cannot_work_in_one_folder(tmp_path, recipe):
    run = open_run(tmp_path / "run", "new")
    script = textwrap.dedent(f"""
        from pathlib import Path
        from weitiao.runs import open_run
        try:
            open_run(Path({str(run.path)!r}), "new")
        except Exception as error:
            print(error)
    """)
    with run.recording(recipe):
        blocked = subprocess.run([sys.executable, "-c", script.replace('"new"', '"resume"')], capture_output=True, text=True, check=True)
    assert "another process works in this run folder" in blocked.stdout
    after = subprocess.run([sys.executable, "-c", script.replace('"new"', '"resume"')], capture_output=True, text=True, check=True)
    assert after.stdout == ""


def test_rows_are_appended_and_a_half_row_is_cut(tmp_path):
    run = Run(tmp_path)
    run.append("events", {"step": 1, "loss": 2.5})
    with (tmp_path / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 2, "lo')
    run.append("events", {"step": 2, "loss": float("nan")})
    assert (tmp_path / "events.jsonl").read_text(encoding="utf-8") == '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": null}\n'


def test_rows_are_read_without_a_half_one_at_the_end(tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "answers.jsonl").write_text('{"id": "a"}\n{"id": "\u2028"}\n{"id', encoding="utf-8")
    assert Run(tmp_path).rows("tuned/answers") == [{"id": "a"}, {"id": "\u2028"}]
    (tmp_path / "events.jsonl").write_text('{"step": 1}\n{"ste\n', encoding="utf-8")
    with pytest.raises(WeitiaoError, match=r"the row is damaged"):
        Run(tmp_path).rows("events")


def test_a_half_row_alone_is_cut(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"step": ' + "1" * 9000, encoding="utf-8")
    Run(tmp_path).append("events", {"step": 1})
    assert (tmp_path / "events.jsonl").read_text(encoding="utf-8") == '{"step": 1}\n'


def test_values_become_json(tmp_path):
    scores = Scores(
        n=2, metrics={"f1": np.float32(0.5)}, intervals={"f1": (0.25, 1.0)}, length_limited=0.0, seconds=1.5, counts=np.ones((2, 3))
    )
    Run(tmp_path).save("scores", Comparison(scores, scores, {"f1": (0.0, -0.5, 0.5)}))
    written = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert written["gain"] == {"f1": [0.0, -0.5, 0.5]}
    assert written["tuned"] == {
        "n": 2,
        "metrics": {"f1": 0.5},
        "intervals": {"f1": [0.25, 1.0]},
        "length_limited": 0.0,
        "seconds": 1.5,
        "details": {},
    }
    assert jsonable({"path": Path("a/b"), "names": {"b", "a"}, "n": np.int64(3), "bad": float("inf")}) == {
        "path": "a/b",
        "names": ["a", "b"],
        "n": 3,
        "bad": None,
    }


def test_a_value_without_json_form_leaves_the_old_file(tmp_path):
    run = Run(tmp_path)
    run.save("facts", {"a": 1})
    with pytest.raises(TypeError, match="object has no JSON form"):
        run.save("facts", {"a": object()})
    assert run.read("facts") == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["facts.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_a_sentence(tmp_path):
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(WeitiaoError, match="no space left on the disk") as caught:
        Run(tmp_path).append("events", {"step": 1})
    assert caught.value.exit_code == 1


def test_a_full_disk_met_by_a_library_is_a_sentence(tmp_path, recipe):
    run = open_run(tmp_path / "run", "new")
    with pytest.raises(WeitiaoError, match="no space left on the disk"), run.recording(recipe):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert run.read("run")["status"] == "failed"


@pytest.mark.parametrize(
    ("error", "is_full"),
    [(OSError(errno.ENOSPC, "x"), True), (OSError(errno.EDQUOT, "x"), True), (OSError(errno.EACCES, "x"), False), (ValueError("x"), False)],
)
def test_what_counts_as_a_full_disk(error, is_full):
    assert no_space_left(error) is is_full


def test_a_missing_run_names_those_nearby(tmp_path, recipe, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished_run(tmp_path / "runs" / "complaints", recipe)
    assert read_run(Path("complaints")).path == tmp_path / "runs" / "complaints"
    assert read_run(Path("runs/complaints")).path == tmp_path / "runs" / "complaints"
    with pytest.raises(CommandError, match="there is no such run folder") as caught:
        read_run(Path("runs/complaint"))
    assert caught.value.hint == "did you mean runs/complaints?"
    with pytest.raises(CommandError, match="not a run folder") as caught:
        read_run(Path())
    assert caught.value.hint == "run folders here: runs/complaints"


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(WeitiaoError, match="no such file yet"):
        Run(tmp_path).read("scores")
    (tmp_path / "scores.json").write_text("{", encoding="utf-8")
    with pytest.raises(WeitiaoError, match="damaged"):
        Run(tmp_path).read("scores")


def test_a_resumed_run_refuses_other_rows(tmp_path, recipe):
    run = finished_run(tmp_path / "run", recipe)
    run.update(hashes={"data": "abc"})
    resumed = open_run(run.path, "resume")
    with resumed.recording(recipe):
        resumed.refuse_other_data("abc")
        with pytest.raises(CommandError, match="the data have changed") as caught:
            resumed.refuse_other_data("xyz")
    assert f"weitiao train {run.path}" in caught.value.hint
