"""The main job through the real command: recipe to report on a tiny model, then everything that a finished run is used for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.command import WEITIAO, weitiao

from weitiao.demo import write_complaints

N_ROWS = 60


def recipe(folder: Path, base: Path, **train: Any) -> Path:
    write_complaints(folder / "complaints.jsonl", N_ROWS, 1)
    path = folder / "recipe.yaml"
    content = {
        "task": {"kind": "extraction", "fields": ["name", "address", "email", "question"]},
        "data": {"train": {"path": "complaints.jsonl"}, "split": {"valid": 0.15, "test": 0.25}},
        "model": {"path": str(base)},
        "train": {"num_train_epochs": 2, "learning_rate": 1e-3, "batch_rows": 8} | train,
        "evaluate": {"max_new_tokens": 24, "n_valid": 4},
    }
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("main")
    done = weitiao("run", recipe(folder, tiny_qwen3), "-o", folder / "run")
    assert "field_f1" in done.stderr
    assert str(folder / "run" / "report.html") in done.stderr
    assert done.stdout == ""
    return folder / "run"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_the_run_folder_is_complete(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    data = json.loads((run / "data.json").read_text())
    assert facts["status"] == "finished"
    assert facts["versions"]["torch"]
    assert set(facts["hashes"]) >= {"recipe", "data", "weights"}
    assert facts["n_trainable"] < facts["n_parameters"]
    assert facts["training"]["select_by"] == "field_f1"
    assert (data["n_read"], data["n_kept"]) == (N_ROWS, N_ROWS)
    assert sum(data["split"].values()) == N_ROWS
    assert data["tokens"]["rows"] == data["split"]["train"]
    events = rows(run / "events.jsonl")
    assert [event["step"] for event in events] == list(range(1, len(events) + 1))
    assert set(events[0]) >= {"step", "loss", "learning_rate", "grad_norm", "tokens", "supervised_tokens", "seconds"}
    assert [entry["step"] for entry in rows(run / "evaluations.jsonl")] == [len(events) // 2, len(events)]
    for name in ("baseline", "tuned"):
        scores = json.loads((run / name / "scores.json").read_text())
        assert scores["n"] == data["split"]["test"] == len(rows(run / name / "answers.jsonl"))
        assert set(scores["metrics"]) == {"field_f1", "exact_match", "json_valid"} == set(scores["intervals"])
    compared = json.loads((run / "scores.json").read_text())
    assert set(compared) == {"baseline", "tuned", "gain"}
    assert all(len(gain) == 3 for gain in compared["gain"].values())
    assert {path.name for path in run.iterdir()} >= {"recipe.yaml", "checkpoints", "best", "merged", "report.html", "swanlog"}
    assert all(path.name.startswith("step-") for path in (run / "checkpoints").iterdir())


def test_the_best_checkpoint_is_an_ordinary_peft_folder(run: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    network = AutoPeftModelForCausalLM.from_pretrained(run / "best")
    assert network.active_adapters == ["default"]
    facts = json.loads((run / "best" / "weitiao.json").read_text())
    assert facts["task"]["kind"] == "extraction"


def test_the_merged_folder_answers_in_plain_transformers_as_the_run_did(run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "merged")
    network = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32)
    first = rows(run / "tuned" / "answers.jsonl")[0]
    system = (
        "将文本中的name、address、email、question提取出来，以json格式输出，字段为name、address、email、question，值为文本中提取出来的内容。"
    )
    turns = [{"role": "system", "content": system}, {"role": "user", "content": first["prompt"]}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    logits = network(**ids).logits[0, -1]
    adapted = _adapter_logits(run, ids)
    assert torch.allclose(logits, adapted, atol=1e-4)


def _adapter_logits(run: Path, ids: Any) -> torch.Tensor:
    from weitiao.model import load_checkpoint

    network = load_checkpoint(run / "best", device="cpu", dtype=torch.float32).network
    with torch.no_grad():
        return network(**ids).logits[0, -1]  # type: ignore[no-any-return]


def test_training_evaluation_and_prediction_see_the_same_tokens(run: Path) -> None:
    """The training row's tokens before the answer, the evaluation's prompt and that of a row without answer are one and the same."""
    from weitiao import chat, data, encode, model, runs, tasks

    loaded = runs.read_run(run).recipe()
    task = tasks.make_task(loaded.task, loaded.data.system)
    samples = data.load_samples(loaded.data, task, loaded.run.seed)
    renderer = chat.make_renderer(model.load_processor(loaded.model), loaded.chat, loaded.encode.keep)
    encoded = encode.encode_samples(samples, renderer, loaded.encode)
    assert encoded.max_prompt_tokens == model.read_facts(run / "best").max_prompt_tokens
    for sample, row in list(zip(samples.train, encoded.rows, strict=True))[:10]:
        prompt = renderer.prompt(sample.prompt, encoded.max_prompt_tokens).input_ids
        assert row.input_ids[: len(prompt)] == prompt
        assert row.labels[: len(prompt)] == [-100] * len(prompt)
        assert row.labels[len(prompt)] == row.input_ids[len(prompt)]


def test_evaluating_again_gives_the_runs_own_scores(run: Path) -> None:
    for name, option in (("tuned", []), ("baseline", ["--baseline"])):
        again = json.loads(weitiao("evaluate", run, "--json", *option).stdout)
        assert again["metrics"] == pytest.approx(json.loads((run / name / "scores.json").read_text())["metrics"])


def test_evaluating_another_file(run: Path, tmp_path: Path) -> None:
    write_complaints(tmp_path / "other.jsonl", 7, 5)
    assert json.loads(weitiao("evaluate", run, "--data", tmp_path / "other.jsonl", "--json").stdout)["n"] == 7


def test_prediction_answers_every_row_once_and_goes_on_where_it_stopped(run: Path, tmp_path: Path) -> None:
    write_complaints(tmp_path / "all.jsonl", 12, 5)
    given = rows(tmp_path / "all.jsonl")
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    kept = [{"id": row["id"], "instruction": row["instruction"]} for row in given]
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    weitiao("predict", run, "-i", source, "-o", output)
    whole = rows(output)
    assert sorted(row["id"] for row in whole) == sorted(row["id"] for row in given)
    lines = output.read_text(encoding="utf-8").split("\n")
    output.write_text("\n".join(lines[:5]) + "\n" + lines[5][:20], encoding="utf-8")
    assert "already" in weitiao("predict", run, "-i", source, "-o", output).stderr
    assert sorted(rows(output), key=lambda row: row["id"]) == sorted(whole, key=lambda row: row["id"])


def test_chat_answers_a_line(run: Path) -> None:
    done = weitiao("chat", run, given="龙琳，邮箱 nafan@example.com。小区垃圾堆积成山。\n")
    assert done.returncode == 0


def test_stages_can_be_done_again(run: Path) -> None:
    (run / "report.html").unlink()
    weitiao("report", run)
    assert (run / "report.html").stat().st_size > 10_000
    weitiao("export", run)
    assert (run / "merged" / "model.safetensors").exists()


def test_nothing_is_printed_to_stdout_but_what_was_asked_for(run: Path) -> None:
    assert weitiao("check", run / "recipe.yaml").stdout == ""
    assert json.loads(weitiao("check", run / "recipe.yaml", "--json").stdout)["n_read"] == N_ROWS
    looked = weitiao("look", run / "recipe.yaml", "-n", "1")
    assert "<|im_start|>" in looked.stderr + looked.stdout


def test_a_killed_run_is_resumed_to_the_same_result(run: Path, tiny_qwen3: Path, tmp_path: Path) -> None:
    """Killed without warning in training, then resumed: scores, answers and losses are those of the run that was never stopped."""
    path = recipe(tmp_path, tiny_qwen3)
    child = subprocess.Popen([WEITIAO, "run", str(path), "-o", str(tmp_path / "run")], stderr=subprocess.DEVNULL, env=os.environ)
    while not list((tmp_path / "run" / "checkpoints").glob("step-*[0-9]")) and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    weitiao("run", path, "-o", tmp_path / "run", "--resume")
    assert rows(tmp_path / "run" / "tuned" / "answers.jsonl") == rows(run / "tuned" / "answers.jsonl")
    first, second = ({event["step"]: event["loss"] for event in rows(folder / "events.jsonl")} for folder in (run, tmp_path / "run"))
    assert first == second


def test_full_tuning_and_no_tracking(tiny_qwen2: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, tiny_qwen2, num_train_epochs=1)
    weitiao("run", path, "model.tuning={kind: full}", "track.kind=none", "-o", tmp_path / "run")
    assert not (tmp_path / "run" / "swanlog").exists()
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()
    assert (
        json.loads((tmp_path / "run" / "run.json").read_text())["n_trainable"]
        == json.loads((tmp_path / "run" / "run.json").read_text())["n_parameters"]
    )


def test_a_run_can_start_from_a_run(run: Path, tiny_qwen3: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, tiny_qwen3, num_train_epochs=1)
    weitiao("run", path, f"model.path={run}", "-o", tmp_path / "second")
    first, second = (
        json.loads((folder / name / "scores.json").read_text()) for folder, name in ((run, "tuned"), (tmp_path / "second", "baseline"))
    )
    assert second["metrics"].keys() == first["metrics"].keys()
    assert [row["answer"] for row in rows(tmp_path / "second" / "baseline" / "answers.jsonl")] == [
        row["answer"] for row in rows(run / "tuned" / "answers.jsonl")
    ]
