"""The fields of an extraction: their JSON schema, their values as trained, and when two values are the same.

Strings and enums are the same when equal after NFKC, stripping and joining of white space; numbers by value (``RM 1,021.50`` is 1021.5);
dates by the calendar day (day before month where it could be either); lists whatever their order. None, ``""`` and ``[]`` are empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from weitiao.recipe.tasks import FieldSpec
from weitiao.tasks.scoring import plain, stands_in

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![^\W\d_])[-+]?\.\d+")
"""A dot behind a letter is that of an abbreviation (``Rs.500``, ``No.12``)."""
SIGNED_CURRENCY = re.compile(r"(?<!\w)([-+]) ?[$€£¥₹₩] ?(?=[\d.])")
CHINESE_DATE = re.compile(r"(\d{4})年(\d{1,2})月(\d{1,2})[日号]?")
COMPACT_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")
MONTH = r"(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*"
WRITTEN_DATES = tuple(
    # Dates may overlap what looks like another one, so each is looked for at every place.
    re.compile(rf"(?<!\d)(?=({written})(?!\d))", re.IGNORECASE)
    for written in (
        r"\d{4}年\d{1,2}月\d{1,2}",
        r"\d{8}",
        r"\d{1,4} ?([-/.]) ?\d{1,2} ?\2 ?\d{1,4}",
        r"\d{1,2} \d{1,2} \d{4}|\d{4} \d{1,2} \d{1,2}",
        rf"\d{{1,2}}(?:st|nd|rd|th)?[-/., ]{{0,2}}{MONTH}[-/.,' ]{{0,2}}\d{{2,4}}",
        rf"{MONTH}[-/. ]{{0,2}}\d{{1,2}}(?:st|nd|rd|th)?[-/., ]{{1,2}}\d{{2,4}}",
        rf"\d{{4}}[-/., ]{{0,2}}{MONTH}[-/. ]{{0,2}}\d{{1,2}}",
    )
)
"""Dates as they stand in a running text, for ``read_date``."""
DATE_PATTERN = r"^[0-9A-Za-z年月日号上下午时分秒周星期一二三四五六天()（）./,， :'+-]{4,40}$"
"""Characters that dates are written in: decoding produces no others, so trained values may have no others."""


def json_schema(fields: Mapping[str, FieldSpec]) -> dict[str, Any]:
    """The JSON schema of an answer: exactly these keys, in this order."""
    return {
        "type": "object",
        "properties": {name: _field_schema(spec) for name, spec in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }


def _field_schema(spec: FieldSpec) -> dict[str, Any]:
    schemas: dict[str, dict[str, Any]] = {
        "string": {"type": "string"},
        "number": {"type": "number"},
        "date": {"type": "string", "pattern": DATE_PATTERN},
        "enum": {"type": "string", "enum": list(spec.values or ())},
        "list": {"type": "array", "items": {"type": "string"}},
    }
    schema = schemas[spec.type]
    return {"anyOf": [schema, {"type": "null"}]} if spec.optional else schema


def canonical(value: Any, spec: FieldSpec) -> Any:
    """A value of the file in the form that is trained: text, number, list of texts, or None.

    Args:
        value: what the file's JSON holds; None where the key is missing.
        spec: of the field.

    Returns:
        The value; an empty one is None for an optional field, else ``""`` or ``[]``.

    Raises:
        ValueError: the value is not of the field's type; the message says why.
    """
    if is_empty(value):
        if spec.optional:
            return None
        if spec.type in ("string", "list"):
            return [] if spec.type == "list" else ""
        raise ValueError(f"missing, and a {spec.type} cannot be left empty unless it is optional")
    if spec.type == "list":
        items = [_text(item) for item in (value if isinstance(value, list) else [value]) if not is_empty(item)]
        return items or (None if spec.optional else [])
    if spec.type == "number":
        number = read_number(value)
        if number is None:
            raise ValueError(f"{value!r} is not a number")
        return int(number) if number == number.to_integral_value() else float(number)
    text = _text(value)
    if spec.type == "enum" and text not in (spec.values or ()):
        raise ValueError(f"{text!r} is none of {', '.join(spec.values or ())}")
    if spec.type == "date" and (read_date(text) is None or not re.fullmatch(DATE_PATTERN, text)):
        raise ValueError(f"{text!r} is not a calendar date")
    return text


def _text(value: Any) -> str:
    if isinstance(value, bool | dict | list):
        raise ValueError(f"{value!r} is not a text")
    return str(value)


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: None, ``[]``, or a text of white space."""
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def comparable(value: Any, spec: FieldSpec) -> Any:
    """A form of a value that is equal for equal values, whatever type the model gave it; None where it is empty."""
    if is_empty(value):
        return None
    if spec.type == "list":
        items = value if isinstance(value, list) else [value]
        return sorted(plain(str(item)) for item in items if not is_empty(item)) or None
    read = {"number": read_number, "date": read_date}.get(spec.type)
    understood = read(value) if read else None
    return plain(str(value)) if understood is None else understood


