"""Reads what a run left behind. A run may have stopped anywhere, so every piece may be missing, and is then named as missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from weitiao.errors import CommandError


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models: its scores and its answers, empty where it was not scored."""

    scores: Mapping[str, Any]
    answers: Sequence[Mapping[str, Any]]
    questions: Sequence[Mapping[str, Any]]
    """Answers to the recipe's own questions."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The content of a run folder."""

    path: Path
    recipe_text: str
    recipe: Mapping[str, Any]
    facts: Mapping[str, Any]
    """``run.json``."""
    data: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    suspects: Sequence[Mapping[str, Any]]
    """Training rows that look wrong."""
    baseline: Side
    tuned: Side
    gain: Mapping[str, Sequence[float]]
    folders: frozenset[str]
    """Names of the folders that lie in the run folder."""
    unreadable: tuple[str, ...]
    """Files that are there and cannot be read, with the reason."""

    @property
    def task(self) -> str:
        """Kind of work, empty where the recipe cannot be read."""
        return str((self.recipe.get("task") or {}).get("kind", ""))


def read_run(path: Path) -> RunRecord:
    """Read a run folder.

    Args:
        path: the folder.

    Returns:
        Everything that is there.

    Raises:
        CommandError: the folder does not exist or has no recipe.
    """
    if not (path / "recipe.yaml").is_file():
        hint = "give the folder that `weitiao run` wrote; it holds recipe.yaml and run.json"
        raise CommandError("this is not a run folder", where=str(path), hint=hint)
    reader = _Reader(path)
    comparison = reader.json("scores.json")
    sides = {name: reader.side(name, comparison.get(name)) for name in ("baseline", "tuned")}
    recipe_text = (path / "recipe.yaml").read_text(encoding="utf-8", errors="replace")
    return RunRecord(
        path=path,
        recipe_text=recipe_text,
        recipe=reader.recipe(recipe_text),
        facts=reader.json("run.json"),
        data=reader.json("data.json"),
        events=reader.rows("events.jsonl"),
        evaluations=reader.rows("evaluations.jsonl"),
        suspects=reader.rows("suspects.jsonl"),
        gain=comparison.get("gain") or {},
        folders=frozenset(entry.name for entry in path.iterdir() if entry.is_dir()),
        unreadable=tuple(reader.problems),
        **sides,
    )


class _Reader:
    """Reads files and collects what cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def json(self, name: str) -> dict[str, Any]:
        """An object, empty where the file is missing or broken."""
        value = self._value(name)
        return value if isinstance(value, dict) else {}

    def items(self, name: str) -> list[dict[str, Any]]:
        """Objects of a list, empty where the file is missing or broken."""
        value = self._value(name)
        return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []

    def _value(self, name: str) -> Any:
        file = self.path / name
        if not file.is_file():
            return None
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as err:
            self.problems.append(f"{name}: {err}")
            return None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Objects, one a line; a last line that was cut off is left out, any other broken line is named."""
        file = self.path / name
        if not file.is_file():
            return []
        rows = []
        *lines, last = file.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as err:
                self.problems.append(f"{name}, line {number}: {err}")
                continue
            if isinstance(row, dict):
                rows.append(row)
        try:
            ending = json.loads(last) if last.strip() else None
        except ValueError:
            return rows
        return [*rows, ending] if isinstance(ending, dict) else rows

    def side(self, name: str, compared: Mapping[str, Any] | None) -> Side:
        """Scores with the details that only the model's own file has, its answers, and its answers to the recipe's questions."""
        own = self.json(f"{name}/scores.json")
        scores = {**own, **(compared or {}), "details": own.get("details") or (compared or {}).get("details") or {}}
        return Side(scores if own or compared else {}, self.rows(f"{name}/answers.jsonl"), self.items(f"{name}/questions.json"))

    def recipe(self, text: str) -> dict[str, Any]:
        """The recipe as plain values."""
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as err:
            self.problems.append(f"recipe.yaml: {err}")
            return {}
        return value if isinstance(value, dict) else {}
