"""Each thing that the audit finds, on rows made for it."""

import zlib

import pytest
from PIL import Image
from tests.data.rows import findings, load, write

from weitiao.data.near import NearIndex, grams, overlap
from weitiao.errors import Problems


def audit(tmp_path, rows, kind="classification", **data):
    return load(write(tmp_path / "rows.jsonl", rows), kind, **data)


def finding(samples, code):
    return next(found for found in samples.report.findings if found.code == code)


def test_clean_rows_have_no_findings(tmp_path):
    words = ["森林里的小路", "海边的灯塔", "山顶的日出", "城市的夜晚", "图书馆的午后"]
    rows = [
        {"text": f"{words[i % 5]}第{i}篇{chr(0x4E00 + 97 * i) * 3}{chr(0x5000 + 31 * i) * 4}", "label": ["静", "动"][i % 2]}
        for i in range(40)
    ]
    assert findings(audit(tmp_path, rows)) == {}


def test_duplicates_and_contradictions(tmp_path):
    rows = [{"text": f"x{i}", "label": "a"} for i in range(20)] + [
        {"text": "x1", "label": "a"},
        {"text": " x2 ", "label": "b"},
        {"text": "x3", "label": "b"},
    ]
    samples = audit(tmp_path, rows)
    assert finding(samples, "duplicate-texts").message == "3 inputs stand more than once (3 surplus rows, 1 of them with the same answer)"
    assert finding(samples, "duplicate-rows").origins == ("rows.jsonl:21", "rows.jsonl:22", "rows.jsonl:23")
    contradicting = finding(samples, "contradicting-answers")
    assert (contradicting.count, contradicting.severity) == (2, "warning")
    assert contradicting.origins[:2] == ("rows.jsonl:3", "rows.jsonl:22") or contradicting.origins[:2] == ("rows.jsonl:4", "rows.jsonl:23")


def test_rows_that_differ_in_their_system_message_only_are_no_duplicates(tmp_path):
    def turns(system, answer):
        roles = [("system", system), ("user", "Who are you?"), ("assistant", answer)]
        return {"messages": [{"role": role, "content": text} for role, text in roles]}

    def said(*rows):
        return {code: n for code, n in findings(audit(tmp_path, rows, "chat")).items() if code != "near-duplicates"}

    assert said(turns("You are Tom.", "Tom"), turns("You are Ann.", "Ann")) == {}
    assert said(turns("You are Tom.", "Tom"), turns("You are  Tom. ", "Tom")) == {"duplicate-texts": 1, "duplicate-rows": 1}
    assert said(turns("You are Tom.", "Tom"), turns("You are Tom.", "Ann")) == {"duplicate-texts": 1, "contradicting-answers": 1}
    columns = [{"system": name, "instruction": "Who are you?", "output": "me"} for name in ("Tom", "Ann")]
    assert said(*columns) == {}
    labelled = [{"text": "停车难", "label": label, "system": name} for label, name in (("a", "Tom"), ("b", "Ann"))]
    assert not {"duplicate-texts", "contradicting-answers"} & set(findings(audit(tmp_path, labelled, "classification")))
    prints = {audit(tmp_path, [turns(system, "me")], "chat").report.fingerprint for system in ("Tom", "Ann")}
    assert len(prints) == 2


def test_who_says_it_is_part_of_what_is_said(tmp_path):
    def turns(*said):
        return {"messages": [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, said, strict=True)]}

    rows = [turns("a\nb", "c", "d", "e"), turns("a", "b\nc", "d", "e")]
    assert "duplicate-texts" not in findings(audit(tmp_path, rows, "chat"))


def test_labels_that_are_rare_uneven_or_alone(tmp_path):
    many = [{"text": f"m{i}", "label": "many"} for i in range(60)]
    assert finding(audit(tmp_path, many, task={"labels": ["many", "few"]}), "one-label").severity == "warning"
    rare = finding(audit(tmp_path, [*many, {"text": "r", "label": "mnay"}]), "rare-labels")
    assert rare.message == "1 label has fewer than 10 rows: `mnay` 1"
    assert rare.origins == ("rows.jsonl:61",)
    uneven = finding(audit(tmp_path, many + [{"text": f"f{i}", "label": "few"} for i in range(10)]), "uneven-labels")
    assert (uneven.severity, uneven.message) == ("note", "labels are uneven: from 10 rows (`few`) to 60")


