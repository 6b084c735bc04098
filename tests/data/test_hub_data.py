"""Data sets of both hubs, through their own clients, from a server on this machine that also fails in the middle."""

import importlib.util
import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from tests.hubserver import Hub, serve_hub

READ = """
import json, sys
from weitiao.data import load_samples
from weitiao.errors import WeitiaoError
from weitiao.recipe.sections import Data
from weitiao.recipe.tasks import Ocr, Classification
from weitiao.tasks import make_task
section = Data.model_validate(json.loads(sys.argv[1]))
task = make_task(Ocr(kind="ocr") if sys.argv[2] == "ocr" else Classification(kind="classification", labels=["good", "bad"]))
try:
    found = load_samples(section, task, 0)
except WeitiaoError as err:
    print(json.dumps({"error": str(err), "exit": err.exit_code}))
else:
    images = lambda sample: [str(part.image) for message in sample.messages for part in message.parts if part.image]
    rows = [(sample.origin, sample.reference, images(sample)) for sample in found.train]
    print(json.dumps({"n": found.report.n_read, "rows": rows, "shape": found.report.shape}))
"""


def picture(text):
    image = Image.new("RGB", (120, 40), "white")
    ImageDraw.Draw(image).text((5, 5), text, fill="black")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def parquet(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def formulas(start):
    return parquet([{"image": {"bytes": picture(f"x^{i}"), "path": None}, "text": f"x^{i}"} for i in range(start, start + 3)])


def read(hub, client, tmp_path, source, kind="ocr", **settings):
    home = {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "MODELSCOPE_CACHE": str(tmp_path / "ms"),
        "WEITIAO_CACHE": str(tmp_path / "w"),
    }
    env = {
        **os.environ,
        **home,
        "HF_ENDPOINT": hub.url,
        "MODELSCOPE_ENDPOINT": hub.url,
        "WEITIAO_HUB": client,
        "HF_HUB_DISABLE_XET": "1",
        "MODELSCOPE_API_MAX_RETRIES": "1",
    }
    section = {"train": {"path": "hub:lab/formulas", **source}, "split": {"valid": 0, "test": 0}, **settings}
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(section), kind], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


HAS_MODELSCOPE = importlib.util.find_spec("modelscope") is not None
CLIENTS = pytest.mark.parametrize(
    "client", ["huggingface", pytest.param("modelscope", marks=pytest.mark.skipif(not HAS_MODELSCOPE, reason="needs modelscope"))]
)


@CLIENTS
def test_parquet_with_images_inside(client, tmp_path):
    files = {
        "data/train-00000-of-00002.parquet": formulas(0),
        "data/train-00001-of-00002.parquet": formulas(3),
        "data/test.parquet": formulas(9),
    }
    with serve_hub(Hub(datasets={"lab/formulas": files})) as hub:
        found = read(hub, client, tmp_path, {})
    assert [(origin, truth) for origin, truth, _ in found["rows"]] == [
        ("lab/formulas/data/train-00000-of-00002.parquet:1", "x^0"),
        ("lab/formulas/data/train-00000-of-00002.parquet:2", "x^1"),
        ("lab/formulas/data/train-00000-of-00002.parquet:3", "x^2"),
        ("lab/formulas/data/train-00001-of-00002.parquet:1", "x^3"),
        ("lab/formulas/data/train-00001-of-00002.parquet:2", "x^4"),
        ("lab/formulas/data/train-00001-of-00002.parquet:3", "x^5"),
    ]
    assert found["shape"] == "image-text (image, answer from `text`)"
    assert all(len(images) == 1 and images[0].endswith(".png") for *_, images in found["rows"])


@CLIENTS
def test_limit_spares_the_files_behind_it(client, tmp_path):
    files = {"data/train-00000-of-00002.parquet": formulas(0), "data/train-00001-of-00002.parquet": formulas(3)}
    with serve_hub(Hub(datasets={"lab/formulas": files})) as hub:
        found = read(hub, client, tmp_path, {}, limit=2)
        assert hub.bodies == ["data/train-00000-of-00002.parquet"]
    assert found["n"] == 2


@CLIENTS
def test_images_beside_a_table(client, tmp_path):
    table = b'{"file_name": "a.png", "text": "x"}\n{"file_name": "b.png", "text": "y"}\n'
    files = {"train/metadata.jsonl": table, "train/a.png": picture("x"), "train/b.png": picture("y")}
    with serve_hub(Hub(datasets={"lab/formulas": files})) as hub:
        found = read(hub, client, tmp_path, {})
    assert [truth for _, truth, _ in found["rows"]] == ["x", "y"]


