"""How a command starts: rows are read in a process of their own while libraries are imported, and that shows nowhere but in the time."""

import gc
import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.command import RECIPE, write_rows

from weitiao import data, tasks
from weitiao.cli.ahead import importing, reading_ahead
from weitiao.demo import make_complaints
from weitiao.errors import CommandError, Problems, WeitiaoError
from weitiao.recipe import load_recipe

WEITIAO = Path(sys.executable).with_name("weitiao")


@pytest.fixture
def recipe(tmp_path, tiny_qwen2):
    write_rows(tmp_path / "rows.jsonl", make_complaints(40))
    (tmp_path / "tiny").symlink_to(tiny_qwen2)
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    return load_recipe(file)


def read_here(recipe):
    return data.load_samples(recipe.data, tasks.make_task(recipe.task, recipe.data.system), recipe.run.seed)


def test_rows_read_ahead_are_the_rows(recipe):
    with reading_ahead(recipe) as rows:
        assert len(multiprocessing.active_children()) == 1
        ahead = rows()
    here = read_here(recipe)
    assert ahead.report == here.report
    for part in ("train", "valid", "test"):
        assert list(getattr(ahead, part)) == list(getattr(here, part)) != []
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("wrong", ["no file", "two bad rows"])
def test_what_is_wrong_with_rows_is_told_as_here(recipe, tmp_path, wrong):
    rows_file = tmp_path / "rows.jsonl"
    if wrong == "no file":
        rows_file.unlink()
    else:
        write_rows(
            tmp_path / "rows.jsonl", [{"instruction": "", "output": "{}"}, *make_complaints(10), {"instruction": "x", "output": "no JSON"}]
        )
    with pytest.raises(WeitiaoError) as here:
        read_here(recipe)
    with reading_ahead(recipe) as rows, pytest.raises(WeitiaoError) as ahead:
        rows()
    assert type(ahead.value) is type(here.value)
    assert isinstance(ahead.value, Problems) == (wrong == "two bad rows")
    assert (str(ahead.value), ahead.value.exit_code) == (str(here.value), 2)


def test_rows_of_a_process_that_died_are_read_here(recipe):
    with reading_ahead(recipe) as rows:
        (process,) = multiprocessing.active_children()
        process.kill()
        assert rows().report == read_here(recipe).report


def test_a_failure_ends_the_reading(recipe):
    with pytest.raises(CommandError), reading_ahead(recipe):
        raise CommandError("the folder exists")
    assert multiprocessing.active_children() == []


def test_one_processor_reads_by_itself(recipe, monkeypatch):
    monkeypatch.setattr("weitiao.runs.usable_processors", lambda: 1)
    with reading_ahead(recipe) as rows:
        assert multiprocessing.active_children() == []
        assert rows().report == read_here(recipe).report


def test_the_collector_rests_while_importing():
    before = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    gc.unfreeze()


def test_ctrl_c_while_the_process_is_started_is_felt_afterwards():
    script = """
import os, signal
from weitiao.cli.ahead import _interrupt_held
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with _interrupt_held():
        os.kill(os.getpid(), signal.SIGINT)
        print("started")
except KeyboardInterrupt:
    print("felt")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["started", "felt"]


@pytest.mark.usefixtures("recipe")
def test_ctrl_c_ends_both_processes_with_one_sentence(tmp_path):
    write_rows(tmp_path / "rows.jsonl", make_complaints(40) * 500)
    # A shell that starts tests in the background has them ignore Ctrl-C, and so would the command.
    listening = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    words = [sys.executable, "-c", listening, str(WEITIAO), "run", "recipe.yaml", "-o", "run"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as command:
        process, waited = psutil.Process(command.pid), time.monotonic() + 60
        while not (children := process.children(recursive=True)) and time.monotonic() < waited:
            time.sleep(0.02)
        assert children
        for each in [process, *children]:  # as a terminal does
            each.send_signal(signal.SIGINT)
        said = command.communicate(timeout=60)[1]
    assert command.returncode == 130
    assert said.splitlines()[-1] == "weitiao: interrupted; the same command with --resume goes on"
    assert "Traceback" not in said
    assert psutil.wait_procs(children, timeout=20)[1] == []
