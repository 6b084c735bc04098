"""From what the recipe names to the files that hold rows: a file, a folder, a glob; each with its reader and a short name."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from weitiao.data.rows import RawRow
from weitiao.data.tables import read_arrow, read_csv, read_parquet
from weitiao.data.text_files import Numbered, read_conll, read_json, read_jsonl, read_txt
from weitiao.errors import DataError

Reader = Callable[[Path, str | None, str | None], Iterator[Numbered]]

READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_txt,
    ".md": read_txt,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".conll": read_conll,
    ".bio": read_conll,
}
"""How a file is read, by the ending of its name."""

DOCUMENTS = (".txt", ".md")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
N_NAMED = 8
"""Tables of a folder that a message names."""
SHARD = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of rows and the name that origins give it."""

    path: Path
    name: str

    def rows(self, encoding: str | None, delimiter: str | None) -> Iterator[RawRow]:
        """Read the file row by row.

        Args:
            encoding: of a text file; None to find out.
            delimiter: of a csv file; None to find out.

        Yields:
            Every row, those that cannot be read with the reason.

        Raises:
            DataError: the file as a whole is not what its name says.
        """
        for number, values in READERS[self.path.suffix.lower()](self.path, encoding, delimiter):
            origin = f"{self.name}:{number}"
            yield RawRow(origin, problem=values) if isinstance(values, str) else RawRow(origin, values)


def find_files(path: str) -> list[DataFile]:
    """The files that a source names, in order of their names.

    Args:
        path: a file, a folder or a glob.

    Returns:
        At least one file.

    Raises:
        DataError: nothing is there, no file of a known kind, or a folder with several tables that are not parts of one.
    """
    place = place_of(path)
    if place.is_file():
        return [DataFile(_readable(place), place.name)]
    if place.is_dir():
        return _folder_files(place)
    if any(sign in path for sign in "*?["):
        return _glob_files(place)
    raise DataError("there is no such file or folder", where=str(place), hint=_nearest(place))


def place_of(path: str | Path) -> Path:
    """A path with the home folder in place of ``~``.

    Args:
        path: of a file, a folder or a glob.

    Returns:
        The path.

    Raises:
        DataError: it begins with ``~NAME``, and there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        hint = "a path that begins with ~NAME is in that user's home folder; write the whole path"
        raise DataError("there is no such user", where=str(path), hint=hint) from None


def _readable(path: Path) -> Path:
    if path.suffix.lower() not in READERS:
        hint = f"known endings are {', '.join(READERS)}"
        raise DataError(f"the ending `{path.suffix}` says nothing of how to read the file", where=str(path), hint=hint)
    return path


def _nearest(place: Path) -> str:
    folder = place.parent
    while not folder.is_dir():
        missing, folder = folder, folder.parent
        if folder.is_dir():
            return _similar(missing.name, folder) or f"the folder {missing} does not exist"
    return _similar(place.name, folder) or f"nothing in {folder} has a similar name"


def _similar(name: str, folder: Path) -> str:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return ""
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {folder / near[0]}?" if near else ""


def _glob_files(pattern: Path) -> list[DataFile]:
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if any(sign in part for sign in "*?["))
    root = Path(*parts[:first]) if first else Path()
    try:
        found = sorted(path for path in root.glob(str(Path(*parts[first:]))) if path.is_file())
    except ValueError:
        hint = "`**` stands for folders and needs a part of the path for itself: **/*.csv"
        raise DataError("this is no pattern", where=str(pattern), hint=hint) from None
    known = [path for path in found if path.suffix.lower() in READERS]
    if not known:
        what = "the pattern fits no file" if not found else f"none of the {len(found)} files that fit has a known ending"
        raise DataError(what, where=str(pattern), hint=f"known endings are {', '.join(READERS)}")
    return [DataFile(path, path.relative_to(root).as_posix()) for path in known]


def _folder_files(folder: Path) -> list[DataFile]:
    files = sorted(
        Path(place) / name for place, folders, names in os.walk(folder) if not _hide(folders) for name in names if not name.startswith(".")
    )
    tables = [path for path in files if path.suffix.lower() in READERS and path.suffix.lower() not in DOCUMENTS]
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        tables = [path for path in tables if path.suffix.lower() == ".arrow"]
    chosen = tables or [path for path in files if path.suffix.lower() in DOCUMENTS]
    if not chosen:
        n_images = sum(path.suffix.lower() in IMAGES for path in files)
        hint = (
            "put a csv or jsonl beside the images, with a column `image` of file names"
            if n_images
            else f"known endings: {', '.join(READERS)}"
        )
        raise DataError(
            f"the folder holds no table ({n_images} images)" if n_images else "the folder holds no data", where=str(folder), hint=hint
        )
    if tables and not _are_parts(tables):
        raise _several_tables(tables, folder)
    return [DataFile(path, path.relative_to(folder).as_posix()) for path in chosen]


def _several_tables(tables: Sequence[Path], folder: Path) -> DataError:
    names = ", ".join(path.relative_to(folder).as_posix() for path in tables[:N_NAMED])
    more = f" and {len(tables) - N_NAMED} more" if len(tables) > N_NAMED else ""
    patterns = Counter(path.with_name(f"*{path.suffix}") for path in tables)
    pattern, n_fitting = patterns.most_common(1)[0]
    all_of_them = f", or a pattern ({pattern})" if n_fitting > 1 else ""
    hint = f"name one of them (path: {tables[0]}), several ([{{path: ...}}, {{path: ...}}]){all_of_them}"
    return DataError(f"the folder holds several tables: {names}{more}", where=str(folder), hint=hint)


def _hide(folders: list[str]) -> bool:
    """Keep the walk out of hidden folders, and its order the same everywhere."""
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    return False


def _are_parts(tables: Sequence[Path]) -> bool:
    """Whether the names differ in their numbers only, as the parts of one table do (``train-00000-of-00002.parquet``)."""
    return len({(path.parent, SHARD.sub("#", path.name)) for path in tables}) == 1
