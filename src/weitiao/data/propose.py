"""``weitiao init``: look at data, guess the kind of work, and write a commented recipe that runs as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, get_args

from weitiao.data.json_answers import json_object
from weitiao.data.rows import RejectedRowError, Tally
from weitiao.data.shapes import PLAINEST, Recognised, columns_of, propose_mapping, recognise
from weitiao.data.sources import N_FIRST, Reading, open_source, read_source, readable_rows
from weitiao.errors import CommandError, DataError
from weitiao.recipe import suggestion
from weitiao.recipe.sections import Source
from weitiao.recipe.tasks import TaskSection
from weitiao.seams import Record

N_LOOKED_AT = 5000
"""Rows from which the recipe is made."""
FEW_ROWS = 10
"""Below this number of rows none are set aside."""
MAX_LABELS = 200
YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Names that YAML does not read as text."""

KINDS: tuple[str, ...] = tuple(get_args(section.model_fields["kind"].annotation)[0] for section in get_args(get_args(TaskSection)[0]))
VISION = ("ocr", "caption")
GUESSES = ("ner", "caption", "ocr", "classification", "extraction", "chat", "text")
"""Kinds in the order in which they are guessed: those with the most telling rows first."""

KIND_IN_WORDS = {
    "extraction": "a text in, a JSON object of named fields out",
    "classification": "a text in, one of a set of labels out",
    "ner": "a text in, its named entities out",
    "ocr": "a picture of a formula in, its LaTeX out",
    "caption": "a photo in, a sentence out",
    "chat": "instruction data: a conversation in, the assistant's answer out",
    "text": "plain documents: continued pre-training on every token",
}

CANDIDATES_FIRST = "类型选型:{category},文本:{text}"
"""The words of the published prompt, for candidates that are the same in every row."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A recipe for somebody's data."""

    text: str
    """The YAML, commented; it loads and runs as it is."""
    recognised: str
    """What was seen in the data, as one sentence."""


def propose_recipe(path: str, task_kind: str | None) -> Proposal:
    """Look at data and write a recipe for it.

    Args:
        path: a file, a folder, a glob, or ``hub:OWNER/NAME``.
        task_kind: of work; None to guess it.

    Returns:
        The recipe and what was recognised.

    Raises:
        CommandError: there is no such kind of work.
        DataError: the data is not there, cannot be read, or fits no shape of that kind.
    """
    if task_kind is not None and task_kind not in KINDS:
        raise CommandError(f"unknown kind of work `{task_kind}`", where="--task", hint=suggestion(task_kind, KINDS))
    source = Source(path=path)
    kind, mapping = _kind_and_mapping(source, task_kind)
    tally, shapes = Tally(), list[Recognised]()
    records = list(read_source(source, _reading(kind, mapping), tally, shapes))
    if not records:
        tally.refuse_beyond(0.0)
    lines = [
        f"# {_recognised(shapes, kind, tally)}",
        *_task_lines(kind, records, shapes[0], is_whole=tally.n_read < N_LOOKED_AT),
        *_data_lines(path, mapping, len(records)),
        *_model_lines(kind),
        *_encode_lines(kind, records),
        *_train_lines(kind, len(records)),
        *_rest_lines(kind, records),
    ]
    return Proposal("\n".join(lines) + "\n", _recognised(shapes, kind, tally))


def _reading(kind: str, mapping: Mapping[str, str]) -> Reading:
    return Reading(kind, mapping, None, None, N_LOOKED_AT, None, None)


def _recognised(shapes: Sequence[Recognised], kind: str, tally: Tally) -> str:
    rows = "1 row" if tally.n_read == 1 else f"{tally.n_read:,} rows"
    looked_at = f"the first {rows}" if tally.n_read == N_LOOKED_AT else rows
    left_out = f", {tally.n_rejected:,} of them unusable" if tally.n_rejected else ""
    return f"{shapes[0].sentence}: {kind} ({KIND_IN_WORDS[kind]}); {looked_at} looked at{left_out}"


