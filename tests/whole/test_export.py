"""Exports of tiny trained checkpoints, read back by plain transformers and by PEFT."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.tiny import DEFAULT_SYSTEM, build_tiny, sentences
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer

from weitiao.chat import chat_template, make_renderer
from weitiao.errors import ExportError
from weitiao.export import export_checkpoint
from weitiao.export.card import write_card
from weitiao.export.check import (
    N_CHECKED,
    N_CHECKED_BY_TOKENS,
    TOLERANCES,
    Answers,
    CheckPrompt,
    answer_here,
    answer_there,
    check_prompts,
    compare,
)
from weitiao.export.gguf import GgufFacts, read_metadata, write_gguf
from weitiao.export.ollama import template_pieces
from weitiao.export.reload import greedy_answers
from weitiao.model import CheckpointFacts, attach_tuning, hub_id, load_base, load_checkpoint, read_facts, save_checkpoint
from weitiao.pipeline import train_recipe
from weitiao.recipe import Recipe
from weitiao.recipe.sections import (
    AdapterExport,
    Chat,
    FullTuning,
    GgufExport,
    LoraTuning,
    MergedExport,
    Model,
    OllamaExport,
    OpenvinoExport,
)
from weitiao.seams import Sample, text_message
from weitiao.tasks.classification import SYSTEM as CLASSIFICATION_SYSTEM

SYSTEM = "将文本中的name、address提取出来，以json格式输出。"
SAMPLES = [
    Sample(str(i), f"rows.jsonl:{i}", (text_message("system", SYSTEM), text_message("user", text), text_message("assistant", "{}")))
    for i, text in enumerate(sentences(10))
]


def make_run(folder: Path, family: Any, tuning: LoraTuning | FullTuning, *, enable_thinking: bool = False, head_dim: int = 16) -> Path:
    """A run folder with a ``best/`` whose weights differ clearly from the base's."""
    base_path = build_tiny(family, folder / "base", head_dim=head_dim)
    (base_path / "README.md").write_text("---\nlanguage: zh\nlicense: apache-2.0\n---\n# base\n", encoding="utf-8")
    (base_path / "LICENSE").write_text("the licence\n", encoding="utf-8")
    base = load_base(Model(path=str(base_path), dtype="float32", device="cpu"))
    tuned = attach_tuning(base, tuning)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    run = folder / "run"
    run.mkdir()
    facts = CheckpointFacts(
        base="Org/tiny-base",
        base_path=str(base_path),
        revision=None,
        tuning=tuning.model_dump(),
        chat={"enable_thinking": enable_thinking},
        task={"kind": "extraction", "fields": ["name", "address"]},
        system=SYSTEM,
        max_tokens=512,
        max_prompt_tokens=400,
        keep="head",
        dtype="float32",
    )
    save_checkpoint(tuned, chat_template(base.processor, enable_thinking), facts, run / "best")
    scores = {"n": 40, "metrics": {"field_f1": 0.9876}, "intervals": {"field_f1": [0.95, 0.995]}, "length_limited": 0.0, "seconds": 1.0}
    before = {**scores, "metrics": {"field_f1": 0.1234}}
    content = {"baseline": before, "tuned": scores, "gain": {"field_f1": [0.86, 0.8, 0.9]}}
    (run / "scores.json").write_text(json.dumps(content), encoding="utf-8")
    report = {"n_read": 210, "n_kept": 200, "split": {"train": 140, "valid": 20, "test": 40}, "fingerprint": "ab" * 32}
    (run / "data.json").write_text(json.dumps(report), encoding="utf-8")
    (run / "recipe.yaml").write_text("task: {kind: extraction}\n", encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("lora"), "qwen3", LoraTuning(r=4))


@pytest.fixture(scope="module")
def exported(lora_run: Path) -> Any:
    return export_checkpoint(lora_run / "best", [AdapterExport(), MergedExport(dtype="float32")], lora_run, SAMPLES)


