"""Which files of a hub data set make a subset's split: told by its card, else by the words in their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from weitiao.data.files import DOCUMENTS, READERS
from weitiao.errors import DataError

FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
SPLIT_WORDS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "testing", "eval")}
NOT_ROWS = ("dataset_infos.json", "dataset_info.json", "state.json", "config.json")
PREFERRED = (".parquet", ".arrow", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")


def choose_files(files: Sequence[str], card: str, subset: str | None, split: str | None, where: str) -> list[str]:
    """Pick the files of a split.

    Args:
        files: paths of all files of the data set.
        card: text of its README.md; may be empty.
        subset: name of a configuration, or None.
        split: name of a split; None for ``train``.
        where: the data set, for messages.

    Returns:
        At least one path, sorted; one kind of file only.

    Raises:
        DataError: no file of a known kind, no such subset or split, or several subsets and none named.
    """
    tables = [file for file in files if _is_table(file)] or [file for file in files if file.endswith(".txt")]
    if not tables:
        kinds = ", ".join(sorted({PurePosixPath(file).suffix or file for file in files})[:8])
        raise DataError(f"the data set has no table that can be read, only {kinds}", where=where, hint=f"known kinds: {', '.join(READERS)}")
    configs = _configs(card)
    chosen = _by_card(tables, configs, subset, split or "train", where) if configs else _by_names(tables, subset, split, where)
    endings = {PurePosixPath(file).suffix.lower() for file in chosen}
    ending = next((ending for ending in PREFERRED if ending in endings), None)
    return sorted(file for file in chosen if ending is None or PurePosixPath(file).suffix.lower() == ending)


def _is_table(file: str) -> bool:
    path = PurePosixPath(file)
    return path.suffix.lower() in READERS and path.suffix.lower() not in DOCUMENTS and path.name not in NOT_ROWS and file[0] != "."


def _configs(card: str) -> list[dict[str, Any]]:
    """The ``configs`` of a card's front matter that name data files; an unreadable card counts as none."""
    front = FRONT.match(card)
    try:
        meta = yaml.safe_load(front.group(1)) if front else None
    except yaml.YAMLError:
        return []
    configs = meta.get("configs") if isinstance(meta, dict) else None
    return [config for config in configs or [] if isinstance(config, dict) and config.get("data_files")]


def _by_card(tables: Sequence[str], configs: Sequence[dict[str, Any]], subset: str | None, split: str, where: str) -> list[str]:
    named = {str(config.get("config_name", "default")): config for config in configs}
    if subset is None:
        default = [name for name, config in named.items() if config.get("default")] or [name for name in named if name == "default"]
        subset = default[0] if default else next(iter(named)) if len(named) == 1 else None
    if subset not in named:
        what = "the data set has several subsets" if subset is None else f"there is no subset `{subset}`"
        raise DataError(what, where=where, hint=f"name one of them: data.train.subset: {' | '.join(sorted(named))}")
    data_files = named[subset]["data_files"]
    entries = data_files if isinstance(data_files, list) else [data_files]
    patterns: dict[str, list[str]] = {}
    for entry in entries:
        is_named = isinstance(entry, dict)
        paths = entry.get("path", []) if is_named else entry
        patterns.setdefault(str(entry.get("split", "train")) if is_named else "train", []).extend(
            [paths] if isinstance(paths, str) else paths
        )
    wanted = patterns.get(split) or next((found for name, found in patterns.items() if _same_split(name, split)), None)
    if wanted is None:
        raise _no_split(split, patterns, where)
    chosen = [file for file in tables if any(_glob(pattern).fullmatch(file) for pattern in wanted)]
    if not chosen:
        raise DataError(f"the card's files for split `{split}` are not there: {', '.join(wanted)}", where=where)
    return chosen


def _glob(pattern: str) -> re.Pattern[str]:
    """A card's pattern, in which ``*`` stops at a folder's end and ``**`` does not."""
    stand_ins = {r"\*\*/": "(?:.*/)?", r"\*\*": ".*", r"\*": "[^/]*", r"\?": "[^/]"}
    literal = re.escape(pattern.removeprefix("./")).replace(r"\[", "[").replace(r"\]", "]").replace(r"\-", "-")
    return re.compile(re.sub(r"\\\*\\\*/|\\\*\\\*|\\\*|\\\?", lambda found: stand_ins[found[0]], literal))


def _by_names(tables: Sequence[str], subset: str | None, split: str | None, where: str) -> list[str]:
    if subset is not None:
        folders = sorted({part for file in tables for part in PurePosixPath(file).parts[:-1]})
        tables = [file for file in tables if subset in PurePosixPath(file).parts[:-1] or PurePosixPath(file).stem.startswith(subset)]
        if not tables:
            raise DataError(f"there is no subset `{subset}`", where=where, hint=f"folders of the data set: {', '.join(folders) or 'none'}")
    by_split: dict[str, list[str]] = {}
    for file in tables:
        by_split.setdefault(_split_in(file) or "", []).append(file)
    wanted = split or "train"
    chosen = next((found for name, found in by_split.items() if name and _same_split(name, wanted)), None)
    if chosen is None and _same_split(wanted, "train"):
        chosen = by_split.get("")
    if chosen is None:
        raise _no_split(wanted, [name for name in by_split if name] or ["train"], where)
    folders = sorted({str(PurePosixPath(file).parent) for file in chosen})
    if subset is None and len(folders) > 1:
        raise DataError("the data set has several subsets", where=where, hint=f"name one of them: data.train.subset: {' | '.join(folders)}")
    return chosen


def _split_in(file: str) -> str | None:
    """The split that a file's name, or else its folders' names, have a word of."""
    path = PurePosixPath(file)
    for part in (path.name, *reversed(path.parts[:-1])):
        words = re.split(r"[^a-z]+", part.lower())
        for name, known in SPLIT_WORDS.items():
            if any(word in known for word in words):
                return name
    return None


def _same_split(one: str, other: str) -> bool:
    return one == other or any(one in words and other in words for words in SPLIT_WORDS.values())


def _no_split(split: str, known: Any, where: str) -> DataError:
    return DataError(f"there is no split `{split}`", where=where, hint=f"splits of the data set: {', '.join(sorted(known))}")
