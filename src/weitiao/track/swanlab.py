"""SwanLab as a tracker: local without account and network, offline for a later ``swanlab sync``, or its cloud.

SwanLab cannot continue a local or offline log: a second process starts a second experiment. So all that is logged also goes into
``RUN/track.jsonl``, and a resumed run builds ``RUN/swanlog`` anew from it; a step that is logged again replaces the earlier one.
The cloud continues an experiment by itself when it gets its id.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from weitiao.errors import WeitiaoError
from weitiao.log import logger
from weitiao.recipe.sections import SwanlabTrack

JOURNAL = "track.jsonl"
FOLDER = "swanlog"
RUN_ID = "swanlab-id"
MAX_TEXTS = 100
"""Texts of one table; longer tables have several rows in a text. SwanLab leaves out what comes after 108."""
IMAGES = "images"
"""The column of a table that holds paths of pictures."""
MAX_SIDE = 512
"""Pixels of the longer side of a picture that is logged."""
PROJECT_NAME = re.compile(r"[0-9A-Za-z_\-+.]{1,100}")
"""What SwanLab takes as a project's name."""


def start_swanlab(section: SwanlabTrack, run_path: Path, name: str) -> SwanlabTracker:
    """Start SwanLab, or go on where an earlier process of the same run stopped.

    Args:
        section: mode, project and name of the experiment.
        run_path: the run folder.
        name: name of the experiment where ``section`` gives none.

    Returns:
        A tracker that may raise anything that SwanLab raises.

    Raises:
        WeitiaoError: the project has a name that SwanLab does not take, the local page's package is missing, or nobody is logged in
            for the cloud.
    """
    if not PROJECT_NAME.fullmatch(section.project):
        hint = "up to 100 letters, digits and _ - + . are possible; track.experiment takes any text"
        raise WeitiaoError(f"SwanLab takes no project name like {section.project!r}", where="track.project", hint=hint)
    if section.mode == "local" and importlib.util.find_spec("swanboard") is None:
        raise WeitiaoError("the local page needs a package that is missing", hint="pip install 'swanlab[dashboard]'")
    journal = run_path / JOURNAL
    earlier = _read_journal(journal)
    if section.mode != "cloud":
        shutil.rmtree(run_path / FOLDER, ignore_errors=True)
    with _no_noise():
        run, text_tables = _init(section, run_path, section.experiment or name), section.mode == "local"
    tracker = SwanlabTracker(run, journal, text_tables)
    if section.mode != "cloud":
        for entry in earlier:
            tracker.send(entry)
    if section.mode == "local":
        logger.info("SwanLab: see the curves with `swanlab watch %s`", run_path / FOLDER)
    return tracker


