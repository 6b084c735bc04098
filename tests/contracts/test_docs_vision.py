"""Every test that docs/vision.md names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_named_tests_exist():
    page = (ROOT / "docs" / "vision.md").read_text(encoding="utf-8")
    rows = [row for row in page.splitlines() if (row.startswith("|") and "`tests/" in row) or "`…::" in row]
    file = ""
    named = []
    for row in rows:
        place = re.findall(r"`([^`]+)`", row)[-1]
        path, _, name = place.partition("::")
        file = path if path != "…" else file
        named.append((file, name))
    assert len(named) == 12
    missing = [f"{file}::{name}" for file, name in named if not _has(ROOT / file, name)]
    assert missing == []


def _has(path: Path, name: str) -> bool:
    return path.is_file() and (not name or f"def {name}(" in path.read_text(encoding="utf-8"))
