"""SwanLab's page shows test pictures with what was said of them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from PIL import Image

from weitiao.recipe.sections import SwanlabTrack
from weitiao.track import open_tracker

COLUMNS = ["id", "prompt", "reference", "baseline", "tuned", "images"]


def test_pictures_stand_beside_truth_and_answers(tmp_path: Path) -> None:
    Image.new("RGBA", (900, 40), (255, 0, 0, 128)).save(tmp_path / "a.png")
    rows = [
        ["1", "read", "x^2", "(10,10)", "x^2", [str(tmp_path / "a.png")]],
        ["2", "read", "y", "", "y", [str(tmp_path / "gone.png")]],
        ["3", "no picture", "z", "", "z", []],
    ]
    with open_tracker(SwanlabTrack(), tmp_path, "x") as tracker:
        tracker.table("predictions", COLUMNS, rows)
    with sqlite3.connect(tmp_path / "swanlog" / "runs.swanlab") as database:
        kinds = dict(database.execute("select name, type from tag").fetchall())
    assert kinds == {"predictions": "text", "predictions/images": "image"}
    kept = [path for path in (tmp_path / "swanlog").rglob("*") if path.suffix in {".png", ".jpg"}]
    assert {path.name for path in kept} == {kept[0].name}
    assert Image.open(kept[0]).size == (512, 23)
    logged = "".join(path.read_text("utf-8") for path in (tmp_path / "swanlog").rglob("*.log"))
    assert json.dumps("id: 1\nreference: x^2\nbaseline: (10,10)\ntuned: x^2") in logged