class SwanlabTracker:
    """Writes each entry to the journal first, then to SwanLab."""

    def __init__(self, run: Any, journal: Path, text_tables: bool) -> None:
        """Keep the running experiment.

        Args:
            run: ``swanlab.Run``.
            journal: file that gets a line per entry.
            text_tables: whether tables are logged as texts; the local page shows lines, texts and images, but no tables.
        """
        self._run = run
        self._journal = journal
        self._text_tables = text_tables
        self._last_step = 0

    def settings(self, values: Mapping[str, Any]) -> None:
        """Record settings, nested ones under names joined by dots."""
        self._record({"settings": dict(_flattened(values))})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step; those that are not finite are left out, SwanLab has no place for them."""
        self._record({"step": step, "values": {key: float(value) for key, value in values.items() if math.isfinite(value)}})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table at the last step that was logged."""
        cells = [[_cell(value) for value in row] for row in rows]
        self._record({"step": self._last_step, "table": name, "columns": list(columns), "rows": cells})

    def finish(self, failed: bool) -> None:
        """Write out what is waiting and close the experiment as a success or as a failure."""
        with _no_noise():
            if failed:
                self._run.finish(state="crashed", error="the run stopped before its end")
            else:
                self._run.finish()

    def send(self, entry: Mapping[str, Any]) -> None:
        """Give one journal entry to SwanLab."""
        with _no_noise():
            if "settings" in entry:
                self._run.config.update(entry["settings"])
                return
            self._last_step = entry["step"]
            values = self._as_chart(entry) if "table" in entry else entry["values"]
            if values:
                self._run.log(values, step=entry["step"])

    def _record(self, entry: Mapping[str, Any]) -> None:
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.send(entry)

    def _as_chart(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        import swanlab

        columns, rows = entry["columns"], entry["rows"]
        shown = _pictures(columns, rows)
        pictures = {f"{entry['table']}/images": shown} if shown else {}
        if not self._text_tables:
            return {entry["table"]: swanlab.echarts.Table().add(columns, rows), **pictures}
        texts = ["\n".join(f"{column}: {cell}" for column, cell in zip(columns, row, strict=True)) for row in rows]
        n = math.ceil(len(texts) / MAX_TEXTS)
        pages = [
            swanlab.Text("\n\n".join(texts[i : i + n]), caption=f"{i + 1} to {min(i + n, len(texts))} of {len(texts)}")
            for i in range(0, len(texts), n or 1)
        ]
        return {entry["table"]: pages, **pictures} if pages else {}


def _pictures(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Any]:
    """The first picture of each row with the row's texts under it; rows without one, or whose file is gone, are left out."""
    import swanlab
    from PIL import Image

    if IMAGES not in columns:
        return []
    place, shown = list(columns).index(IMAGES), []
    for row in rows[:MAX_TEXTS]:
        caption = "\n".join(f"{column}: {cell}" for column, cell in zip(columns, row, strict=True) if column not in (IMAGES, "prompt"))
        try:
            with Image.open(json.loads(row[place])[0]) as opened:
                picture = opened.convert("RGB")
        except (OSError, ValueError, IndexError, Image.DecompressionBombError) as err:
            logger.debug("no picture for SwanLab: %s", err)
            continue
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        shown.append(swanlab.Image(picture, caption=caption))
    return shown


def _init(section: SwanlabTrack, run_path: Path, name: str) -> Any:
    """Start an experiment without questions, without its hold on the terminal, signals and exceptions."""
    import swanlab

    settings = swanlab.Settings(
        interactive=False,
        terminal=swanlab.Settings.Terminal(proxy_type="none"),
        probe=swanlab.Settings.Probe(requirements=False, git=False),
    )
    options: dict[str, Any] = {"log_dir": str(run_path / FOLDER), "project": section.project, "name": name, "settings": settings}
    with _handlers_kept():
        if section.mode != "cloud":
            return swanlab.init(mode=section.mode, **options)
        return _init_cloud(run_path / RUN_ID, options)


def _init_cloud(id_file: Path, options: dict[str, Any]) -> Any:
    import swanlab

    if swanlab.Settings().api_key is None:
        raise WeitiaoError("nobody is logged in to SwanLab's cloud", hint="run `swanlab login`, or set track.mode=local")
    if id_file.exists():
        options |= {"id": id_file.read_text(encoding="utf-8").strip(), "resume": "allow"}
    run = swanlab.init(mode="online", **options)
    id_file.write_text(run.id, encoding="utf-8")
    return run


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Undo SwanLab's own handling of SIGINT and uncaught exceptions: ending a run is not a tracker's business."""
    hook = sys.excepthook
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        sys.excepthook = hook
        if is_main:
            signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _no_noise() -> Iterator[None]:
    """Keep what SwanLab prints off stdout, which belongs to results for programs; it goes to the debug log."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            logger.debug("%s", line)


def _read_journal(path: Path) -> list[dict[str, Any]]:
    """Entries of an earlier process; a last line that was cut off when it was killed is taken out of the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.decode("utf-8").split("\n") if line]


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, (int, float, str, bool, list)) else str(value)


def _cell(value: Any) -> str | int | float:
    if isinstance(value, (str, int, float)):
        return value
    return json.dumps(value, ensure_ascii=False)
