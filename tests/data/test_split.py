"""Splits: by content, by group, alike for every label, and never with the same thing on both sides."""

import random

import numpy as np
import pytest
from tests.data.rows import findings, load, write

from weitiao.data.split import TEST, TRAIN, VALID, assign_parts, group_rows
from weitiao.errors import DataError

LABELS = ["a", "b", "c", "d"]


def rows_of(n, *, seed=0):
    draw = random.Random(seed)
    return [
        {"id": str(i), "text": f"text {i} " + "".join(draw.choices("abcdefghijklmnopqrstuvwxyz ", k=40)), "label": LABELS[i % 4]}
        for i in range(n)
    ]


def parts_of(samples):
    return {
        **{sample.id: "train" for sample in samples.train},
        **{sample.id: "valid" for sample in samples.valid},
        **{sample.id: "test" for sample in samples.test},
    }


def split(path, kind="classification", **data):
    return load(path, kind, **{"split": {"valid": 0.1, "test": 0.2}, **data})


def test_shares_are_about_what_was_asked_for_in_every_label(tmp_path):
    samples = split(write(tmp_path / "rows.jsonl", rows_of(2000)))
    assert sum(samples.report.split.values()) == 2000
    for label in LABELS:
        counts = samples.report.statistics["labels"][label]
        assert 70 <= counts["test"] <= 130
        assert 25 <= counts["valid"] <= 75
    assert set(parts_of(samples)) == {str(i) for i in range(2000)}


def test_new_rows_do_not_move_old_ones(tmp_path):
    rows = rows_of(500)
    before = parts_of(split(write(tmp_path / "rows.jsonl", rows)))
    new = [{**row, "id": f"new {row['id']}"} for row in rows_of(300, seed=1)]
    mixed = rows + new
    random.Random(3).shuffle(mixed)
    after = parts_of(split(write(tmp_path / "rows.jsonl", mixed)))
    assert {name: after[name] for name in before} == before


def test_the_same_seed_splits_alike_and_another_differently(tmp_path):
    path = write(tmp_path / "rows.jsonl", rows_of(300))
    first, again, other = split(path), split(path), load(path, "classification", seed=7, split={"valid": 0.1, "test": 0.2})
    assert parts_of(first) == parts_of(again)
    assert first.report.fingerprint == again.report.fingerprint
    assert parts_of(first) != parts_of(other)
    assert first.report.fingerprint != other.report.fingerprint


@pytest.mark.parametrize("n", [3, 4, 5, 7, 12])
def test_few_rows_leave_no_wanted_part_empty(tmp_path, n):
    for seed in range(10):
        path = write(tmp_path / "rows.jsonl", [{"text": f"document {seed} {i}"} for i in range(n)])
        samples = split(path, "text", split={"valid": 0.1, "test": 0.2})
        assert min(samples.report.split.values()) >= 1
        assert sum(samples.report.split.values()) == n


def test_a_share_of_nothing_is_nothing(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"text": f"document {i}"} for i in range(50)])
    assert load(path, split={"valid": 0, "test": 0}).report.split == {"train": 50, "valid": 0, "test": 0}
    assert load(path, split={"valid": 0, "test": 0.5}).report.split["valid"] == 0


def test_rare_labels_are_in_every_part_that_expects_one(tmp_path):
    rows = rows_of(400) + [{"id": f"rare {i}", "text": f"seldom seen {i}", "label": "rare"} for i in range(12)]
    for seed in range(8):
        samples = load(write(tmp_path / "rows.jsonl", rows), "classification", seed=seed, split={"valid": 0.1, "test": 0.2})
        counts = samples.report.statistics["labels"]["rare"]
        assert counts["test"] >= 1
        assert counts["valid"] >= 1
        assert counts["train"] >= 1


def test_equal_texts_stay_together(tmp_path):
    rows = [{"text": f"text {i % 40}", "label": LABELS[i % 3]} for i in range(200)]
    samples = split(write(tmp_path / "rows.jsonl", rows))
    texts = [{sample.messages[-2].text for sample in part} for part in (samples.train, samples.valid, samples.test)]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]
    assert "overlap-text" not in findings(samples)


def test_values_of_a_column_stay_together(tmp_path):
    rows = [{**row, "customer": f"customer {i % 30}"} for i, row in enumerate(rows_of(300))]
    path = write(tmp_path / "rows.jsonl", rows)
    samples = split(path, split={"valid": 0.1, "test": 0.2, "by": "customer"})
    groups = [{sample.group for sample in part} for part in (samples.train, samples.valid, samples.test)]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    with pytest.raises(DataError, match=r"there is no column `client`, which data.split.by names"):
        split(path, split={"by": "client"})


