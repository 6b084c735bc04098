"""Files of rows answered: every row once, whatever kills the process, whatever the rows are like."""

import json
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weitiao.chat import make_renderer
from weitiao.errors import CommandError, EngineError, Problems
from weitiao.infer import make_engine
from weitiao.model import load_base
from weitiao.predict import predict_file
from weitiao.predict.confidence import calibrated
from weitiao.predict.files import appending
from weitiao.predict.keys import Keys, UniqueIds
from weitiao.recipe import Recipe
from weitiao.recipe.sections import Chat, Model
from weitiao.seams import Answer
from weitiao.tasks import make_task

EXTRACTION = {
    "task": {"kind": "extraction", "fields": ["name", "email"]},
    "data": {"train": {"path": "unused.jsonl"}},
    "model": {"path": "unused"},
    "evaluate": {"max_new_tokens": 6, "batch_size": 8, "constrained": False},
}
LABELS = {**EXTRACTION, "task": {"kind": "classification", "labels": ["体育", "财经"]}}


class Echo:
    """An engine that answers with the prompt's last characters and counts what it was asked; refuses texts with ``refuse``."""

    def __init__(self, confidence: float = 0.9) -> None:
        self.asked: list[str] = []
        self.confidence = confidence

    def generate(self, samples: Any, sampling: Any, constraint: Any = None) -> Iterator[tuple[int, Answer]]:  # noqa: ARG002
        for sample in samples:
            if "refuse" in sample.messages[-1].text:
                raise EngineError("the prompt has 9 tokens and the model has 8 positions", where=sample.origin)
        for i, sample in reversed(list(enumerate(samples))):
            self.asked.append(sample.id)
            yield i, Answer(json.dumps({"name": sample.messages[-1].text[-3:], "email": None}), 3, 2, "stop")

    def score_labels(self, samples: Any, labels: Any) -> Iterator[tuple[int, Answer]]:
        for i, sample in enumerate(samples):
            self.asked.append(sample.id)
            first, second = labels(sample)
            p = self.confidence if "sure" in sample.messages[-1].text else 0.6
            yield i, Answer(first, 3, 1, "stop", {first: p, second: 1 - p})

    def likelihood(self, samples: Any) -> Iterator[tuple[int, Answer]]:
        if samples is not None:
            raise EngineError("no likelihood here")
        yield 0, Answer("", 0, 0, "stop")


def answer(source: Path, output: Path, engine: Any = None, content: Any = EXTRACTION, **more: Any) -> Any:
    recipe = Recipe.model_validate(content)
    return predict_file(engine or Echo(), make_task(recipe.task, None), recipe, source, output, **more)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write(path: Path, texts: list[Any]) -> Path:
    path.write_text("".join((t if t.startswith("{") else json.dumps({"text": t})) + "\n" for t in texts), encoding="utf-8")
    return path


def test_every_row_is_answered_once_and_equal_prompts_are_asked_once(tmp_path: Path) -> None:
    engine = Echo()
    source = write(tmp_path / "in.jsonl", ["aaa", "bbb", "aaa", '{"id": "own", "text": "aaa"}', "ccc"])
    done = answer(source, tmp_path / "out.jsonl", engine)
    assert (done.n_answered, done.n_already, done.n_rejected, done.rejected) == (5, 0, 0, None)
    found = {row["origin"]: (row["id"], row["prediction"]) for row in rows(tmp_path / "out.jsonl")}
    assert [found[f"in.jsonl:{i}"][1]["name"] for i in (1, 2, 3, 4, 5)] == ["aaa", "bbb", "aaa", "aaa", "ccc"]
    assert found["in.jsonl:3"][0] == found["in.jsonl:1"][0] + "#2"
    assert found["in.jsonl:4"][0] == "own"
    assert len(engine.asked) == 3


def test_an_output_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ["aaa"])
    (tmp_path / "folder.jsonl").mkdir()
    for output, said in ((tmp_path / "folder.jsonl", "Is a directory"), (source / "out.jsonl", "Not a directory")):
        with pytest.raises(CommandError) as caught:
            answer(source, output)
        assert str(caught.value).splitlines() == [
            f"{output}: cannot write ({said})",
            "  look at the folder's permissions, or name another place with -o",
        ]
    with pytest.raises(CommandError, match="cannot write"), appending(source / "deep" / "out.jsonl"):
        pass