def test_each_of_several_labels_is_counted_by_itself(tmp_path):
    (tmp_path / "rows.csv").write_text("text,labels\n" + "".join(f'm{i},"A,B"\n' for i in range(9)) + 't,B\nu,\nu,无\nm1,"B,A"\n', "utf-8")
    samples = load(tmp_path / "rows.csv", "classification", task={"multi_label": True})
    assert samples.report.shape == "multi-label-text (text, labels)"
    assert {label: sum(counts.values()) for label, counts in samples.report.statistics["labels"].items()} == {"A": 10, "B": 11}
    assert findings(samples).keys() == {"duplicate-texts", "duplicate-rows"}


def test_labels_outside_the_recipe_are_rejected_with_their_row(tmp_path):
    rows = [{"text": f"t{i}", "label": ["a", "b"][i % 2]} for i in range(200)] + [{"text": "odd", "label": "c"}]
    samples = audit(tmp_path, rows, task={"labels": ["a", "b"]})
    assert sum(samples.report.rejected.values()) == 1
    assert "rows.jsonl:201" in str(samples.report.rejected_examples)


def test_the_label_stands_in_its_own_texts(tmp_path):
    rows = [{"text": f"体育 比分 {i}", "label": "体育"} for i in range(20)] + [
        {"text": f"股价 上涨 {i}", "label": "财经"} for i in range(20)
    ]
    leak = finding(audit(tmp_path, rows), "label-leak")
    assert (leak.count, leak.message) == (20, "`体育` stands in 100% of its own texts and in 0% of the others")


def test_headers_that_name_their_subject(tmp_path):
    header = "【 文献号 】2-1\n【分 类 名】经济\n【正  文】\n"
    rows = [{"text": f"{header}正文{i}", "label": "E"} for i in range(3)]
    rows += [{"text": f"Subject: cars\nFrom: me\n\ntext {i}", "label": "C"} for i in range(2)] + [
        {"text": "【标题】只有一行", "label": "C"}
    ]
    leak = finding(audit(tmp_path, rows), "header-leak")
    assert leak.count == 5
    assert leak.message == "5 texts open with a header that names their subject (`分类名` 3, `Subject` 2)"
    assert leak.origins == ("rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3")


def test_near_equal_values_of_an_answer(tmp_path):
    texts = [f"客户{i}：小区垃圾成堆，晚上噪音扰民，停车{i}难，无法忍受！地址{i * 7919}号" for i in range(12)]
    rows = [{"text": text, "answer": {"question": text.split("：")[1].split("地址")[0]}} for text in texts]
    found = finding(audit(tmp_path, rows, "extraction", task={"fields": ["question"]}), "near-values")
    assert (found.count, found.message) == (12, "12 values of `question` are near duplicates of one another")


def test_characters_and_placeholders(tmp_path):
    rows = [{"instruction": f"q{i}", "output": "fine"} for i in range(10)]
    rows += [{"instruction": "who", "output": "I am {{name}}"}, {"instruction": "bro\ufffdken", "output": "yes"}]
    found = findings(audit(tmp_path, rows, "chat"))
    assert found["placeholder"] == 1
    assert found["lost-characters"] == 1


def picture(path, size=(60, 40), mode="RGB", mark=True, **save):
    image = Image.new(mode, size, "white")
    if mark:
        image.putpixel((1, 1), (0,) * len(image.getbands()) if mode != "RGBA" else (0, 0, 0, 255))
    image.save(path, **save)


