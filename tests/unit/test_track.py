"""Trackers: what is logged stands in SwanLab's own files, no network is asked, and no failure reaches the run."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from weitiao.recipe.sections import NoTrack, SwanlabTrack
from weitiao.track import open_tracker

LOGGED = """
import json, socket, sys
from pathlib import Path

def refuse(*args, **kwargs):
    Path(sys.argv[1], "network-was-asked").write_text(repr(args))
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse

from weitiao.recipe.sections import SwanlabTrack
from weitiao.track import open_tracker

run, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with open_tracker(SwanlabTrack(project="support"), run, "客服投诉") as tracker:
    tracker.settings({"train": {"learning_rate": 1e-4, "fast": ["a", "b"]}, "model": {"path": "Qwen/Qwen3-0.6B"}, "limit": None})
    for step in range(first, last + 1):
        tracker.log(step, {"loss": 2.0 / step, "learning_rate": 1e-4, "grad_norm": 0.5 * step})
        if step % 2 == 0:
            tracker.log(step, {"valid/field_f1": step / 10})
    tracker.table("predictions", ["prompt", "base", "tuned"], [["投诉一", "?", '{"name": "龙琳"}'], ["投诉二", None, {"name": "李强"}]])
print(json.dumps({"result": 1}))
"""


def run_logging(folder: Path, first: int, last: int) -> subprocess.CompletedProcess[str]:
    """Log steps in a fresh process without a network and without anybody to answer questions."""
    command = [sys.executable, "-c", LOGGED, str(folder), str(first), str(last)]
    return subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, timeout=120)


def read_page(folder: Path) -> dict[str, Any]:
    """What SwanLab's dashboard reads: the experiments of its database, and the values of each tag."""
    import sqlite3

    with sqlite3.connect(folder / "swanlog" / "runs.swanlab") as database:
        experiments = database.execute("select name, run_id, status from experiment").fetchall()
        tags = database.execute("select name, folder, type from tag").fetchall()
        projects = database.execute("select name from project").fetchall()
    values: dict[str, dict[int, Any]] = {}
    for name, place, _ in tags:
        files = sorted((folder / "swanlog" / experiments[0][1] / "logs" / place).glob("*.log"))
        lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        values[name] = {line["index"]: line["data"] for line in lines}
    return {"experiments": experiments, "types": {name: kind for name, _, kind in tags}, "values": values, "projects": projects}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run_logging(folder, 1, 4)


def test_local_log_holds_the_values(logged: tuple[Path, Any]) -> None:
    page = read_page(logged[0])
    assert page["values"]["loss"] == {1: 2.0, 2: 1.0, 3: 2.0 / 3, 4: 0.5}
    assert page["values"]["learning_rate"] == {1: 1e-4, 2: 1e-4, 3: 1e-4, 4: 1e-4}
    assert page["values"]["grad_norm"] == {1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0}
    assert page["values"]["valid/field_f1"] == {2: 0.2, 4: 0.4}
    assert page["projects"] == [("support",)]
    ((name, _, status),) = page["experiments"]
    assert (name, status) == ("客服投诉", 1)  # 1: finished


def test_local_log_holds_the_predictions_before_and_after(logged: tuple[Path, Any]) -> None:
    page = read_page(logged[0])
    assert page["types"]["predictions"] == "text"
    first, second = page["values"]["predictions"][4]
    assert first == 'prompt: 投诉一\nbase: ?\ntuned: {"name": "龙琳"}'
    assert second == 'prompt: 投诉二\nbase: null\ntuned: {"name": "李强"}'


def test_local_log_holds_the_settings(logged: tuple[Path, Any]) -> None:
    import yaml

    (file,) = (logged[0] / "swanlog").glob("run-*/files/config.yaml")
    settings = {name: entry["value"] for name, entry in yaml.safe_load(file.read_text(encoding="utf-8")).items()}
    assert settings == {"train.learning_rate": 1e-4, "train.fast": ["a", "b"], "model.path": "Qwen/Qwen3-0.6B", "limit": "None"}


