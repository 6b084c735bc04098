"""A raw row of a recognised shape to a ``Record``, or the reason why it is none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weitiao.data.conversations import FindImage, from_history, read_messages
from weitiao.data.pictures import PictureFinder
from weitiao.data.rows import RawRow, RejectedRowError
from weitiao.data.shapes import TRUTHS, Recognised
from weitiao.data.spans import read_bio, read_entities
from weitiao.data.values import is_missing, json_text_of, parsed, text_of, texts_of
from weitiao.seams import Entity, Message, Record, text_message

CAPTION_MARK = "&&"
"""Between the captions of one image where a file gives them as one text."""


@dataclass(frozen=True, slots=True)
class Converter:
    """Makes records of one file's rows."""

    found: Recognised
    kind: str
    pictures: PictureFinder
    group_column: str | None = None
    with_truth: bool = True
    ends_inclusive: bool = False
    several_labels: bool = False
    """Whether a row can have several labels. A text that holds them is an answer: its task knows where a label ends."""

    def record(self, row: RawRow) -> Record:
        """Turn a row into a record.

        Args:
            row: as read.

        Returns:
            The record, its id taken from the row or from its content.

        Raises:
            RejectedRowError: the row could not be read, lacks what its shape needs, or holds something else there.
        """
        if row.problem:
            raise RejectedRowError(_stem(row.problem), where=row.origin, detail=_rest(row.problem))
        fields = self._fields(row)
        if self.group_column is not None:
            fields["group"] = text_of(row.values.get(self.group_column), self.group_column, row.origin)
            if not fields["group"]:
                raise RejectedRowError(f"the grouping column `{self.group_column}` is empty", where=row.origin)
        named = self._text("id", row).strip()
        _refuse_lost_bytes({"id": named, **fields}, row.origin)
        return Record(origin=row.origin, id=named or content_id(fields), **fields)

    def _cell(self, name: str, row: RawRow) -> Any:
        column = self.found.columns.get(name)
        return None if column is None else row.values.get(column)

    def _text(self, name: str, row: RawRow) -> str:
        column = self.found.columns.get(name)
        return "" if column is None else text_of(row.values.get(column), column, row.origin)

    def _needed(self, name: str, row: RawRow) -> Any:
        """A cell that every row of the shape must have; truths may be missing in rows that are only to be answered."""
        column = self.found.columns.get(name)
        value = self._cell(name, row)
        if value is None and column is not None and (self.with_truth or name not in TRUTHS):
            raise RejectedRowError(f"there is no {name}: column `{column}` is missing or null", where=row.origin)
        return value

    def _fields(self, row: RawRow) -> dict[str, Any]:
        images = self._images(row)
        if "messages" in self.found.columns:
            return self._conversation(row, images)
        if "tokens" in self.found.columns:
            return {**self._bio(row), "system": self._text("system", row)}
        fields: dict[str, Any] = {"images": images}
        for name in ("text", "instruction"):
            if name in self.found.columns:
                if name != "text" or "instruction" not in self.found.columns:
                    self._needed(name, row)
                fields[name] = self._text(name, row)
        fields["system"] = self._text("system", row)
        self._add_truth(fields, row)
        if self.kind == "chat":
            return self._turns(fields, row)
        if fields.get("instruction") and not fields.get("text", "").strip():
            fields["text"], fields["instruction"] = fields["instruction"], ""
        return fields

    def _images(self, row: RawRow) -> tuple[Any, ...]:
        if "image" not in self.found.columns:
            return ()
        value = self._cell("image", row)
        if self.found.shape in ("image-text", "image-captions"):
            value = self._needed("image", row)
        value = parsed(value)
        cells = value if isinstance(value, list) else [] if is_missing(value) else [value]
        return tuple(map(self._finder(row), cells))

    def _finder(self, row: RawRow) -> FindImage:
        return lambda cell: self.pictures.find(cell, row.origin)

    def _conversation(self, row: RawRow, images: tuple[Any, ...]) -> dict[str, Any]:
        messages = read_messages(self._needed("messages", row), row.origin, self._finder(row), images)
        system = self._text("system", row)
        if system and messages[0].role != "system":
            messages = (text_message("system", system), *messages)
        if self.with_truth and messages[-1].role != "assistant":
            raise RejectedRowError("the conversation does not end with the assistant's answer", where=row.origin)
        pictures = tuple(part.image for message in messages for part in message.parts if part.image is not None)
        fields: dict[str, Any] = {"messages": messages, "images": pictures}
        if messages[-1].role == "assistant":
            fields["answer"] = messages[-1].text
            fields.update(self._truth_of_answer(messages[-1].text))
        return fields

    def _bio(self, row: RawRow) -> dict[str, Any]:
        tokens = _words(self._needed("tokens", row), self.found.columns["tokens"], row.origin)
        if "tags" not in self.found.columns or (not self.with_truth and is_missing(self._cell("tags", row))):
            return {"text": read_bio(tokens, ["O"] * len(tokens), row.origin)[0]}
        text, entities = read_bio(tokens, _words(self._needed("tags", row), self.found.columns["tags"], row.origin), row.origin)
        return {"text": text, "entities": entities}

    def _add_truth(self, fields: dict[str, Any], row: RawRow) -> None:
        columns = self.found.columns
        if "answer" in columns:
            value = self._needed("answer", row)
            fields["answer"] = None if value is None else json_text_of(value, columns["answer"], row.origin)
            fields.update(self._truth_of_answer(fields["answer"] or ""))
        self._add_labels(fields, row)
        if "candidates" in columns:
            fields["candidates"] = texts_of(self._cell("candidates", row), columns["candidates"], row.origin)
        if "entities" in columns and (value := self._needed("entities", row)) is not None:
            fields["entities"] = read_entities(value, fields["text"], row.origin, ends_inclusive=self.ends_inclusive)
        if "captions" in columns and (value := self._needed("captions", row)) is not None:
            captions = self._captions(value, row)
            if not captions and self.with_truth:
                raise RejectedRowError("there are no captions", where=row.origin)
            fields["captions"] = captions

    def _captions(self, value: Any, row: RawRow) -> tuple[str, ...]:
        """A list of captions, or a text in which a mark parts them; a caption's own commas part nothing."""
        column = self.found.columns["captions"]
        if isinstance(parsed(value), list | tuple):
            return texts_of(value, column, row.origin)
        return _captions_in(text_of(value, column, row.origin))

    def _add_labels(self, fields: dict[str, Any], row: RawRow) -> None:
        columns = self.found.columns
        if "label" in columns:
            label = text_of(self._needed("label", row), columns["label"], row.origin).strip()
            if self.several_labels:
                fields["answer"] = label
            elif not label and self.with_truth:
                raise RejectedRowError("the label is empty", where=row.origin)
            else:
                fields.update({"labels": (label,), "answer": label} if label else {})
        if "labels" in columns and (value := self._needed("labels", row)) is not None:
            if self.several_labels and not isinstance(parsed(value), list | tuple):
                fields["answer"] = text_of(value, columns["labels"], row.origin).strip()
            else:
                fields["labels"] = texts_of(value, columns["labels"], row.origin)
                if not fields["labels"]:
                    fields["answer"] = ""  # that no label fits is an answer too

    def _truth_of_answer(self, answer: str) -> dict[str, Any]:
        if self.kind == "classification" and not self.several_labels and answer.strip():
            return {"labels": (answer.strip(),)}
        if self.kind == "caption" and answer.strip():
            return {"captions": _captions_in(answer)}
        return {}

    def _turns(self, fields: dict[str, Any], row: RawRow) -> dict[str, Any]:
        """Instruction data as a conversation: the instruction, its input on a new line, earlier turns before them."""
        question = "\n".join(text for text in (fields.pop("instruction", ""), fields.pop("text", "")) if text.strip())
        history, answer, find = self._cell("history", row), fields.get("answer"), self._finder(row)
        fields["messages"] = from_history(history, fields["system"], question, answer, row.origin, find, fields["images"])
        return fields