def _kind_and_mapping(source: Source, task_kind: str | None) -> tuple[str, dict[str, str]]:
    """The kind of work, and the columns to map where the rows fit a shape only with that."""
    file, where = open_source(source)[0], source.path
    first = readable_rows(list(islice(file.rows(None, None), N_FIRST)), str(file.path))
    kinds = GUESSES if task_kind is None else (task_kind,)
    for kind in kinds:
        try:
            shape = recognise(first, kind, {}, None, where)
        except DataError:
            continue
        if task_kind is not None or _looks_like(kind, shape, source):
            return kind, {}
    for kind in kinds if task_kind is not None else ("ocr", "text"):
        mapping = propose_mapping(columns_of(first), PLAINEST[kind], {})
        if mapping:
            return kind, mapping
    recognise(first, task_kind or "text", {}, None, where)
    raise DataError("the rows fit no kind of work", where=where, hint=f"say which one: --task {'|'.join(KINDS)}")


def _looks_like(kind: str, shape: Recognised, source: Source) -> bool:
    try:
        records = list(islice(read_source(source, _reading(kind, {}), Tally(), []), 500))
    except RejectedRowError:
        return False
    return bool(records) and LOOKS[kind](shape, records)


def _looks_like_labels(shape: Recognised, records: Sequence[Record]) -> bool:
    labels = [label for record in records for label in record.labels]
    distinct = set(labels)
    if shape.shape not in ("labelled-text", "multi-label-text"):
        return len(records) >= 20 and len(distinct) <= len(records) // 8 and max(map(len, distinct), default=99) <= 20
    return (
        bool(labels)
        and max(map(len, distinct)) <= 60
        and (len(distinct) <= max(2, len(records) // 2) or any(r.candidates for r in records))
    )


def _looks_like_extraction(_shape: Recognised, records: Sequence[Record]) -> bool:
    return sum(json_object(record.answer or "") is not None for record in records) > len(records) / 2


def _looks_like_latex(_shape: Recognised, records: Sequence[Record]) -> bool:
    return (
        _has_images(records) and sum("\\" in (record.answer or "") or "^" in (record.answer or "") for record in records) > len(records) / 3
    )


def _has_images(records: Sequence[Record]) -> bool:
    return sum(bool(record.images) for record in records) > len(records) / 2


LOOKS: dict[str, Callable[[Recognised, Sequence[Record]], bool]] = {
    "ner": lambda _shape, records: any(record.entities for record in records),
    "caption": lambda shape, records: _has_images(records) and not _looks_like_latex(shape, records),
    "ocr": _looks_like_latex,
    "classification": _looks_like_labels,
    "extraction": _looks_like_extraction,
    "chat": lambda _shape, records: not _has_images(records),
    "text": lambda _shape, _records: True,
}
"""Whether rows that have the columns of a kind are rows of that kind."""


def _task_lines(kind: str, records: Sequence[Record], shape: Recognised, *, is_whole: bool) -> list[str]:
    """The task; labels are written out only where every row was seen, or one that comes later would be refused."""
    lines = ["task:", f"  kind: {kind}  # {KIND_IN_WORDS[kind]}"]
    if kind == "extraction":
        fields = _fields(records)
        if fields:
            lines += ["  fields:  # type: string, number, date, enum or list; copied: whether the value stands in the text"]
            lines += [f"    {_key(name)}: {spec}" for name, spec in fields.items()]
        else:
            lines += ["  fields: [answer]  # name the fields of the JSON answers"]
    elif kind == "classification":
        labels = sorted({label for record in records for label in record.labels})
        if any(record.candidates for record in records):
            lines.append(f"  # every row is asked with its own candidates, those of the column `{shape.columns['candidates']}`")
        elif is_whole and 2 <= len(labels) <= MAX_LABELS:
            lines.append(f"  labels: {_quoted(labels)}  # what an answer can be; others are refused")
        if len({record.candidates for record in records}) == 1:
            lines.append(f"  prompt: {_quoted(CANDIDATES_FIRST)}  # what all rows share comes first, and is computed once")
        if any(len(record.labels) != 1 for record in records):
            lines.append("  multi_label: true  # a row can have several labels, or none")
    elif kind == "ner":
        types = sorted({entity.label for record in records for entity in record.entities or ()})
        lines += [f"  labels: {_quoted(types)}  # entity types; others are refused"] if types and is_whole else []
    return lines


def _fields(records: Sequence[Record]) -> dict[str, str]:
    """Field -> its specification in YAML, from the JSON answers."""
    answers = [(json_object(record.answer or ""), record.text) for record in records]
    objects = [(found, text) for found, text in answers if found is not None]
    names = list(dict.fromkeys(name for found, _ in objects for name in found))
    return {name: _field_spec([found.get(name) for found, _ in objects], [text for _, text in objects]) for name in names}


def _field_spec(values: Sequence[Any], texts: Sequence[str]) -> str:
    given = [(value, text) for value, text in zip(values, texts, strict=True) if value not in (None, "")]
    settings = {}
    if given and all(isinstance(value, list) for value, _ in given):
        settings["type"] = "list"
    elif given and all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in given):
        settings["type"] = "number"
    elif sum(isinstance(value, str) and value not in text for value, text in given) > 0.2 * len(given):
        settings["copied"] = "false"
    if len(given) < len(values):
        settings["optional"] = "true"
    return "{" + ", ".join(f"{name}: {value}" for name, value in settings.items()) + "}"


def _data_lines(path: str, mapping: Mapping[str, str], n_rows: int) -> list[str]:
    lines = ["", "data:", f"  train: {{path: {_quoted(path)}}}  # a file, folder, pattern or hub:OWNER/NAME, or a list of several"]
    if mapping:
        lines.append(f"  columns: {_quoted(mapping)}  # field: column of the file")
    if n_rows < FEW_ROWS:
        lines.append("  split: {valid: 0, test: 0}  # too few rows to set any aside; nothing can be measured on unseen rows")
    else:
        lines.append(
            "  split: {valid: 0.1, test: 0.2}  # shares set aside by content hash; add `near: true` to keep near duplicates together"
        )
    return lines


def _model_lines(kind: str) -> list[str]:
    path = "Qwen/Qwen2-VL-2B-Instruct" if kind in VISION else "Qwen/Qwen3-0.6B"
    note = "hub id or folder" if kind in VISION else "hub id, folder, .gguf file, or bundled:qwen2.5-coder-0.5b-instruct (needs no hub)"
    tuning = "small matrices beside frozen weights; `{kind: full}` trains every weight"
    return ["", "model:", f"  path: {path}  # {note}", f"  tuning: {{kind: lora, r: 8, lora_alpha: 32, lora_dropout: 0.1}}  # {tuning}"]


def _encode_lines(kind: str, records: Sequence[Record]) -> list[str]:
    long = _usual_most(
        [
            sum(len(message.text) for message in record.messages) if record.messages else len(record.text) + len(record.answer or "")
            for record in records
        ]
    )
    # An image takes up to 752 tokens at the usual chat.images.max_pixels.
    sizes = (2048,) if kind in VISION else (512, 1024, 2048)
    max_tokens = next((size for size in sizes if long + 256 <= size), 4096)
    note = "longer documents become several rows" if kind == "text" else "longer rows are shortened in the user's text only"
    return ["", "encode:", f"  max_tokens: {max_tokens}  # longest row; {note}"]


def _train_lines(kind: str, n_rows: int) -> list[str]:
    epochs = 5 if n_rows < 100 else 3 if n_rows < 5000 else 2
    rate = "3e-5" if kind == "text" else "1e-4"
    return [
        "",
        "train:",
        f"  num_train_epochs: {epochs}  # how often every row is seen",
        f"  learning_rate: {rate}  # size of a step: lower where the loss jumps, higher where it hardly falls",
        "  batch_tokens: 8192  # about as many per optimizer step",
    ]


def _usual_most(lengths: Sequence[int]) -> int:
    """What all but a twentieth of the lengths do not exceed."""
    return sorted(lengths)[int(0.95 * (len(lengths) - 1))]


def _rest_lines(kind: str, records: Sequence[Record]) -> list[str]:
    longest = {"classification": 32, "ner": 512, "caption": 128, "text": 256}.get(kind)
    if longest is None:
        # Hardly any text has more tokens than characters.
        long = _usual_most([len(record.answer or "") for record in records])
        longest = next((size for size in (256, 512) if long <= size), 1024)
    return [
        "",
        f"evaluate: {{max_new_tokens: {longest}}}  # longest answer",
        "track: {kind: swanlab, mode: local}  # curves on a local page: no account, no network; `{kind: none}` for none",
        "export: [{kind: merged}]  # an ordinary Hugging Face folder; there are adapter, gguf, ollama and openvino too",
    ]


def _key(name: str) -> str:
    """A name as a key of YAML, quoted where YAML would read it as something else."""
    return name if name.isidentifier() and name.lower() not in YAML_WORDS else _quoted(name)


def _quoted(value: Any) -> str:
    """A value as YAML on one line (JSON is YAML)."""
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False)