def test_a_second_call_asks_for_new_rows_only(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", ["aaa", "bbb", "aaa"]), tmp_path / "out.jsonl"
    answer(source, output)
    with output.open("a", encoding="utf-8") as file:
        file.write('{"id": "torn by a cr')
    write(source, ["aaa", "bbb", "aaa", "ddd"])
    engine = Echo()
    done = answer(source, output, engine)
    assert (done.n_answered, done.n_already) == (1, 3)
    assert len(rows(output)) == 4
    assert len(engine.asked) == 1


def test_rows_that_cannot_be_used_are_listed_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ["aaa", '{"text": ', '{"text": ""}', "refuse me", "bbb"])
    for expected in (2, 0):
        done = answer(source, tmp_path / "out.jsonl")
        assert (done.n_answered, done.n_rejected) == (expected, 3)
    listed = {row["origin"]: row["reason"] for row in rows(tmp_path / "rejected.jsonl")}
    assert len(rows(tmp_path / "rejected.jsonl")) == 3
    assert set(listed) == {"in.jsonl:2", "in.jsonl:3", "in.jsonl:4"}
    assert listed["in.jsonl:2"].startswith("not JSON")
    assert listed["in.jsonl:4"] == "the prompt has 9 tokens and the model has 8 positions"


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Problems, match="1 of 1 rows cannot be used"):
        answer(write(tmp_path / "in.jsonl", ['{"text": ""}']), tmp_path / "out.jsonl")


def test_csv_and_parquet_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id,text\n1,aaa\n2,"b,\nb"\n', encoding="utf-8")
    pq.write_table(pa.table({"id": ["1", "2"], "text": ["aaa", "b,\nb"]}), tmp_path / "in.parquet")
    found = []
    for ending in ("csv", "parquet"):
        answer(tmp_path / f"in.{ending}", tmp_path / f"{ending}.jsonl")
        found.append({row["id"]: row["prediction"]["name"] for row in rows(tmp_path / f"{ending}.jsonl")})
    assert found == [{"1": "aaa", "2": ",\nb"}] * 2


def test_a_folder_of_images_is_a_row_per_image(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name, colour in (("b.png", "red"), ("a.jpg", "blue"), ("more/c.png", "green")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    (tmp_path / "photos" / "README.md").write_text("photos of mine", encoding="utf-8")
    content = {**EXTRACTION, "task": {"kind": "ocr"}, "data": {"train": {"path": "x"}, "columns": {"image": "file", "answer": "latex"}}}
    done = answer(tmp_path / "photos", tmp_path / "out.jsonl", content=content)
    assert (done.n_answered, done.n_rejected) == (3, 1)
    assert sorted(row["id"] for row in rows(tmp_path / "out.jsonl")) == ["a.jpg", "b.png", "more/c.png"]
    assert rows(tmp_path / "rejected.jsonl")[0]["reason"] == "the image cannot be read"


def test_unsure_labels_go_to_people_with_what_they_need(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ["I am sure", "hm"])
    done = answer(source, tmp_path / "out.jsonl", content=LABELS, min_confidence=0.8)
    assert (done.n_answered, done.n_unsure, done.unsure) == (1, 1, tmp_path / "out.unsure.jsonl")
    (sure,), (unsure,) = rows(tmp_path / "out.jsonl"), rows(tmp_path / "out.unsure.jsonl")
    assert (sure["prediction"], sure["confidence"]) == ("体育", 0.9)
    assert (unsure["confidence"], unsure["candidates"]) == (0.6, ["体育", "财经"])
    assert "hm" in unsure["prompt"]
    assert answer(source, tmp_path / "out.jsonl", content=LABELS, min_confidence=0.8).n_already == 2


def test_label_probabilities_are_calibrated(tmp_path: Path) -> None:
    assert calibrated({"a": 0.8, "b": 0.2}, 2.0) == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    source = write(tmp_path / "in.jsonl", ["I am sure"])
    answer(source, tmp_path / "out.jsonl", Echo(0.8), content=LABELS, temperature=2.0, min_confidence=0.7)
    assert rows(tmp_path / "out.unsure.jsonl")[0]["probabilities"] == pytest.approx({"体育": 2 / 3, "财经": 1 / 3})


def test_an_engine_without_likelihoods_cannot_tell_how_sure_it_is(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ["aaa"])
    with pytest.raises(EngineError, match="--min-confidence: this engine does not tell"):
        answer(source, tmp_path / "out.jsonl", min_confidence=0.9)
    assert not (tmp_path / "out.jsonl").exists()


def test_labels_without_probabilities_cannot_be_told_apart(tmp_path: Path) -> None:
    class Silent(Echo):
        def score_labels(self, samples: Any, labels: Any) -> Iterator[tuple[int, Answer]]:
            for i, answered in super().score_labels(samples, labels):
                yield i, Answer(answered.text, 3, 1, "stop")

    source = write(tmp_path / "in.jsonl", ["aaa"])
    with pytest.raises(EngineError, match="tells no probabilities of labels"):
        answer(source, tmp_path / "out.jsonl", Silent(), content=LABELS, min_confidence=0.9)
    assert answer(source, tmp_path / "out.jsonl", Silent(), content=LABELS).n_answered == 1


MINE = '{"id": "1", "text": "mine"}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("out.csv", ""),
        ("rejected.jsonl", ""),
        ("out.jsonl", "no json\n"),
        ("out.jsonl", "no json"),
        ("out.jsonl", MINE + "\n"),
        ("out.jsonl", MINE),
        ("out.jsonl", f"{MINE}\n{MINE}"),
    ],
)
def test_an_output_that_is_something_else_is_left_alone(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CommandError, match="name"):
        answer(write(tmp_path / "in.jsonl", ["aaa"]), tmp_path / name)
    assert (tmp_path / name).read_text(encoding="utf-8") == content


