"""How a command ends: exit codes, and every failure as a sentence without a traceback unless ``--debug`` asks for one."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

import typer
from typer.exceptions import TyperException

from weitiao.errors import WeitiaoError

EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130
GO_ON = {
    "run": "the same command with --resume goes on",
    "train": "`weitiao run RUN/recipe.yaml -o RUN --resume` goes on",
    "demo": "the same command goes on",
    "predict": "the same command goes on",
}
"""What goes on where a verb was interrupted; other verbs begin again."""


def exit_code_of(command: Callable[[], object], *, debug: bool, verb: str = "") -> int:
    """Run a command and say how it ended.

    Args:
        command: what to run; an integer that it returns is the exit code, anything else means success.
        debug: whether to show the traceback of a failure.
        verb: that the command carries out, for words on how to go on.

    Returns:
        0 done, 1 failed, 2 the user's recipe, data or command is wrong, 130 interrupted.
    """
    try:
        result = command()
        sys.stdout.flush()
        if result == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except (typer.Abort, KeyboardInterrupt):
        return _say("; ".join(["interrupted", *_goes_on(verb)]), EXIT_INTERRUPTED, debug=debug)
    except BrokenPipeError:
        # The reader of stdout went away (`| head`): nothing to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except TyperException as error:
        return _say(
            f"{error.format_message()}\n  `weitiao --help` lists the verbs, `weitiao VERB --help` explains one",
            error.exit_code,
            debug=debug,
        )
    except WeitiaoError as error:
        return _say(str(error), error.exit_code, debug=debug)
    except MemoryError:
        return _say("out of memory\n  try a smaller `train.micro_batch_tokens`, `evaluate.batch_size` or model", EXIT_FAILED, debug=debug)
    except Exception as error:
        return _say(_unforeseen(error, verb), EXIT_FAILED, debug=debug)
    return result if isinstance(result, int) else 0


def _goes_on(verb: str) -> list[str]:
    return [GO_ON[verb]] if verb in GO_ON else []


def _unforeseen(error: Exception, verb: str) -> str:
    from weitiao.runs import no_space_left

    if no_space_left(error):
        return "\n  ".join(["no space left on the disk", "; ".join(["free some space", *_goes_on(verb)])])
    what = f"{type(error).__name__}: {error}".strip()
    return f"weitiao failed in a way that it did not foresee: {what}\n  the same command with --debug shows where"


def _say(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc(file=sys.stderr)
    print(f"weitiao: {message}", file=sys.stderr)
    return code