@torch.no_grad()
def logits_of(network: Any, token_ids: list[int]) -> torch.Tensor:
    return network(torch.tensor([token_ids])).logits[0, -1]


def test_the_merged_folder_answers_as_the_adapter_does(lora_run: Path, exported: Any) -> None:
    merged = exported[1]
    assert (merged.kind, merged.path) == ("merged", lora_run / "merged")
    assert merged.check["n_prompts"] == 4
    assert merged.check["equal_answers"] == 1.0
    assert merged.check["logit_difference"] < 1e-4
    assert merged.size_bytes > (merged.path / "model.safetensors").stat().st_size > 0
    tuned = load_checkpoint(lora_run / "best", dtype=torch.float32)
    network = AutoModelForCausalLM.from_pretrained(merged.path)
    base = AutoModelForCausalLM.from_pretrained(tuned.path)
    token_ids = make_renderer(tuned.processor, Chat()).prompt(SAMPLES[0].prompt).input_ids
    torch.testing.assert_close(logits_of(network, token_ids), logits_of(tuned.network, token_ids), atol=1e-4, rtol=1e-4)
    assert (logits_of(network, token_ids) - logits_of(base, token_ids)).abs().max() > 0.5


def test_more_prompts_are_compared_where_only_tokens_are_seen(lora_run: Path) -> None:
    tuned = load_checkpoint(lora_run / "best", dtype=torch.float32)
    renderer = make_renderer(tuned.processor, Chat())
    by_logits, by_tokens, short = (len(check_prompts(renderer, SAMPLES * 3, 400, n)) for n in (N_CHECKED, N_CHECKED_BY_TOKENS, 1))
    assert (by_logits, by_tokens, short) == (4, 16, 1)


def test_the_merged_folder_is_complete(exported: Any) -> None:
    folder = exported[1].path
    names = {file.name for file in folder.iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "README.md",
        "LICENSE",
    }
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert settings["eos_token_id"] == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert settings["pad_token_id"] == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert not settings.get("do_sample", False)
    assert not list(folder.parent.glob("*.partial"))


def test_the_exported_template_thinks_as_training_did_without_being_told(exported: Any, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}]
    off = AutoTokenizer.from_pretrained(exported[1].path)
    assert off.apply_chat_template(turns, add_generation_prompt=True, tokenize=False).endswith("assistant\n<think>\n\n</think>\n\n")
    run = make_run(tmp_path, "qwen3", LoraTuning(r=4), enable_thinking=True)
    (artifact,) = export_checkpoint(run / "best", [MergedExport()], run, SAMPLES[:2])
    on = AutoTokenizer.from_pretrained(artifact.path)
    assert on.apply_chat_template(turns, add_generation_prompt=True, tokenize=False).endswith("<|im_start|>assistant\n")


def test_the_card_says_where_the_model_comes_from_and_what_it_can(exported: Any) -> None:
    card = (exported[1].path / "README.md").read_text(encoding="utf-8")
    for line in (
        "license: apache-2.0",
        "base_model: Org/tiny-base",
        "- Fields: name, address",
        "- Thinking mode: off; the chat template here does the same by default",
        f"- System message: {SYSTEM}",
        "| field_f1 | 0.1234 | 0.9876 | 0.9500 to 0.9950 |",
        "200 of 210 rows (140 train, 20 valid, 40 test). Fingerprint (SHA-256): `" + "ab" * 32 + "`",
        "task: {kind: extraction}",
    ):
        assert line in card.splitlines()
    assert "gave the trained model's greedy answers to 100% of 4 held-out prompts" in card