def test_rows_are_not_answered_into_their_own_file(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ["aaa"])
    (tmp_path / "x").mkdir()
    with pytest.raises(CommandError, match="the file whose rows are to be answered"):
        answer(source, tmp_path / "x" / ".." / "in.jsonl")
    assert source.read_text(encoding="utf-8") == '{"text": "aaa"}\n'


@pytest.mark.parametrize("n_kept", [1, 5, 40, -1])
def test_half_a_row_is_cut_off_wherever_it_ends(tmp_path: Path, n_kept: int) -> None:
    source, output = write(tmp_path / "in.jsonl", ["aaa", "bbb"]), tmp_path / "out.jsonl"
    answer(source, output)
    whole = output.read_bytes()
    first, second = whole.splitlines(keepends=True)
    output.write_bytes(first + second[:n_kept])
    assert answer(source, output).n_answered == 1
    assert output.read_bytes() == whole


def test_an_id_that_another_text_or_model_was_answered_under_is_refused_not_passed_over(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    answer(write(source, ['{"id": "1", "text": "aaa"}']), output, identity="a")
    assert answer(source, output, identity="a").n_already == 1
    with pytest.raises(
        CommandError, match=r"in.jsonl:1: .*out.jsonl holds an answer under the id '1' of this row that was given to another"
    ):
        answer(source, output, identity="b")
    with pytest.raises(CommandError, match="name another output with -o"):
        answer(write(source, ['{"id": "1", "text": "bbb"}']), output, identity="a")


def test_a_picture_replaced_under_its_name_is_refused_not_passed_over(tmp_path: Path) -> None:
    from PIL import Image

    content = {**EXTRACTION, "task": {"kind": "ocr"}, "data": {"train": {"path": "x"}, "columns": {"image": "file", "answer": "latex"}}}
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "photos" / "a.png")
    answer(tmp_path / "photos", tmp_path / "out.jsonl", content=content)
    assert answer(tmp_path / "photos", tmp_path / "out.jsonl", content=content).n_already == 1
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "photos" / "a.png")
    with pytest.raises(CommandError, match=r"holds an answer under the id 'a.png' of this row that was given to another"):
        answer(tmp_path / "photos", tmp_path / "out.jsonl", content=content)


