"""Users' mistakes as exceptions: what is wrong, where, what to do.

Raised anywhere, printed only by ``cli/fail.py``. ``exit_code`` is the process's exit status when the error reaches the command line:
2 for the user's recipe, data or command, 1 for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any


class WeitiaoError(Exception):
    """A failure that a sentence explains; no traceback is needed to act on it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        """Keep the three parts of the message.

        Args:
            what: what is wrong, lower case, without a full stop.
            where: file, row, field or recipe key; empty when there is no such place.
            hint: what to do about it; may have several lines.
        """
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        lines = [head, *(f"  {line}" for line in self.hint.splitlines())]
        return "\n".join(lines)


class RecipeError(WeitiaoError):
    """The recipe or an override of it is wrong."""

    exit_code = 2


class DataError(WeitiaoError):
    """A file, folder or data set of the user's cannot be used."""

    exit_code = 2


class RowError(DataError):
    """One row of the user's data cannot be used."""


class CommandError(WeitiaoError):
    """The command's arguments are wrong, or what they name does not exist."""

    exit_code = 2


class ModelError(WeitiaoError):
    """Weights cannot be found, fetched, checked or loaded."""


class CacheError(WeitiaoError):
    """The project's cache folder is full or cannot be written to."""


class TrainingError(WeitiaoError):
    """Training could not go on."""


class EngineError(WeitiaoError):
    """An engine cannot answer, or lacks what was asked of it."""


class ExportError(WeitiaoError):
    """An artifact could not be made or did not pass its check."""


class Problems(DataError):  # noqa: N818 - it is several
    """Several problems of one recipe or data file, collected and raised once."""

    def __init__(self, problems: list[WeitiaoError], *, what: str) -> None:
        """Keep the problems in the order in which they were found.

        Args:
            problems: at least one.
            what: one line that sums them up.
        """
        super().__init__(what)
        self.problems = problems

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Problems, self.problems, what=self.what), ()

    def __str__(self) -> str:
        return "\n".join([self.what, *(str(problem) for problem in self.problems)])


def together(errors: Sequence[WeitiaoError]) -> WeitiaoError:
    """What to raise where some rows were refused and all others are done.

    Args:
        errors: one per refused row, at least one.

    Returns:
        The error itself, or all of them as ``Problems``.
    """
    return errors[0] if len(errors) == 1 else Problems(list(errors), what=f"{len(errors)} rows are refused:")