def test_near_duplicates_stay_together_on_request_and_are_told_otherwise(tmp_path):
    rows = rows_of(200) + [{**row, "id": f"near {row['id']}", "text": row["text"] + "!?"} for row in rows_of(100)]
    path = write(tmp_path / "rows.jsonl", rows)
    apart = split(path)
    assert findings(apart)["overlap-near"] > 10
    assert findings(apart)["near-duplicates"] == 200
    together = split(path, split={"valid": 0.1, "test": 0.2, "near": True})
    assert "overlap-near" not in findings(together)
    parts = parts_of(together)
    assert all(parts[str(i)] == parts[f"near {i}"] for i in range(100))


def test_named_files_are_the_parts_and_their_overlap_is_told(tmp_path):
    rows = rows_of(60)
    train, test = write(tmp_path / "train.jsonl", rows[:50]), write(tmp_path / "test.jsonl", rows[45:])
    samples = load(train, "classification", test={"path": str(test)}, split={"valid": 0.2, "test": 0.2})
    assert samples.report.split["test"] == 15
    assert samples.report.split["train"] + samples.report.split["valid"] == 50
    assert 4 <= samples.report.split["valid"] <= 18
    finding = next(finding for finding in samples.report.findings if finding.code == "overlap-text")
    assert (finding.severity, finding.count) == ("warning", 5)
    assert finding.origins[0] == "train.jsonl:46 = test.jsonl:1"
    both = load(train, "classification", test={"path": str(test)}, valid={"path": str(test)})
    assert both.report.split == {"train": 50, "valid": 15, "test": 15}


def test_a_group_in_two_named_files_is_told(tmp_path):
    rows = [{**row, "customer": f"c{i}"} for i, row in enumerate(rows_of(60))]
    rows[50]["customer"] = "c3"
    train, test = write(tmp_path / "train.jsonl", rows[:50]), write(tmp_path / "test.jsonl", rows[50:])
    samples = load(train, "classification", test={"path": str(test)}, split={"valid": 0.2, "by": "customer"})
    finding = next(finding for finding in samples.report.findings if finding.code == "overlap-group")
    assert (finding.severity, finding.count, finding.origins) == ("warning", 1, ("train.jsonl:4 = test.jsonl:1",))


def dialogues_unrolled(n, *, last=3):
    """Rows as some tools write them: of each dialogue its first exchange, its first two, and so on."""
    rows = []
    for i in range(n):
        turns = [{"role": ("user", "assistant")[k % 2], "content": f"dialogue {i * 7919}, turn {k}"} for k in range(2 * last)]
        rows += [{"id": f"{i}-{k}", "messages": turns[: 2 * k]} for k in range(1, last + 1)]
    return rows


def test_dialogues_unrolled_into_rows_stay_together(tmp_path):
    rows = dialogues_unrolled(80)
    random.Random(1).shuffle(rows)
    parts = parts_of(split(write(tmp_path / "rows.jsonl", rows), "chat"))
    assert len(parts) == 240
    assert set(parts.values()) == {"train", "valid", "test"}
    assert all(len({parts[f"{i}-{k}"] for k in (1, 2, 3)}) == 1 for i in range(80))


def test_a_common_opening_alone_joins_nothing(tmp_path):
    opening = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello, what can I do?"}]
    ends = [[{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}] for i in range(100)]
    rows = [{"id": str(i), "messages": opening + end} for i, end in enumerate(ends)]
    assert set(parts_of(split(write(tmp_path / "rows.jsonl", rows), "chat")).values()) == {"train", "valid", "test"}


def test_a_dialogue_that_goes_on_in_another_file_is_told(tmp_path):
    rows = dialogues_unrolled(20)
    train = write(tmp_path / "train.jsonl", [row for row in rows if row["id"] != "3-3"])
    test = write(tmp_path / "test.jsonl", [row for row in rows if row["id"] == "3-3"])
    samples = load(train, "chat", test={"path": str(test)}, split={"valid": 0})
    finding = next(finding for finding in samples.report.findings if finding.code == "overlap-conversation")
    assert (finding.severity, finding.count) == ("warning", 2)
    assert finding.origins[0] == "train.jsonl:10 = test.jsonl:1"


def test_groups_join_through_one_another():
    def pairs(*items):
        return np.array([row for row, _ in items]), np.array([key for _, key in items], dtype=np.uint64)

    groups = group_rows(6, [pairs((0, 1), (1, 1), (3, 2)), pairs((1, 9), (2, 9))])
    assert groups.tolist() == [0, 0, 0, 1, 2, 3]


def test_large_groups_are_not_drawn_into_the_test_part():
    groups = np.repeat(np.arange(2000), 20)
    keys = np.random.default_rng(0).integers(0, 2**63, len(groups)).astype(np.uint64)
    parts = assign_parts(groups, keys, np.full(len(groups), -1), valid=0.1, test=0.2, seed=1)
    assert abs((parts == TEST).mean() - 0.2) < 0.03
    assert abs((parts == VALID).mean() - 0.1) < 0.03
    assert all(len(set(parts[groups == group])) == 1 for group in range(50))
    assert (parts == TRAIN).any()
