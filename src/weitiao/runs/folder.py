"""An open run folder: values in, files out, and a record of how the run ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock

from weitiao.errors import CommandError, WeitiaoError
from weitiao.log import logger
from weitiao.recipe import Recipe, load_recipe, recipe_yaml
from weitiao.runs.facts import first_facts, now
from weitiao.runs.values import (
    append_line,
    full_disk_in_words,
    no_space_error,
    no_space_left,
    read_json,
    read_lines,
    write_json,
    write_text,
)

Mode = Literal["new", "resume", "replace"]
Status = Literal["running", "finished", "failed", "interrupted"]
N_DIFFERENCES_SHOWN = 8


@dataclass(frozen=True)
class Run:
    """A run folder. Files are replaced whole or appended row by row, so that a crash leaves nothing half written."""

    path: Path
    """The folder, absolute."""
    mode: Mode | None = None
    """How it was opened; None where it is only read."""
    lock: BaseFileLock | None = field(default=None, compare=False, repr=False)
    """Held from opening to the end of ``recording``."""

    def folder(self, name: str) -> Path:
        """A folder inside the run, made when it is not there.

        Args:
            name: e.g. ``checkpoints``.

        Returns:
            Its absolute path.

        Raises:
            WeitiaoError: it cannot be made.
        """
        folder = self.path / name
        with full_disk_in_words(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save(self, name: str, value: Any) -> Path:
        """Write a value as JSON, at once.

        Args:
            name: file name without ``.json``.
            value: anything that ``jsonable`` takes.

        Returns:
            The file.

        Raises:
            WeitiaoError: the disk is full or the file cannot be written.
        """
        path = self.path / f"{name}.json"
        write_json(path, value)
        return path

    def read(self, name: str) -> Any:
        """Read a value that ``save`` wrote.

        Args:
            name: file name without ``.json``; ``tuned/scores`` for one in a folder.

        Returns:
            Plain mappings, lists and values.

        Raises:
            WeitiaoError: the run has no such file, or it is damaged.
        """
        return read_json(self.path / f"{name}.json")

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a row to a JSONL file; it is with the system when this returns.

        Args:
            name: file name without ``.jsonl``.
            row: anything that ``jsonable`` takes.

        Raises:
            WeitiaoError: the disk is full or the file cannot be written.
        """
        append_line(self.path / f"{name}.jsonl", row)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Read the rows of a JSONL file; a half row that a crash left at the end is not one.

        Args:
            name: file name without ``.jsonl``; ``tuned/answers`` for one in a folder.

        Returns:
            The rows in the order in which they were written.

        Raises:
            WeitiaoError: the run has no such file, or a row of it is damaged.
        """
        return read_lines(self.path / f"{name}.jsonl")

    def update(self, **facts: Any) -> None:
        """Add facts to ``run.json``; mappings are merged with those that are there.

        Args:
            **facts: e.g. ``device="cpu"``, ``hashes={"data": ...}``.

        Raises:
            WeitiaoError: the run has no ``run.json``, or it cannot be written.
        """
        self.save("run", _merged(self.read("run"), facts))

    def recipe(self) -> Recipe:
        """The recipe that the run was started with.

        Returns:
            The recipe, with absolute paths.

        Raises:
            RecipeError: ``recipe.yaml`` was changed into something that is no recipe.
        """
        return load_recipe(self.path / "recipe.yaml")

    @contextmanager
    def recording(self, recipe: Recipe) -> Iterator[None]:
        """Write the recipe and the first facts, and in the end how the run ended; the folder is locked until then.

        Args:
            recipe: of a resumed run, the one it was started with.

        Yields:
            Nothing.

        Raises:
            CommandError: the run is resumed with another recipe.
            WeitiaoError: the disk is full.
        """
        try:
            self._start(recipe)
            status: Status = "failed"
            try:
                yield
                status = "finished"
            except KeyboardInterrupt:
                status = "interrupted"
                raise
            except Exception as error:
                if no_space_left(error) and not isinstance(error, WeitiaoError):
                    raise no_space_error(self.path) from error
                raise
            finally:
                self._end(status)
        finally:
            if self.lock is not None:
                self.lock.release()

    def refuse_other_recipe(self, recipe: Recipe, advice: str) -> None:
        """Raise where the run was started with other settings.

        Args:
            recipe: that it is to go on with.
            advice: what to do then.

        Raises:
            CommandError: it names the settings, what they were and what they are.
        """
        before, after = (settings(each) for each in (self.recipe(), recipe))
        names = [name for name in {**before, **after} if before.get(name) != after.get(name) and name != "run.path"]
        if names:
            lines = [f"{name}: was {before.get(name)!r}, now {after.get(name)!r}" for name in names[:N_DIFFERENCES_SHOWN]]
            more = [f"and {len(names) - N_DIFFERENCES_SHOWN} more"] if len(names) > N_DIFFERENCES_SHOWN else []
            raise CommandError(
                "the recipe has changed since this run was started", where=str(self.path), hint="\n".join([*lines, *more, advice])
            )

    def refuse_other_data(self, fingerprint: str) -> None:
        """Raise where a resumed run has begun with other rows: it would go on in the middle of steps that are dealt otherwise now.

        Args:
            fingerprint: of the rows as they are now.

        Raises:
            CommandError: ``run.json`` has another one.
        """
        known = self.read("run")["hashes"].get("data") if self.mode == "resume" else None
        if known not in (None, fingerprint):
            hint = f"put the rows back as they were, or train anew on those of now: weitiao train {self.path}"
            raise CommandError("the data have changed since this run was started", where=str(self.path), hint=hint)

    def _start(self, recipe: Recipe) -> None:
        if self.mode == "resume" and (self.path / "recipe.yaml").exists():
            self.refuse_other_recipe(recipe, "resume with the recipe it was started with, or start another run with -o")
        facts = first_facts(recipe)
        if self.mode == "resume" and (self.path / "run.json").exists():
            earlier = self.read("run")
            facts = _merged(earlier, {**facts, "started": earlier["started"], "resumed": [*earlier.get("resumed", []), facts["started"]]})
        write_text(self.path / "recipe.yaml", recipe_yaml(recipe))
        self.save("run", facts)

    def _end(self, status: Status) -> None:
        try:
            self.update(status=status, finished=now())
        except WeitiaoError as error:  # the run's own error matters more than this one
            logger.warning("the end of the run could not be recorded: %s", error)


def _merged(facts: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(facts)
    for name, value in more.items():
        before = merged.get(name)
        merged[name] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged


def settings(recipe: Recipe) -> dict[str, Any]:
    """Every setting of a recipe under its dotted name, defaults too.

    Args:
        recipe: any recipe.

    Returns:
        Such as ``{"train.learning_rate": 1e-4, ...}``; lists are values.
    """
    return dict(_leaves(recipe.model_dump(mode="json"), ""))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