def _captions_in(text: str) -> tuple[str, ...]:
    return tuple(piece for piece in text.split(CAPTION_MARK) if piece.strip())


def _words(value: Any, column: str, origin: str) -> list[str]:
    items = parsed(value)
    if isinstance(items, list):
        return [text_of(item, column, origin) for item in items]
    return text_of(items, column, origin).split()


def _stem(problem: str) -> str:
    return problem.split(":", 1)[0]


def _rest(problem: str) -> str:
    return problem.partition(":")[2].strip()


def _refuse_lost_bytes(fields: Mapping[str, Any], origin: str) -> None:
    """Refuse lone surrogates: bytes that did not fit the file's encoding, or a broken escape in JSON. No tokenizer can take them."""
    try:
        for value in fields.values():
            (value if isinstance(value, str) else plain({"": value})).encode()
    except UnicodeEncodeError as err:
        lost = err.object[err.start]
        is_byte = "\udc80" <= lost <= "\udcff"
        what = f"byte 0x{ord(lost) - 0xDC00:02x}" if is_byte else f"\\u{ord(lost):04x}"
        hint = (
            "mend the row, or name the file's encoding: data.encoding: gb18030" if is_byte else "a half of a surrogate pair; mend the row"
        )
        raise RejectedRowError("characters that cannot be decoded", where=origin, detail=what, hint=hint) from None


def plain(fields: Mapping[str, Any]) -> str:
    """The fields of a record as JSON; the same fields give the same text."""
    return json.dumps(fields, ensure_ascii=False, default=_as_plain, separators=(",", ":"))


def _as_plain(value: Any) -> Any:
    if isinstance(value, Entity):
        return [value.start, value.end, value.surface, value.label]
    if isinstance(value, Message):
        return [value.role, [[part.text, str(part.image) if part.image else None, part.shortenable] for part in value.parts]]
    return str(value)


def content_id(fields: Mapping[str, Any]) -> str:
    """A hash of a record's content of 16 hexadecimal digits; images count by their file names."""
    named = {name: [path.name for path in value] if name == "images" else value for name, value in fields.items() if value}
    if named.get("images") and "messages" in named:
        named["messages"] = [[message.role, message.text] for message in named["messages"]]
    return hashlib.blake2b(plain(named).encode(), digest_size=8).hexdigest()