def test_rows_sorted_by_another_confidence_are_refused_not_left_in_the_wrong_file(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", ["I am sure", "hm"]), tmp_path / "out.jsonl"
    answer(source, output, content=LABELS, min_confidence=0.8)
    for other, file in ((None, "out.unsure.jsonl"), (0.5, "out.unsure.jsonl"), (0.99, "out.jsonl")):
        with pytest.raises(CommandError, match=rf"{file}: its row with the id '.*' was sorted by another --min-confidence"):
            answer(source, output, content=LABELS, min_confidence=other)
    assert answer(source, output, content=LABELS, min_confidence=0.8).n_already == 2


def test_rows_that_an_engine_refuses_together_are_all_rejected_and_the_others_not_asked_again(tmp_path: Path) -> None:
    class Strict(Echo):
        def generate(self, samples: Any, sampling: Any, constraint: Any = None) -> Iterator[tuple[int, Answer]]:  # noqa: ARG002
            fine = [(i, sample) for i, sample in enumerate(samples) if "bad" not in sample.messages[-1].text]
            self.asked += [sample.id for _, sample in fine]
            yield from ((i, Answer("{}", 1, 1, "stop")) for i, _ in fine)
            raise Problems([EngineError("no", where=s.origin) for s in samples if "bad" in s.messages[-1].text], what="2 rows are refused:")

    engine = Strict()
    done = answer(write(tmp_path / "in.jsonl", ["aaa", "bad 1", "bbb", "bad 2"]), tmp_path / "out.jsonl", engine)
    assert (done.n_answered, done.n_rejected, len(engine.asked)) == (2, 2, 2)
    assert [row["origin"] for row in rows(tmp_path / "rejected.jsonl")] == ["in.jsonl:2", "in.jsonl:4"]


def test_a_wide_window_asks_for_confidences_in_wide_groups(tmp_path: Path) -> None:
    class Sure(Echo):
        sizes: ClassVar[list[int]] = []

        def likelihood(self, samples: Any) -> Iterator[tuple[int, Answer]]:
            self.sizes += [len(samples)] if samples else []
            yield from ((i, Answer("", 1, 0, "stop", nll=0.1, n_scored_tokens=1)) for i in range(len(samples)))

    source = write(tmp_path / "in.jsonl", [f"{i}" for i in range(300)])
    answer(source, tmp_path / "out.jsonl", Sure(), min_confidence=0.5, window=2400)
    assert Sure.sizes == [150, 150]


def test_two_processes_do_not_write_the_same_answers(tmp_path: Path) -> None:
    class Nested(Echo):
        def generate(self, samples: Any, sampling: Any, constraint: Any = None) -> Iterator[tuple[int, Answer]]:
            with pytest.raises(CommandError, match="another process writes answers to it"):
                answer(tmp_path / "in.jsonl", tmp_path / "x" / ".." / "out.jsonl")
            return super().generate(samples, sampling, constraint)

    write(tmp_path / "in.jsonl", ["aaa"])
    assert answer(tmp_path / "in.jsonl", tmp_path / "out.jsonl", Nested()).n_answered == 1


def test_ids_are_remembered_in_a_few_bytes_each() -> None:
    n = 70_000
    tracemalloc.start()
    keys = Keys()
    assert all(keys.add(f"row-{i}") for i in range(n))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 30 * n
    assert len(keys) == n
    assert "row-77" in keys
    assert f"row-{n}" not in keys
    assert not keys.add("row-69999")


def test_repeated_ids_are_numbered_the_same_way_every_time() -> None:
    names = ["a", "b", "a", "a#2", "a", "b"]
    expected = ["a", "b", "a#2", "a#2#2", "a#3", "b#2"]
    for _ in range(2):
        ids = UniqueIds()
        assert [ids.of(name) for name in names] == expected


def test_generated_answers_below_a_confidence_are_set_apart(tiny_qwen3: Path, tmp_path: Path) -> None:
    loaded = load_base(Model(path=str(tiny_qwen3), dtype="float32", device="cpu"))
    engine = make_engine(loaded, make_renderer(loaded.processor, Chat()), 4)
    source = write(tmp_path / "in.jsonl", ["李伟 a@example.com", "北京市"])
    all_sure = answer(source, tmp_path / "all.jsonl", engine, min_confidence=0.0)
    none_sure = answer(source, tmp_path / "none.jsonl", engine, min_confidence=1.0)
    assert (all_sure.n_answered, all_sure.n_unsure, none_sure.n_answered, none_sure.n_unsure) == (2, 0, 0, 2)
    assert all(0 < row["confidence"] < 1 for row in rows(tmp_path / "all.jsonl"))


KILLED = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from tests.unit.test_predict import EXTRACTION, answer
from weitiao.chat import make_renderer
from weitiao.infer import make_engine
from weitiao.model import load_base
from weitiao.recipe.sections import Chat, Model

base, source, output, seed = sys.argv[1:]
loaded = load_base(Model(path=base, dtype="float32", device="cpu"))
engine = make_engine(loaded, make_renderer(loaded.processor, Chat()), 8)
lengths, rng = [], random.Random(int(seed))
while True:
    child = os.fork()
    if child == 0:
        from pathlib import Path
        answer(Path(source), Path(output), engine)
        os._exit(0)
    deadline = time.monotonic() + (rng.uniform(0.05, 1.5) if len(lengths) < 6 else 600)
    done, status = 0, 0
    while not done and time.monotonic() < deadline:
        time.sleep(0.01)
        done, status = os.waitpid(child, os.WNOHANG)
    if done:
        assert status == 0, status
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lengths.append(open(output, "rb").read().count(b"\\n") if os.path.exists(output) else 0)
print(lengths)
"""
"""Answers a file in child processes that are killed at random moments, then in one that may finish."""


def test_a_killed_process_loses_nothing_and_a_rerun_leaves_no_gap(tiny_qwen3: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    texts = [f"row {i}: {'王李张刘'[i % 4] * rng.randrange(1, 40)}" for i in range(160)] + ["twice"] * 3 + ["{broken"]
    source, output = write(tmp_path / "in.jsonl", texts), tmp_path / "out.jsonl"
    command = [sys.executable, "-c", KILLED, str(tiny_qwen3), str(source), str(output), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    lengths = json.loads(done.stdout)
    assert lengths == sorted(lengths)
    found = rows(output)
    assert sorted(row["origin"] for row in found) == sorted(f"in.jsonl:{i + 1}" for i in range(163))
    assert len({row["id"] for row in found}) == 163
    assert [row["origin"] for row in rows(tmp_path / "rejected.jsonl")] == ["in.jsonl:164"]
