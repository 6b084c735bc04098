"""Formulas to LaTeX and photos to captions, from their recipes to the report, on a tiny random vision model; their usual faults, mended."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from weitiao import data, tasks
from weitiao.chat import make_renderer
from weitiao.demo import write_formulas, write_scenes
from weitiao.model import load_processor
from weitiao.pipeline import run_recipe
from weitiao.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PROMPT = "你是一个LaText OCR助手,目标是读取用户输入的照片，转换成LaTex公式。"
QUICK = ("train.num_train_epochs=2", "train.batch_rows=4", "evaluate.max_new_tokens=6", "evaluate.n_valid=2", "track={kind: none}")
SPLIT = "data.split={valid: 0.2, test: 0.3}"


def run(recipe: str, rows: Path, base: Path, folder: Path, *overrides: str) -> Path:
    words = (f"data.train.path={rows}", f"model.path={base}", SPLIT, *QUICK, *overrides)
    return run_recipe(load_recipe(RECIPES / recipe, words), folder).path


@pytest.fixture(scope="module")
def formulas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_formulas(tmp_path_factory.mktemp("formulas"), 14, 3, levels=(1,)).parent


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 14, 3).parent


@pytest.fixture(scope="module")
def ocr_run(formulas: Path, tiny_qwen2_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("latex-ocr.yaml", formulas, tiny_qwen2_vl, tmp_path_factory.mktemp("ocr") / "run")


@pytest.fixture(scope="module")
def caption_run(scenes: Path, tiny_qwen2_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("coco-caption.yaml", scenes, tiny_qwen2_vl, tmp_path_factory.mktemp("caption") / "run", "chat.images.size=[84, 84]")


def answers(path: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / name / "answers.jsonl").read_text("utf-8").splitlines()]


# ---- the whole path ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "metrics"), [("ocr_run", {"exact_match", "cer", "bleu"}), ("caption_run", {"bleu4", "rouge_l", "cider"})])
def test_a_run_has_scores_of_base_and_tuned_model(kind: str, metrics: set[str], request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    for name in ("baseline", "tuned"):
        scores = json.loads((path / name / "scores.json").read_text("utf-8"))
        assert set(scores["metrics"]) == metrics == set(scores["intervals"])
        assert scores["n"] == len(answers(path, name)) >= 3
        assert all(Path(row["images"][0]).is_file() for row in answers(path, name))


def test_the_report_shows_pictures_truth_and_both_answers(ocr_run: Path) -> None:
    page = (ocr_run / "report.html").read_text("utf-8")
    shown = answers(ocr_run, "tuned")
    assert page.count('<div class="picture"><img src="data:image/') >= len(shown)
    assert page.count('<img class="formula" src="data:image/png;base64,') >= len(shown)
    assert "http" not in page.split("<body")[1].replace("http://www.w3.org", "")


@pytest.mark.parametrize(("kind", "metric"), [("ocr_run", "cer"), ("caption_run", "cider")])
def test_the_best_checkpoint_is_chosen_on_validation_rows(kind: str, metric: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    facts = json.loads((path / "run.json").read_text("utf-8"))["training"]
    measured = [json.loads(line) for line in (path / "evaluations.jsonl").read_text("utf-8").splitlines()]
    assert facts["select_by"] == metric
    assert len(measured) == 2
    assert facts["best_step"] in {row["step"] for row in measured}


FRESH = """
import json, sys
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