def test_stdout_is_left_to_results_and_no_network_is_asked(logged: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = logged
    assert done.stdout == '{"result": 1}\n'
    assert not (folder / "network-was-asked").exists()


def test_resumed_run_goes_on_with_its_curve(tmp_path: Path) -> None:
    run_logging(tmp_path, 1, 4)
    journal = tmp_path / "track.jsonl"
    journal.write_text(journal.read_text(encoding="utf-8") + '{"step": 5, "val', encoding="utf-8")  # killed while writing
    run_logging(tmp_path, 4, 6)
    page = read_page(tmp_path)
    assert [name for name, *_ in page["experiments"]] == ["客服投诉"]
    assert page["values"]["loss"] == {1: 2.0, 2: 1.0, 3: 2.0 / 3, 4: 0.5, 5: 0.4, 6: 2.0 / 6}
    assert page["values"]["valid/field_f1"] == {2: 0.2, 4: 0.4, 6: 0.6}


def test_run_that_fails_is_marked_as_failed(tmp_path: Path) -> None:
    def fail() -> None:
        with open_tracker(SwanlabTrack(), tmp_path, "x") as tracker:
            tracker.log(1, {"loss": 1.0, "grad_norm": float("nan")})
            raise ValueError("the run's own error")

    with pytest.raises(ValueError, match="the run's own error"):
        fail()
    page = read_page(tmp_path)
    assert [status for *_, status in page["experiments"]] == [-1]
    assert page["values"] == {"loss": {1: 1.0}}


def test_two_runs_in_one_process_have_a_page_each(tmp_path: Path) -> None:
    for name, loss in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        with open_tracker(SwanlabTrack(experiment=f"sweep {name}"), tmp_path / name, "unused") as tracker:
            tracker.log(1, {"loss": loss})
    assert read_page(tmp_path / "a")["values"] == {"loss": {1: 1.0}}
    assert read_page(tmp_path / "b")["values"] == {"loss": {1: 2.0}}
    assert read_page(tmp_path / "b")["experiments"][0][0] == "sweep b"


def test_offline_log_keeps_tables_as_tables(tmp_path: Path) -> None:
    with open_tracker(SwanlabTrack(mode="offline"), tmp_path, "x") as tracker:
        tracker.log(3, {"loss": 1.0})
        tracker.table("predictions", ["prompt", "tuned"], [["投诉", "龙琳"]])
    (file,) = (tmp_path / "swanlog").glob("run-*/media/echarts/*.json")
    table = json.loads(file.read_text(encoding="utf-8"))
    assert table["rowData"] == [{"prompt": "投诉", "tuned": "龙琳"}]


def test_ending_a_run_stays_with_the_run(tmp_path: Path) -> None:
    import signal

    before = (signal.getsignal(signal.SIGINT), sys.excepthook)
    with open_tracker(SwanlabTrack(), tmp_path, "x"):
        assert (signal.getsignal(signal.SIGINT), sys.excepthook) == before
    assert (signal.getsignal(signal.SIGINT), sys.excepthook) == before


def test_tracker_that_cannot_start_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "track.jsonl").mkdir()
    with caplog.at_level(logging.WARNING, "weitiao"), open_tracker(SwanlabTrack(), tmp_path, "x") as tracker:
        tracker.settings({"a": 1})
        tracker.log(1, {"loss": 1.0})
        tracker.table("predictions", ["a"], [["b"]])
    (record,) = caplog.records
    assert "SwanLab stopped working, the run goes on without it" in record.getMessage()


def test_tracker_that_breaks_while_logging_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "weitiao"), open_tracker(SwanlabTrack(), tmp_path, "x") as tracker:
        tracker.log(1, {"loss": 1.0})
        (tmp_path / "track.jsonl").unlink()
        (tmp_path / "track.jsonl").mkdir()
        tracker.log(2, {"loss": 1.0})
        tracker.log(3, {"loss": 1.0})
    assert len(caplog.records) == 1
    assert read_page(tmp_path)["values"] == {"loss": {1: 1.0}}


def test_no_row_of_a_long_table_is_lost(tmp_path: Path) -> None:
    with open_tracker(SwanlabTrack(), tmp_path, "x") as tracker:
        tracker.table("predictions", ["id"], [[f"row {i}."] for i in range(250)])
        tracker.table("nothing", ["id"], [])
    pages = read_page(tmp_path)["values"]["predictions"][0]
    assert len(pages) == 84
    assert pages[1] == "id: row 3.\n\nid: row 4.\n\nid: row 5."
    assert all(f"id: row {i}." in "".join(pages) for i in range(250))


def test_project_name_that_swanlab_refuses_is_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "weitiao"), open_tracker(SwanlabTrack(project="客服"), tmp_path, "x"):
        pass
    assert "track.project: SwanLab takes no project name like '客服'\n  up to 100 letters" in caplog.text


def test_cloud_without_login_is_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWANLAB_API_KEY", raising=False)
    monkeypatch.setenv("SWANLAB_SAVE_DIR", str(tmp_path / "no-login"))
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING, "weitiao"), open_tracker(SwanlabTrack(mode="cloud"), tmp_path, "x") as tracker:
        tracker.log(1, {"loss": 1.0})
    (record,) = caplog.records
    assert "nobody is logged in to SwanLab's cloud\n  run `swanlab login`, or set track.mode=local" in record.getMessage()


def test_kind_none_leaves_nothing(tmp_path: Path) -> None:
    with open_tracker(NoTrack(), tmp_path, "x") as tracker:
        tracker.settings({"a": 1})
        tracker.log(1, {"loss": 1.0})
        tracker.table("predictions", ["a"], [["b"]])
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_of_several_processes_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with open_tracker(SwanlabTrack(), tmp_path, "x") as tracker:
        tracker.log(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_swanlab_is_loaded_when_it_is_asked_for() -> None:
    code = "import sys, weitiao.track; print([name for name in ('swanlab', 'torch', 'pyecharts') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