@CLIENTS
def test_subset_and_split_by_the_card(client, tmp_path):
    card = b"""---
configs:
- config_name: short
  data_files:
  - {split: train, path: "short/*.csv"}
  - {split: held_out, path: "short/rest/*.csv"}
- config_name: long
  data_files: "long/*.csv"
---
# Reviews
"""
    files = {
        "README.md": card,
        "short/a.csv": b"text,label\nfine day,good\nbad day,bad\n",
        "short/rest/b.csv": b"text,label\nkept apart,good\n",
        "long/c.csv": b"text,label\na very long day,good\n",
    }
    with serve_hub(Hub(datasets={"lab/formulas": files})) as hub:
        unnamed = read(hub, client, tmp_path, {}, "classification")
        long = read(hub, client, tmp_path, {"subset": "long"}, "classification")
        short = read(hub, client, tmp_path, {"subset": "short"}, "classification")
        apart = read(hub, client, tmp_path, {"subset": "short", "split": "held_out"}, "classification")
        wrong = read(hub, client, tmp_path, {"subset": "short", "split": "tset"}, "classification")
    assert unnamed["error"] == "hub:lab/formulas: the data set has several subsets\n  name one of them: data.train.subset: long | short"
    assert [truth for _, truth, _ in long["rows"]] == ["good"]
    assert [truth for _, truth, _ in short["rows"]] == ["good", "bad"], "a pattern's `*` stops at the end of its folder"
    assert [origin for origin, *_ in apart["rows"]] == ["lab/formulas/short/rest/b.csv:2"]
    assert wrong["error"] == "hub:lab/formulas: there is no split `tset`\n  splits of the data set: held_out, train"


@CLIENTS
def test_a_download_that_breaks_off_is_told_and_goes_on_later(client, tmp_path):
    name = "data/train.parquet"
    with serve_hub(Hub(datasets={"lab/formulas": {name: formulas(0)}}, break_after={name: 300})) as hub:
        broken = read(hub, client, tmp_path, {})
        assert broken["exit"] == 2
        assert f"the download from {hub.url} broke off" in broken["error"]
        assert "try again: what has arrived is kept" in broken["error"]
        hub.break_after.clear()
        assert read(hub, client, tmp_path, {})["n"] == 3


@CLIENTS
def test_no_such_data_set(client, tmp_path):
    with serve_hub(Hub(datasets={"lab/other": {"a.csv": b"text,label\nx,y\n"}})) as hub:
        error = read(hub, client, tmp_path, {})["error"]
    assert error.startswith(f"lab/formulas: there is no such data set at {hub.url}\n  check the spelling; private ones need ")


def test_no_answer_from_the_hub(tmp_path):
    hub = Hub(url="http://127.0.0.1:9")
    error = read(hub, "", tmp_path, {})["error"]
    assert error.startswith("lab/formulas: no answer from http://127.0.0.1:9")


@CLIENTS
@pytest.mark.parametrize("named", [True, False], ids=["hub named", "hub found"])
def test_what_was_read_once_is_read_again_without_a_network(client, named, tmp_path):
    table = b'{"file_name": "a.png", "text": "x"}\n{"file_name": "b.png", "text": "y"}\n'
    files = {"README.md": b"# Formulas", "train/metadata.jsonl": table, "train/a.png": picture("x"), "train/b.png": picture("y")}
    with serve_hub(Hub(datasets={"lab/formulas": files})) as hub:
        online = read(hub, client, tmp_path, {})
    assert read(hub, client if named else "", tmp_path, {}) == online
    assert len(online["rows"]) == 2


@CLIENTS
def test_without_a_network_a_file_that_was_never_fetched_is_named(client, tmp_path):
    files = {"data/train-00000-of-00002.parquet": formulas(0), "data/train-00001-of-00002.parquet": formulas(3)}
    with serve_hub(Hub(datasets={"lab/formulas": files})) as hub:
        assert read(hub, client, tmp_path, {}, limit=2)["n"] == 2
    assert read(hub, client, tmp_path, {}, limit=2)["n"] == 2
    assert read(hub, client, tmp_path, {})["error"] == (
        f"lab/formulas: data/train-00001-of-00002.parquet is not in the cache of {client}, and no hub answers\n"
        "  run it once where a hub can be reached, or name a file on disk"
    )


@CLIENTS
def test_a_hub_that_refuses_is_no_reason_to_stop_where_the_rows_are_in_the_cache(client, tmp_path):
    with serve_hub(Hub(datasets={"lab/formulas": {"data/train.parquet": formulas(0)}})) as hub:
        online = read(hub, client, tmp_path, {})
        hub.datasets.clear()
        assert read(hub, client, tmp_path, {}) == online