def test_images_with_something_wrong(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "good.png")
    picture(tmp_path / "blank.png", mark=False)
    picture(tmp_path / "turned.jpg", exif=exif)
    transparent = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    transparent.putpixel((5, 5), (0, 0, 0, 255))
    transparent.save(tmp_path / "alpha.png")
    picture(tmp_path / "large.png", size=(4100, 3000))
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((300, 300), 90).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    frames = [Image.effect_noise((60, 40), 50 + 10 * i) for i in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.effect_noise((60, 40), 70).convert("CMYK").save(tmp_path / "print.jpg")
    names = ["good.png", "blank.png", "turned.jpg", "alpha.png", "large.png", "cut.png", "cut.jpg", "text.png", "empty.png"]
    names += ["moving.gif", "print.jpg"]
    samples = audit(tmp_path, [{"image": name, "text": f"formula {name}"} for name in names], "ocr", allow_dropped=0.5)
    images = {code: count for code, count in findings(samples).items() if code.endswith("-images")}
    assert images == {
        "blank-images": 1,
        "turned-images": 1,
        "alpha-images": 1,
        "large-images": 1,
        "animated-images": 1,
        "cmyk-images": 1,
    }
    origins = {found.code: found.origins for found in samples.report.findings}
    assert origins["blank-images"] == ("rows.jsonl:2",)
    assert origins["turned-images"] == ("rows.jsonl:3",)
    assert origins["animated-images"] == ("rows.jsonl:10",)
    assert origins["cmyk-images"] == ("rows.jsonl:11",)
    assert all(found.hint and found.severity in ("warning", "note") for found in samples.report.findings)
    rejected = sorted(line for lines in samples.report.rejected_examples.values() for line in lines)
    assert [line.split(": ")[0] for line in rejected] == ["rows.jsonl:6", "rows.jsonl:7", "rows.jsonl:8", "rows.jsonl:9"]
    assert samples.report.rejected["the image file has zero bytes"] == 1
    assert samples.report.statistics["images"]["width"]["max"] == 4100


# 13,400 x 13,400 is just above the bound, which is Pillow's own.
@pytest.mark.parametrize("side", [13_400, 60_000])
def test_a_decompression_bomb_is_not_decoded(tmp_path, side):
    # A PNG header that claims so many pixels over next to no data.
    picture(tmp_path / "bomb.png")
    data = bytearray((tmp_path / "bomb.png").read_bytes())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(bytes(data))
    with pytest.raises(Problems, match="the image is too large to be decoded"):
        audit(tmp_path, [{"image": "bomb.png", "text": "x"}], "ocr")


def test_many_rows_of_images_with_something_wrong_name_the_first_three(tmp_path):
    for i in range(5):
        picture(tmp_path / f"{i}.png", size=(40 + i, 40), mark=False)
    samples = audit(tmp_path, [{"image": f"{i}.png", "text": f"x{i}"} for i in range(5)], "ocr")
    blank = finding(samples, "blank-images")
    assert (blank.count, blank.message) == (5, "5 rows have an image of one colour only")
    assert blank.origins == ("rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3")


def test_the_same_image_under_two_names_stays_in_one_part(tmp_path):
    rows = []
    for i in range(30):
        picture(tmp_path / f"{i}.png", size=(50 + i, 40))
        (tmp_path / f"copy {i}.png").write_bytes((tmp_path / f"{i}.png").read_bytes())
        rows += [{"image": f"{i}.png", "text": f"a{i}"}, {"image": f"copy {i}.png", "text": f"b{i}"}]
    samples = audit(tmp_path, rows, "ocr", split={"valid": 0.2, "test": 0.3})
    parts = {sample.reference: name for name in ("train", "valid", "test") for sample in getattr(samples, name)}
    assert all(parts[f"a{i}"] == parts[f"b{i}"] for i in range(30))
    test = write(tmp_path / "test.jsonl", [{"image": "copy 3.png", "text": "b"}])
    named = audit(tmp_path, rows[:20], "ocr", test={"path": str(test)})
    assert findings(named)["overlap-image"] == 1


def test_lengths_are_in_the_statistics(tmp_path):
    samples = audit(tmp_path, [{"text": "x" * n} for n in (1, 10, 100, 1000)], "text")
    lengths = samples.report.statistics["input_characters"]
    assert (lengths["min"], lengths["max"], lengths["mean"]) == (1, 1000, 277.8)
    assert sum(lengths["counts"]) == 4
    assert len(lengths["edges"]) == len(lengths["counts"]) + 1


def test_near_is_near():
    assert overlap(grams("abcdef"), grams("ABC  d-e.f")) == 1.0
    assert overlap(grams("abcdef"), grams("uvwxyz")) == 0.0
    index = NearIndex(0.8, 4, None)
    long = "the quick brown fox jumps over the lazy dog and runs into the deep dark forest at night"
    said = [long, long + " again", "something quite different stands here", "", long.upper()]
    for row, text in enumerate(said):
        index.add(row, text)
    assert index.families(lambda row: said[row]) == [[0, 1, 4]]
