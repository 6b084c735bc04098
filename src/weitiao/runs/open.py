"""Opening a run folder without ever overwriting one by accident, and finding one that is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from weitiao.errors import CommandError
from weitiao.recipe import nearest_name
from weitiao.runs.folder import Mode, Run
from weitiao.runs.values import full_disk_in_words

LOCK = ".lock"
FIRST_ENTRIES = frozenset({LOCK, "recipe.yaml", "run.json", "data.json", "track.jsonl", "swanlog"})
"""What a run writes before its first result."""
N_RUNS_SHOWN = 8


def open_run(path: Path, mode: Mode) -> Run:
    """Open a folder for a run and lock it against other processes.

    Args:
        path: made when it is not there.
        mode: ``new`` needs an empty folder, or one whose run failed before its first result; ``resume`` goes on in a run folder;
            ``replace`` empties a run folder first, and no other folder.

    Returns:
        The run, locked until its ``recording`` ends.

    Raises:
        CommandError: the folder does not fit the mode, or another process works in it.
        WeitiaoError: the folder cannot be made.
    """
    path = path.absolute()
    if path.exists() and not path.is_dir():
        raise CommandError("a file stands where the run folder should be", where=str(path), hint="name another folder with -o")
    if mode == "resume" and not is_run_folder(path):
        raise CommandError(
            "there is no run to go on with", where=str(path), hint=f"start it without --resume\n{_runs_nearby(path)}".strip()
        )
    if mode == "new" and not _has_nothing_to_lose(path):
        raise CommandError("the run folder exists", where=str(path), hint=_ways_out(path))
    if mode == "replace":
        _refuse_replacing_other_things(path)
    with full_disk_in_words(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
        if mode != "resume":
            _empty(path, frozenset())
    return Run(path, mode, lock)


def read_run(path: Path) -> Run:
    """Find a run folder to read from.

    Args:
        path: the folder; ``NAME`` alone also finds ``runs/NAME``.

    Returns:
        The run, not locked.

    Raises:
        CommandError: it is not a run folder; the message names those nearby.
    """
    for candidate in (path, Path("runs") / path):
        if is_run_folder(candidate):
            return Run(candidate.absolute())
    what = "this is not a run folder (it has no run.json)" if path.is_dir() else "there is no such run folder"
    raise CommandError(what, where=str(path), hint=_runs_nearby(path) or "`weitiao run RECIPE` makes one")


def is_run_folder(path: Path) -> bool:
    """Whether a folder holds a run of ours: a ``run.json`` with a status, and a recipe."""
    if not (path / "recipe.yaml").is_file() or not (path / "run.json").is_file():
        return False
    return _status(path) is not None


def _status(path: Path) -> str | None:
    try:
        facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(facts["status"]) if isinstance(facts, dict) and "status" in facts else None


def _has_nothing_to_lose(path: Path) -> bool:
    files = (file.relative_to(path) for file in path.rglob("*") if not file.is_dir()) if path.exists() else ()
    entries = {file.parts[0] for file in files}
    return entries <= {LOCK} or (entries <= FIRST_ENTRIES and _status(path) == "failed")


def _ways_out(path: Path) -> str:
    ways = ["-o FOLDER starts a run in another folder"]
    if is_run_folder(path):
        ways = [f"--resume goes on with it (its status: {_status(path)})", *ways, "--replace deletes it and starts anew"]
    return "\n".join(ways)


def _refuse_replacing_other_things(path: Path) -> None:
    if not path.exists() or _has_nothing_to_lose(path):
        return
    if not is_run_folder(path):
        raise CommandError("--replace deletes run folders only, and this is none", where=str(path), hint="name another folder with -o")
    if Path.cwd().is_relative_to(path.resolve()):
        raise CommandError("--replace would delete the folder you work in", where=str(path), hint="go to another folder first")


def forget(run: Run, kept: frozenset[str]) -> None:
    """Delete what a run folder holds, but for some entries.

    Args:
        run: not being worked in.
        kept: names of files and folders directly in it.

    Raises:
        CommandError: another process works in the folder.
    """
    with _locked(run.path):
        _empty(run.path, kept)


def _locked(path: Path) -> FileLock:
    """The folder's lock, taken."""
    lock = FileLock(path / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise CommandError(
            "another process works in this run folder", where=str(path), hint="wait for it, or name another folder with -o"
        ) from None
    return lock


def _empty(path: Path, kept: frozenset[str]) -> None:
    for entry in path.iterdir():
        if entry.name == LOCK or entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _runs_nearby(path: Path) -> str:
    folders = [folder for folder in (path, path.parent, Path("runs")) if folder.is_dir()]
    found = {str(each): each for folder in folders for each in sorted(folder.iterdir()) if is_run_folder(each)}
    if not found:
        return ""
    nearest = nearest_name(path.name, [each.name for each in found.values()])
    if nearest is not None:
        return f"did you mean {next(name for name, each in found.items() if each.name == nearest)}?"
    return f"run folders here: {', '.join(list(found)[:N_RUNS_SHOWN])}"