@pytest.mark.parametrize(
    ("task", "n_rows", "means"),
    [
        pytest.param({"kind": "extraction", "fields": ["name"]}, 40, "with generated answers", id="fields"),
        pytest.param({"kind": "classification", "multi_label": False}, 40, "with scored labels", id="one label"),
        pytest.param({"kind": "classification", "multi_label": True}, 40, "with generated answers", id="several labels"),
        pytest.param({"kind": "text"}, 40, "by the likelihood of their texts", id="documents"),
        pytest.param({"kind": "text"}, 0, None, id="no test rows"),
    ],
)
def test_the_card_says_how_its_figures_were_got(task: Any, n_rows: int, means: str | None, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "best").mkdir()
    facts = CheckpointFacts("Org/base", str(tmp_path / "base"), None, {"kind": "full"}, {}, task, None, 64, 64, "head", "float32")
    (tmp_path / "best" / "weitiao.json").write_text(json.dumps(asdict(facts)), encoding="utf-8")
    scores = {"n": n_rows, "metrics": {"accuracy": 0.5} if n_rows else {}, "intervals": {}}
    (tmp_path / "scores.json").write_text(json.dumps({"baseline": scores, "tuned": scores}), encoding="utf-8")
    write_card(tmp_path / "best", tmp_path / "best", tmp_path, kind="merged", check={})
    card = (tmp_path / "best" / "README.md").read_text(encoding="utf-8")
    assert "Made with weitiao from `Org/base`." in card
    assert ("## Evaluation" in card) == (means is not None)
    assert means is None or f"On 40 rows that were not trained on, {means}.\n" in card


def test_the_adapter_folder_is_read_by_plain_peft(lora_run: Path, exported: Any) -> None:
    folder = exported[0].path
    assert folder == lora_run / "adapter"
    tuned = load_checkpoint(lora_run / "best", dtype=torch.float32)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tuned.path), folder).eval()
    token_ids = AutoTokenizer.from_pretrained(folder)("王芳")["input_ids"]
    torch.testing.assert_close(logits_of(plain, token_ids), logits_of(tuned.network, token_ids))
    assert "library_name: peft" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_adapter_folder_answers_in_a_fresh_process_as_the_run_does(exported: Any) -> None:
    adapter = exported[0]
    assert (adapter.check["n_prompts"], adapter.check["equal_answers"]) == (4, 1.0)
    assert adapter.check["logit_difference"] <= adapter.check["tolerance"] == 1e-3
    assert "Read back by plain PEFT on the base model" in (adapter.path / "README.md").read_text(encoding="utf-8")
    settings = [json.loads((artifact.path / "generation_config.json").read_text(encoding="utf-8")) for artifact in exported]
    assert settings[0] == settings[1]


def test_the_adapter_folder_names_its_base_as_a_hub_does(lora_run: Path, exported: Any) -> None:
    folder, base_path = exported[0].path, read_facts(lora_run / "best").base_path
    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("Org/tiny-base", None)
    assert 'from_pretrained("Org/tiny-base")' in (folder / "README.md").read_text(encoding="utf-8")
    assert [file.name for file in folder.rglob("*") if file.is_file() and base_path.encode() in file.read_bytes()] == []
    facts = read_facts(lora_run / "best")
    assert hub_id(replace(facts, base=base_path)) is None
    assert hub_id(replace(facts, base="runs/first", base_path="runs/first/best")) is None


