"""Hub ids, with the hubs' real clients in a process of their own against a server on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.hubserver import COMMIT, Hub, serve_hub

MEGABYTES = 24
TINY = {
    "config.json": b'{"model_type": "qwen2"}',
    "tokenizer.json": b"{}",
    "merges.txt": b"#",
    "model.safetensors": bytes(range(256)) * (MEGABYTES * 4096),
    "pytorch_model.bin": b"pickle",
    "modeling_tiny.py": b"print('code')",
    "onnx/config.json": b"{}",
}
WANTED = ["config.json", "merges.txt", "model.safetensors", "tokenizer.json"]
CODE = """
import json, sys
from weitiao.errors import WeitiaoError
from weitiao.model.weights import resolve_weights
try:
    print(json.dumps(str(resolve_weights(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))))
except WeitiaoError as err:
    print(json.dumps([type(err).__name__, str(err)]))
"""


@pytest.fixture
def resolve(tmp_path):
    """Run ``resolve_weights`` in a fresh process whose caches are empty at first; the folder, or [error, message]."""

    def run(*arguments, hub="", endpoint="http://127.0.0.1:9"):
        env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and name != "HF_HUB_OFFLINE"}
        env |= {"HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_CACHE": str(tmp_path / "ms"), "MODELSCOPE_HOME": str(tmp_path / "msh")}
        env |= {"HF_ENDPOINT": endpoint, "MODELSCOPE_ENDPOINT": endpoint, "WEITIAO_HUB": hub, "HF_HUB_DISABLE_XET": "1"}
        env |= {"MODELSCOPE_API_MAX_RETRIES": "1", "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", CODE, *arguments], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def names_in(folder):
    return sorted(entry.name for entry in Path(folder).iterdir() if not entry.name.startswith("."))


def needs(name):
    if name == "modelscope":
        pytest.importorskip("modelscope")


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_only_safetensors_and_settings_are_fetched_and_the_cache_is_used_without_a_request(resolve, name):
    needs(name)
    with serve_hub(Hub({"lab/tiny": TINY})) as hub:
        folder = resolve("lab/tiny", hub=name, endpoint=hub.url)
        assert names_in(folder) == WANTED
        assert Path(folder, "model.safetensors").read_bytes() == TINY["model.safetensors"]
        assert sorted(path for path, _ in hub.served) == WANTED
        n_requests = len([path for path in hub.paths if "lab/tiny" in path])
        assert resolve("lab/tiny", hub=name, endpoint=hub.url) == folder
        assert len([path for path in hub.paths if "lab/tiny" in path]) == n_requests
    assert resolve("lab/tiny", hub=name) == folder


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_cut_connection_goes_on_where_it_stopped(resolve, name):
    needs(name)
    with serve_hub(Hub({"lab/tiny": TINY}, break_after={"model.safetensors": 11_000_000}, n_breaks=1)) as hub:
        folder = resolve("lab/tiny", hub=name, endpoint=hub.url)
        assert Path(folder, "model.safetensors").read_bytes() == TINY["model.safetensors"]
        first, second = (start for path, start in hub.served if path == "model.safetensors")
    assert first == 0
    assert 10_000_000 <= second <= 11_000_000


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_download_that_fails_says_so_and_the_next_try_fetches_only_what_is_missing(resolve, name):
    needs(name)
    with serve_hub(Hub({"lab/tiny": TINY}, break_after={"model.safetensors": 11_000_000})) as hub:
        kind, message = resolve("lab/tiny", hub=name, endpoint=hub.url)
        assert kind == "ModelError"
        assert f"the download from {hub.url} broke off" in message
        assert "try again: files that have arrived are kept" in message
        hub.break_after.clear()
        hub.served.clear()
        folder = resolve("lab/tiny", hub=name, endpoint=hub.url)
        assert names_in(folder) == WANTED
        assert "model.safetensors" in [path for path, _ in hub.served]
        assert "config.json" not in [path for path, _ in hub.served]


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_an_unknown_id_is_a_sentence(resolve, name):
    needs(name)
    with serve_hub(Hub({"lab/tiny": TINY})) as hub:
        kind, message = resolve("lab/tinny", hub=name, endpoint=hub.url)
    assert kind == "ModelError"
    assert message.startswith(f"lab/tinny: there is no such model at {hub.url}\n  check the spelling")


def test_a_gated_model_says_what_to_do(resolve):
    with serve_hub(Hub({"lab/tiny": TINY}, gated=True)) as hub:
        kind, message = resolve("lab/tiny", hub="huggingface", endpoint=hub.url)
    assert kind == "ModelError"
    assert "gated" in message
    assert "HF_TOKEN" in message


def test_a_revision_is_asked_for(resolve):
    with serve_hub(Hub({"lab/tiny": TINY})) as hub:
        assert COMMIT in resolve("lab/tiny", COMMIT, hub="huggingface", endpoint=hub.url)
        kind, message = resolve("lab/tiny", "v9", hub="huggingface", endpoint=hub.url)
    assert (kind, message.splitlines()[0]) == ("ModelError", "lab/tiny: there is no revision `v9`")


@pytest.mark.parametrize("name", ["huggingface", "modelscope", ""])
def test_no_network_is_a_sentence(resolve, name):
    needs(name)
    kind, message = resolve("lab/tiny", hub=name)
    assert kind == "ModelError"
    assert "no answer from http://127.0.0.1:9" in message
    assert "bundled:qwen2.5-coder-0.5b-instruct" in message


def test_without_a_choice_a_hub_that_answers_is_taken(resolve):
    with serve_hub(Hub({"lab/tiny": TINY})) as hub:
        folder = resolve("lab/tiny", endpoint=hub.url)
    assert names_in(folder) == WANTED


def test_pickled_weights_are_refused(resolve):
    files = {name: content for name, content in TINY.items() if not name.endswith("safetensors")}
    with serve_hub(Hub({"lab/tiny": files})) as hub:
        kind, message = resolve("lab/tiny", hub="huggingface", endpoint=hub.url)
    assert kind == "ModelError"
    assert "holds no safetensors" in message


def test_an_unknown_hub_is_refused(resolve):
    assert resolve("lab/tiny", hub="hugginface") == [
        "CommandError",
        "WEITIAO_HUB=hugginface: there is no such hub\n  there are: huggingface, modelscope",
    ]