run, base, picture = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(f"{run}/merged")
pictures = Qwen2VLImageProcessorPil.from_pretrained(f"{run}/merged")
seen = pictures([Image.open(picture).convert("RGB").resize((84, 84), Image.BICUBIC)], return_tensors="pt", do_resize=False)
turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "COCO Yes:"}]}]
text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
n_places = int(seen["image_grid_thw"].prod()) // 4
ids = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * n_places), return_tensors="pt").input_ids
kinds = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).long()
said = []
for network in (
    AutoModelForImageTextToText.from_pretrained(f"{run}/merged", dtype=torch.float32),
    PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32), f"{run}/best"),
):
    out = network.eval().generate(
        input_ids=ids, mm_token_type_ids=kinds, **seen, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    said.append((out.sequences[0, ids.shape[1]:].tolist(), torch.cat(out.logits)))
same = torch.allclose(said[0][1], said[1][1], atol=1e-3)
print(json.dumps({"merged": tokenizer.decode(said[0][0], skip_special_tokens=True), "ids": [ids_ for ids_, _ in said], "same": same}))
"""


def test_adapter_and_merged_weights_answer_alike_in_a_fresh_process(caption_run: Path, tiny_qwen2_vl: Path) -> None:
    first = answers(caption_run, "tuned")[0]
    command = [sys.executable, "-c", FRESH, str(caption_run), str(tiny_qwen2_vl), first["images"][0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["ids"][0] == seen["ids"][1]
    assert seen["same"]
    assert seen["merged"].strip() == first["answer"].strip()


def test_what_the_run_did_with_pictures_travels_with_its_weights(ocr_run: Path, caption_run: Path) -> None:
    def limits(run: Path) -> list[int]:
        size = json.loads((run / "merged" / "preprocessor_config.json").read_text("utf-8"))["size"]
        return [size["shortest_edge"], size["longest_edge"]]

    assert limits(ocr_run) == [3136, 589824]
    assert limits(caption_run) == [84 * 84, 84 * 84]
    card = (ocr_run / "merged" / "README.md").read_text("utf-8")
    assert "pipeline_tag: image-text-to-text" in card
    assert "proportions kept, 3136 to 589824 pixels, transparent parts over white" in card
    assert "AutoModelForImageTextToText" in card
    assert "brought to 84 x 84 pixels" in (caption_run / "merged" / "README.md").read_text("utf-8")


# ---- inputs -----------------------------------------------------------------------------------------------------------


def load(path: Path, recipe: str = "latex-ocr.yaml", *overrides: str) -> Any:
    read = load_recipe(RECIPES / recipe, (f"data.train.path={path}", *overrides))
    return data.load_samples(read.data, tasks.make_task(read.task, read.data.system), 42)


def test_the_tutorials_table_and_both_json_forms_give_the_same_conversations(formulas: Path) -> None:
    rows = [json.loads(line) for line in (formulas / "rows.jsonl").read_text("utf-8").splitlines()]
    folder = formulas
    with (folder / "latex_ocr_train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", "text"])
        writer.writerows([row["image"], row["latex"]] for row in rows)

    def talk(who: str, i: int, row: dict[str, str], picture: str) -> dict[str, Any]:
        turns = [{who: "user", "value": picture}, {who: "assistant", "value": row["latex"]}]
        return {"id": f"identity_{i + 1}", "conversations": turns}

    plain = [talk("role", i, row, row["image"]) for i, row in enumerate(rows)]
    spans = [talk("from", i, row, f"{PROMPT} <|vision_start|>{row['image']}<|vision_end|>") for i, row in enumerate(rows)]
    (folder / "plain.json").write_text(json.dumps(plain), "utf-8")
    (folder / "spans.json").write_text(json.dumps(spans, ensure_ascii=False), "utf-8")
    found = []
    for name in ("rows.jsonl", "latex_ocr_train.csv", "plain.json", "spans.json"):
        samples = load(folder / name)
        assert samples.report.n_kept == len(rows)
        found.append(sorted(str(s.messages) for part in (samples.train, samples.valid, samples.test) for s in part))
    for name in ("latex_ocr_train.csv", "plain.json", "spans.json"):
        (folder / name).unlink()
    assert found[0] == found[1] == found[2] == found[3]
    assert PROMPT in found[0][0]


def test_captions_one_to_a_row_keep_a_photo_in_one_part(scenes: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (scenes / "rows.jsonl").read_text("utf-8").splitlines()]
    table = tmp_path / "captions.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", "caption"])
        writer.writerows([str(scenes / row["image"]), caption] for row in rows for caption in row["captions"])
    samples = load(table, "coco-caption.yaml", SPLIT)
    assert samples.report.n_kept == 5 * len(rows)
    photos = [{str(sample.messages[0].parts[0].image) for sample in part} for part in (samples.train, samples.valid, samples.test)]
    assert sum(map(len, photos)) == len(set.union(*photos)) == len(rows)
    assert all(len(sample.reference) == 1 for sample in samples.train)


def test_bad_pictures_are_listed_with_their_reason_and_the_rest_goes_on(formulas: Path, tmp_path: Path) -> None:
    good = (formulas / "images" / "00000.png").read_bytes()
    for name, content in {"cut.png": good[: len(good) // 2], "empty.png": b"", "text.png": b"no picture", "good.png": good}.items():
        (tmp_path / name).write_bytes(content)
    names = ["good.png", "cut.png", "empty.png", "text.png", "gone.png"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"image": name, "latex": "x"}) + "\n" for name in names), "utf-8")
    report = load(tmp_path / "rows.jsonl", "latex-ocr.yaml", "data.allow_dropped=0.9", "data.split={valid: 0, test: 0}").report
    assert (report.n_read, report.n_kept) == (5, 1)
    named = " ".join(line for lines in report.rejected_examples.values() for line in lines)
    assert all(f"rows.jsonl:{i}" in named for i in (2, 3, 4, 5))


# ---- what the model sees ----------------------------------------------------------------------------------------------


def test_training_and_prediction_see_the_same_pictures(caption_run: Path) -> None:
    recipe = load_recipe(caption_run / "recipe.yaml")
    samples = data.load_samples(recipe.data, tasks.make_task(recipe.task, recipe.data.system), recipe.run.seed)
    renderer = make_renderer(load_processor(recipe.model), recipe.chat)
    for sample in samples.test:
        trained, asked = renderer.conversation(sample.messages), renderer.prompt(sample.prompt)
        assert trained.input_ids[: len(asked.input_ids)] == asked.input_ids
        assert trained.pictures == asked.pictures
        assert [(picture.height, picture.width) for picture in asked.pictures] == [(84, 84)]


def test_the_answer_ends_with_the_turns_own_token(ocr_run: Path) -> None:
    recipe = load_recipe(ocr_run / "recipe.yaml")
    processor = load_processor(recipe.model)
    samples = data.load_samples(recipe.data, tasks.make_task(recipe.task, recipe.data.system), recipe.run.seed)
    renderer = make_renderer(processor, recipe.chat)
    rendered = renderer.conversation(samples.train[0].messages)
    trained = [token for token, on in zip(rendered.input_ids, rendered.trained, strict=True) if on]
    assert renderer.text(trained) == f"{samples.train[0].reference}<|im_end|>"
    assert trained[-1] != renderer.pad_token_id


def test_only_the_language_model_gets_an_adapter(ocr_run: Path) -> None:
    from safetensors.torch import load_file

    names = list(load_file(ocr_run / "best" / "adapter_model.safetensors"))
    assert names
    assert all("language_model" in name and "visual" not in name for name in names)
    assert all(torch.is_tensor(value) for value in load_file(ocr_run / "best" / "adapter_model.safetensors").values())