def not_in_text(value: Any, spec: FieldSpec, text: str) -> list[str]:
    """The pieces of a copied value that stand nowhere in the text: numbers by value, dates by the calendar day, in whatever form."""
    if not spec.copied or spec.type == "enum" or is_empty(value):
        return []
    if spec.type == "number" and (number := read_number(value)) is not None:
        return [] if number in _numbers_in(text) else [str(value)]
    if spec.type == "date" and (day := read_date(value)) is not None:
        return [] if _stands_apart(value, text) or day in _dates_in(text) else [value]
    pieces = value if isinstance(value, list) else [value]
    return [str(piece) for piece in pieces if not stands_in(str(piece), text)]


def _numbers_in(text: str) -> set[Decimal]:
    """All numbers of a text, each also without its sign, which may be a dash."""
    found = set(_numbers_of(text))
    return found | {number.copy_abs() for number in found}


def _stands_apart(value: str, text: str) -> bool:
    """Whether a value stands in a text, and not inside a longer number; white space and full-width forms make no difference."""
    wanted, whole = (plain(one).replace(" ", "") for one in (value, text))
    return re.search(rf"(?<!\d){re.escape(wanted)}(?!\d)", whole) is not None


def _dates_in(text: str) -> set[date | None]:
    tidy = plain(text)
    # Chinese dates are often written with blanks around their numbers.
    tidy = re.sub(r"(?<=\d) (?=[年月日])|(?<=[年月]) (?=\d)", "", tidy)
    return {read_date(found.group(1)) for pattern in WRITTEN_DATES for found in pattern.finditer(tidy)}


def read_number(value: Any) -> Decimal | None:
    """The only number in a value, currency signs, units and thousands commas aside; None where there is none or several."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    found = _numbers_of(value if isinstance(value, str) else format(Decimal(str(value)), "f"))
    return found[0] if len(found) == 1 else None


def _numbers_of(text: str) -> list[Decimal]:
    """The numbers of a text in their order; a minus sign may be U+2212 and may stand before the currency sign."""
    tidy = SIGNED_CURRENCY.sub(r"\1", plain(text).replace("\u2212", "-"))
    return [Decimal(digits.replace(",", "")) for digits in NUMBER.findall(tidy)]


def read_date(value: Any) -> date | None:
    """The calendar day of a text such as ``2018年4月9日``, ``20180409``, ``09/04/2018`` or ``9 Apr 2018``; None where there is none."""
    from dateutil import parser

    if not isinstance(value, str):
        return None
    text = plain(value)
    numbered = CHINESE_DATE.search(text) or COMPACT_DATE.fullmatch(text)
    try:
        if numbered:
            return date(*(int(group) for group in numbered.groups()))
        # Two defaults that share no field show whether day, month and year are all there.
        year_first = re.match(r"\d{4}\D", text) is not None
        days = {
            parser.parse(text, dayfirst=not year_first, yearfirst=year_first, default=start, ignoretz=True).date()
            for start in (datetime(2000, 1, 1), datetime(2004, 2, 2))
        }
    except (ValueError, OverflowError, TypeError):
        return None
    return days.pop() if len(days) == 1 else None