def test_a_checkpoint_says_where_its_answers_end(lora_run: Path) -> None:
    """The base's own settings may lack the end of a turn, and servers read those of the adapter's folder."""
    settings = json.loads((lora_run / "best" / "generation_config.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(lora_run / "best")
    assert set(settings["eos_token_id"]) == set(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    assert not settings.get("do_sample", False)


def test_an_adapter_that_answers_otherwise_is_refused(lora_run: Path, exported: Any, tmp_path: Path) -> None:
    network, prompts = check_with(lora_run)
    base = load_checkpoint(lora_run / "best").path
    folder = Path(shutil.copytree(exported[0].path, tmp_path / "damaged"))
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: weight * 1.05 for name, weight in weights.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(ExportError, match="answer otherwise than the trained model"):
        compare(answer_here(network, prompts), answer_there(folder, prompts, base=base), "float32", folder, prompts)
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ExportError, match="plain PEFT cannot read what was exported"):
        answer_there(folder, [], base=base)


def test_an_adapter_beyond_its_tolerance_is_not_left_behind(lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file read twice differs by nothing, and here even that is too much."""
    monkeypatch.setitem(TOLERANCES, "float32", -1.0)
    with pytest.raises(ExportError, match="answer otherwise than the trained model"):
        export_checkpoint(lora_run / "best", [AdapterExport()], tmp_path, SAMPLES[:1])
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_an_adapters_card_answers_greedily_where_the_base_samples(tmp_path: Path) -> None:
    run = make_run(tmp_path, "qwen2", LoraTuning(r=4))
    settings = tmp_path / "base" / "generation_config.json"
    wild = {**json.loads(settings.read_text(encoding="utf-8")), "do_sample": True, "temperature": 9.0, "top_k": 0}
    settings.write_text(json.dumps(wild), encoding="utf-8")
    (artifact,) = export_checkpoint(run / "best", [AdapterExport()], run, ())
    example = (artifact.path / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {name: getattr(transformers, name) for name in ("AutoTokenizer", "AutoModelForCausalLM", "GenerationConfig")}
    example = example.replace("FOLDER", str(artifact.path)).replace("Org/tiny-base", str(tmp_path / "base"))
    exec(example, names | {"PeftModel": PeftModel}, said := {})
    tuned = load_checkpoint(run / "best", dtype=torch.float32).network
    (expected,), _ = greedy_answers(tuned, said["prompt"]["input_ids"].tolist(), 256)
    assert said["answer"][0, said["prompt"]["input_ids"].shape[1] :].tolist() == expected


def test_the_adapter_of_a_vision_model_says_how_large_pictures_may_be(tiny_qwen2_vl: Path, tmp_path: Path) -> None:
    tuned = attach_tuning(load_base(Model(path=str(tiny_qwen2_vl), dtype="float32", device="cpu")), LoraTuning(r=4))
    images = {"min_pixels": 3136, "max_pixels": 12544}
    facts = CheckpointFacts(
        "tiny", str(tiny_qwen2_vl), None, {"kind": "lora"}, {"images": images}, {"kind": "caption"}, None, 64, 64, "head", "float32", True
    )
    save_checkpoint(tuned, chat_template(tuned.processor.tokenizer, False), facts, tmp_path / "best")
    (artifact,) = export_checkpoint(tmp_path / "best", [AdapterExport()], tmp_path, ())
    limits = AutoImageProcessor.from_pretrained(artifact.path).size
    assert (limits["shortest_edge"], limits["longest_edge"]) == (3136, 12544)


def test_sixteen_bit_files_are_cast_once_and_pass_within_their_tolerance(lora_run: Path) -> None:
    (artifact,) = export_checkpoint(lora_run / "best", [MergedExport(dtype="bfloat16")], lora_run, SAMPLES)
    assert json.loads((artifact.path / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"
    assert 1e-4 < artifact.check["logit_difference"] < artifact.check["tolerance"]
    exact = load_checkpoint(lora_run / "best", dtype=torch.float32).network.merge_and_unload().state_dict()
    stored = AutoModelForCausalLM.from_pretrained(artifact.path).state_dict()
    assert all(torch.equal(stored[name], weight.to(torch.bfloat16)) for name, weight in exact.items())


def test_whole_weights_are_exported_without_an_adapter(tmp_path: Path) -> None:
    run = make_run(tmp_path, "qwen2", FullTuning())
    (artifact,) = export_checkpoint(run / "best", [MergedExport()], run, SAMPLES)
    tuned = load_checkpoint(run / "best", dtype=torch.float32)
    network = AutoModelForCausalLM.from_pretrained(artifact.path)
    assert network.dtype == torch.float32
    assert torch.equal(logits_of(network, [5, 6, 7]), logits_of(tuned.network, [5, 6, 7]))
    with pytest.raises(ExportError, match="every weight was trained, so there is no adapter"):
        export_checkpoint(run / "best", [AdapterExport()], run, SAMPLES)
    assert not (run / "adapter").exists()


def check_with(lora_run: Path) -> tuple[Any, list[CheckPrompt]]:
    tuned = load_checkpoint(lora_run / "best", dtype=torch.float32)
    return tuned.network, check_prompts(make_renderer(tuned.processor, Chat()), SAMPLES, 400)


def test_weights_that_answer_otherwise_are_refused(lora_run: Path, exported: Any) -> None:
    network, prompts = check_with(lora_run)
    damaged = AutoModelForCausalLM.from_pretrained(exported[1].path)
    with torch.no_grad():
        damaged.model.layers[1].mlp.down_proj.weight.mul_(1.05)
    with pytest.raises(ExportError, match="answer otherwise than the trained model"):
        compare(answer_here(network, prompts), answer_here(damaged, prompts), "float32", exported[1].path, prompts)


@pytest.mark.parametrize(("here", "there"), [([7, 2], [7, 2, 5, 5]), ([7, 2, 5, 5], [7, 2])], ids=["stop lost", "stop added"])
def test_answers_that_end_at_other_tokens_are_refused(here: list[int], there: list[int]) -> None:
    logits = torch.linspace(-1, 1, 4 * 9).reshape(1, 4, 9)
    prompts = [CheckPrompt(SAMPLES[0], [1, 2, 3], None)]
    mine, other = Answers([here], logits, [None]), Answers([there], logits, [None])
    with pytest.raises(ExportError, match=r"rows.jsonl:0: the exported settings end an answer at other tokens than the run"):
        compare(mine, other, "float32", Path("merged"), prompts)
    assert compare(mine, mine, "float32", Path("merged"), prompts)["equal_answers"] == 1.0


def test_a_template_that_gives_other_tokens_is_refused(lora_run: Path, exported: Any, tmp_path: Path) -> None:
    network, prompts = check_with(lora_run)
    folder = Path(shutil.copytree(exported[1].path, tmp_path / "damaged"))
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8").replace("not thinking", "thinking"), encoding="utf-8")
    with pytest.raises(ExportError, match="the exported chat template gives other tokens than training used"):
        compare(answer_here(network, prompts), answer_there(folder, prompts), "float32", folder, prompts)


def test_a_folder_that_transformers_cannot_read_is_refused(exported: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported[1].path, tmp_path / "damaged"))
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ExportError, match="plain transformers cannot read what was exported"):
        answer_there(folder, [])


def test_a_failed_export_leaves_the_adapter_and_nothing_half_made(tmp_path: Path) -> None:
    run = make_run(tmp_path, "qwen2", LoraTuning(r=4))
    best = run / "best"
    template = best.parent.parent / "base" / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + "{{ raise_exception('no') }}", encoding="utf-8")
    with pytest.raises(Exception, match="no"):
        export_checkpoint(best, [MergedExport()], run, SAMPLES)
    assert sorted(file.name for file in run.iterdir()) == ["best", "data.json", "recipe.yaml", "scores.json"]


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def family_run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp(request.param), request.param, LoraTuning(r=4))


def tokenizer_family(tokenizer: Any) -> str:
    return "qwen3" if "<think>" in tokenizer.get_vocab() else "qwen2"


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_a_gguf_file_answers_as_the_run_and_says_what_it_is(family_run: Path, dtype: Any) -> None:
    (artifact,) = export_checkpoint(family_run / "best", [GgufExport(dtype=dtype)], family_run, SAMPLES[:4])
    file = artifact.path / f"run-{dtype}.gguf"
    assert artifact.check["n_prompts"] == 4
    assert 0 < artifact.check["logit_difference"] <= {"f16": 1e-2, "q8_0": 2e-1}[dtype] == artifact.check["tolerance"]
    tokenizer = AutoTokenizer.from_pretrained(family_run / "best")
    said = read_metadata(file)
    assert said["general.architecture"] == tokenizer_family(tokenizer)
    assert said["general.license"] == "apache-2.0"
    assert said["tokenizer.ggml.pre"] == "qwen2"
    assert said["tokenizer.ggml.eos_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert said["tokenizer.ggml.eot_token_id"] == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert said["tokenizer.ggml.padding_token_id"] == tokenizer.pad_token_id
    assert said["tokenizer.chat_template"] == tokenizer.chat_template
    assert {path.name for path in artifact.path.iterdir()} == {file.name, "README.md", "LICENSE"}


def test_a_gguf_file_of_other_weights_fails_its_check(lora_run: Path) -> None:
    tuned = load_checkpoint(lora_run / "best", dtype=torch.float32)
    prompts = check_prompts(make_renderer(tuned.processor, Chat()), SAMPLES[:2], 400)
    expected = answer_here(tuned.network, prompts)
    (artifact,) = export_checkpoint(lora_run / "best", [GgufExport(dtype="f16")], lora_run, ())
    base = load_checkpoint(lora_run / "best", dtype=torch.float32, adapter=False)
    facts = GgufFacts("run", None, "base", "{{ messages }}", (1, 0), 0)
    wrong = artifact.path / "wrong.gguf"
    write_gguf(base.network, base.processor, facts, "f16", wrong)
    with pytest.raises(ExportError, match="the exported chat template gives other tokens"):
        compare(expected, answer_there(wrong, prompts, tokenizer=lora_run / "best"), "f16", wrong, prompts)
    write_gguf(base.network, base.processor, replace(facts, chat_template=chat_template(tuned.processor, False)), "f16", wrong)
    with pytest.raises(ExportError, match="answer otherwise than the trained model"):
        compare(expected, answer_there(wrong, prompts, tokenizer=lora_run / "best"), "f16", wrong, prompts)


def test_an_ollama_folder_holds_template_system_text_and_stops(family_run: Path) -> None:
    (artifact,) = export_checkpoint(family_run / "best", [OllamaExport(dtype="f16")], family_run, SAMPLES[:2])
    thought = "<think>\n\n</think>\n\n" if tokenizer_family(AutoTokenizer.from_pretrained(family_run / "best")) == "qwen3" else ""
    assert (artifact.path / "Modelfile").read_text(encoding="utf-8") == (
        "FROM ./model-f16.gguf\n"
        'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        f'{{{{ else if eq .Role "assistant" }}}}<|im_start|>assistant\n{thought}{{{{ .Content }}}}<|im_end|>\n'
        f'{{{{ end }}}}{{{{ end }}}}<|im_start|>assistant\n{thought}"""\n'
        f'SYSTEM """{SYSTEM}"""\n'
        'PARAMETER stop "<|im_end|>"\nPARAMETER stop "<|endoftext|>"\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1\n'
        "PARAMETER num_predict 256\nPARAMETER num_ctx 656\nLICENSE apache-2.0\n"
    )
    assert (artifact.path / "model-f16.gguf").stat().st_size > 0


def text_row(text: str, **more: Any) -> dict[str, Any]:
    return {"instruction": text, "input": "", "output": '{"name": "王芳"}', **more}


def label_row(text: str) -> dict[str, Any]:
    return {"text": text, "category": ["体育", "财经"], "output": "体育"}


def chat_row(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "hi"}]}


