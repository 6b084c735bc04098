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


def exit_code_of(command: Callable[[], object], *, debug: bool) -> int:
    """Run a command and say how it ended.

    Args:
        command: what to run; an integer that it returns is the exit code, anything else means success.
        debug: whether to show the traceback of a failure.

    Returns:
        0 done, 1 failed, 2 the user's recipe, data or command is wrong, 130 interrupted.
    """
    try:
        result = command()
        sys.stdout.flush()
    except (typer.Abort, KeyboardInterrupt):
        return _say("interrupted; the same command goes on, `weitiao run` with --resume", EXIT_INTERRUPTED, debug=debug)
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
        return _say(_unforeseen(error), EXIT_FAILED, debug=debug)
    return result if isinstance(result, int) else 0


def _unforeseen(error: Exception) -> str:
    from weitiao.runs import no_space_left

    if no_space_left(error):
        return "no space left on the disk\n  free some space, then go on with --resume"
    what = f"{type(error).__name__}: {error}".strip()
    return f"weitiao failed in a way that it did not foresee: {what}\n  the same command with --debug shows where"


def _say(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc(file=sys.stderr)
    print(f"weitiao: {message}", file=sys.stderr)
    return code
