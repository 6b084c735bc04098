"""The real command, as a user calls it, and a small recipe and rows to call it with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

WEITIAO = str(Path(sys.executable).with_name("weitiao"))

RECIPE = """\
task: {kind: extraction, fields: [name, address, email, question]}
data:
  train: {path: rows.jsonl}
  columns: {text: instruction, answer: output}
model: {path: tiny}
train: {max_steps: 2, batch_rows: 4}
evaluate: {max_new_tokens: 4, n_valid: 2}
track: {kind: none}
"""


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def weitiao(*words: str | Path, given: str = "", code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run ``weitiao WORDS`` with ``given`` on stdin; ``code`` is the exit code that it must end with, None for any."""
    done = subprocess.run([WEITIAO, *map(str, words)], input=given, capture_output=True, text=True, check=False, timeout=250)
    if code is not None:
        assert done.returncode == code, done.stderr
    return done