def shared_row(text: str) -> dict[str, Any]:
    return text_row(text, system="取出姓名")


EXTRACTION = {"kind": "extraction", "fields": ["name"]}
OWN_WORDING = "将文本中的name提取出来，以json格式输出，字段为name，值为文本中提取出来的内容。"


@pytest.mark.parametrize(
    ("task", "row", "wanted"),
    [
        pytest.param(EXTRACTION, text_row, OWN_WORDING, id="the task's own"),
        pytest.param(EXTRACTION, shared_row, "取出姓名", id="what all rows bring"),
        pytest.param({"kind": "classification"}, label_row, CLASSIFICATION_SYSTEM, id="labels"),
        pytest.param({"kind": "chat"}, chat_row, None, id="chat"),
    ],
)
def test_a_run_without_a_system_setting_exports_the_message_it_was_trained_with(
    task: Any, row: Any, wanted: str | None, tiny_qwen2: Path, tmp_path: Path
) -> None:
    rows = [row(f"{text} {i} 王芳") for i, text in enumerate(sentences(8))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    recipe = Recipe.model_validate(
        {
            "task": task,
            "data": {"train": {"path": str(tmp_path / "rows.jsonl")}, "split": {"valid": 0, "test": 0}},
            "model": {"path": str(tiny_qwen2)},
            "train": {"max_steps": 1, "batch_rows": 4},
            "evaluate": {"n_suspects": 0},
            "track": {"kind": "none"},
        }
    )
    best = train_recipe(recipe, tmp_path / "run").checkpoint
    assert read_facts(best).system == wanted
    (artifact,) = export_checkpoint(best, [OllamaExport(dtype="f16")], tmp_path / "run", ())
    assert f'\nSYSTEM """{wanted or DEFAULT_SYSTEM}"""\n' in (artifact.path / "Modelfile").read_text(encoding="utf-8")
    said = [line for line in (artifact.path / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("- System message")]
    assert said == ([f"- System message: {wanted}"] if wanted else [])


def test_a_template_that_depends_on_what_follows_has_no_modelfile() -> None:
    def render(turns: Any) -> str:
        return "".join(f"[{turn['role']} of {len(turns)}]{turn['content']}<end>\n" for turn in turns) + "[assistant]"

    with pytest.raises(ExportError, match="does not write each turn by itself"):
        template_pieces(render, "<end>")


def test_openvino_says_how_to_get_its_converter(lora_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEITIAO_CACHE", str(tmp_path))
    with pytest.raises(ExportError, match="optimum-intel is not installed") as raised:
        export_checkpoint(lora_run / "best", [OpenvinoExport()], lora_run, SAMPLES[:1])
    assert f'{tmp_path}/engines/openvino/bin/pip install "optimum-intel[openvino]==2.2.0" "openvino-genai"' in raised.value.hint


@pytest.mark.parametrize(
    ("texts", "stop_ids", "message"),
    [
        pytest.param(["<|im_start|>user\nhi"], [], "the exported chat template gives another text than training used", id="template"),
        pytest.param([None], [7], r"the exported settings end answers at tokens \[7\], the run at \[\d+, \d+\]", id="stops"),
    ],
)
def test_openvino_that_renders_or_ends_otherwise_is_not_left_behind(
    texts: Any, stop_ids: Any, message: str, lora_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The engine's environment stands in the cache; this one's programs write what such an engine would."""
    monkeypatch.setenv("WEITIAO_CACHE", str(tmp_path / "cache"))
    programs, run = tmp_path / "cache" / "engines" / "openvino" / "bin", tmp_path / "run"
    programs.mkdir(parents=True)
    run.mkdir()
    answer = json.dumps({"tokens": [[5]], "texts": texts, "stop_ids": stop_ids})
    for name, does in {"optimum-cli": f"mkdir {run}/openvino.partial", "python": f"cat > $5 <<'END'\n{answer}\nEND"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    with pytest.raises(ExportError, match=message):
        export_checkpoint(lora_run / "best", [OpenvinoExport()], run, SAMPLES[:1])
    assert list(run.iterdir()) == []
