"""The real command, as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WEITIAO = str(Path(sys.executable).with_name("weitiao"))


def weitiao(*words: str | Path, given: str = "", code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run ``weitiao WORDS`` with ``given`` on stdin; ``code`` is the exit code that it must end with, None for any."""
    done = subprocess.run([WEITIAO, *map(str, words)], input=given, capture_output=True, text=True, check=False, timeout=250)
    if code is not None:
        assert done.returncode == code, done.stderr
    return done
