"""Data sets of Hugging Face and ModelScope: ``hub:OWNER/NAME`` to files, fetched one by one through the hubs' own clients.

A file is fetched when its first row is wanted, so that ``data.limit`` spares the rest. Which files make a subset's split is told by the
data set's card, else by their names. The list of files is kept in the cache: where no hub answers, it and the files in the hub client's
own cache are used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count
from pathlib import Path

from weitiao.cache import cache_folder, cache_root, write_whole
from weitiao.data.files import READERS
from weitiao.data.hub_files import choose_files
from weitiao.data.rows import RawRow
from weitiao.errors import DataError
from weitiao.hubs import Wanted, chosen_hubs, hubs_that_answer, huggingface_in_sentences, modelscope_in_sentences
from weitiao.log import logger

PREFIX = "hub:"
CARD = "README.md"
LISTS = "hub-lists"
"""Folder of the cache in which lists of files are kept."""
PAGE_FILES = 200
"""Files that ModelScope is asked to list at once."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a data set on a hub."""

    hub: str
    repo: str
    files: tuple[str, ...]
    revision: str | None
    """Commit that the list is of; None where the hub does not tell."""
    is_online: bool
    """Whether the hub gave the list now. If not, only files that are in its client's cache can be had."""

    def fetch(self, file: str) -> Path:
        """Fetch a file into the hub client's own cache; one that is there already is not fetched again.

        Args:
            file: its path in the data set.

        Returns:
            Where the client put it.

        Raises:
            DataError: the hub does not answer or refuses, the download broke off, or there is no network and the file not in the cache.
        """
        return FETCH[self.hub](self, file)


@dataclass(frozen=True)
class HubFile:
    """A file of a data set on a hub; fetched when it is read."""

    listing: Listing
    file: str

    @property
    def name(self) -> str:
        """What origins call the file."""
        return f"{self.listing.repo}/{self.file}"

    @cached_property
    def path(self) -> Path:
        """Where the file lies once it is fetched; raises ``DataError`` where it cannot be."""
        return self.listing.fetch(self.file)

    def rows(self, encoding: str | None, delimiter: str | None) -> Iterator[RawRow]:
        """Fetch the file and read it row by row, as ``DataFile.rows`` does."""
        for number, values in READERS[self.path.suffix.lower()](self.path, encoding, delimiter):
            origin = f"{self.name}:{number}"
            yield RawRow(origin, problem=values) if isinstance(values, str) else RawRow(origin, values)

    def beside(self, named: str) -> Path | None:
        """A file that a row names from this file's folder, fetched; None where the hub has none of that name."""
        parts = [part for part in (Path(self.file).parent / named).parts if part != "."]
        file = "/".join(parts)
        return self.listing.fetch(file) if file in self.listing.files else None


def hub_files(path: str, subset: str | None, split: str | None) -> list[HubFile]:
    """The files of a data set that hold the rows of a split.

    Args:
        path: ``hub:OWNER/NAME``.
        subset: configuration of the data set; None for its default or only one.
        split: None for ``train``.

    Returns:
        At least one file, in the order of their names; nothing but the list and the card is fetched yet.

    Raises:
        CommandError: ``WEITIAO_HUB`` is not a hub, or its client is not installed.
        DataError: the data set is not in the cache and no hub answers or none has it, or it has no such subset or split.
    """
    repo = path.removeprefix(PREFIX)
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise DataError("a hub data set is named hub:OWNER/NAME", where=path)
    listing = _find(repo)
    card = listing.fetch(CARD).read_text(encoding="utf-8", errors="replace") if CARD in listing.files else ""
    chosen = choose_files(listing.files, card, subset, split, path)
    logger.info("%s: %d files from %s", repo, len(chosen), listing.hub if listing.is_online else f"the cache of {listing.hub}")
    return [HubFile(listing, file) for file in chosen]


@lru_cache(maxsize=16)
def _find(repo: str) -> Listing:
    """The data set's list of files, asked for once in a process: from the first hub that has it, else from the cache."""
    hubs, refusals = chosen_hubs(), list[DataError]()
    try:
        answering = hubs_that_answer(hubs, _wanted(repo))
    except DataError as err:
        answering = []
        refusals.append(err)
    for hub in answering:
        try:
            listing = LIST[hub](repo)
        except DataError as err:
            refusals.append(err)
        else:
            _keep(listing)
            return listing
    for hub in hubs:
        kept = _kept(hub, repo)
        if kept is not None:
            logger.warning("%s: taken from the cache of %s as it was last seen, for %s", repo, hub, refusals[0].what)
            return kept
    raise refusals[0]


def _wanted(repo: str) -> Wanted:
    instead, kept = "without a hub: name a file on disk", "what has arrived is kept"
    return Wanted(repo, "data set", DataError, f"datasets/{repo}", instead, kept)


# ---- what was listed before -------------------------------------------------------------------------------------------


def _list_path(hub: str, repo: str) -> Path:
    return cache_root() / LISTS / f"{hub}--{repo.replace('/', '--')}.json"


def _keep(listing: Listing) -> None:
    cache_folder(LISTS)
    content = {"repo": listing.repo, "revision": listing.revision, "files": listing.files}
    write_whole(_list_path(listing.hub, listing.repo), json.dumps(content).encode())


def _kept(hub: str, repo: str) -> Listing | None:
    """The list as it was when the hub last gave it; None where it never did on this machine."""
    try:
        content = json.loads(_list_path(hub, repo).read_bytes())
    except FileNotFoundError:
        return None
    return Listing(hub, repo, tuple(content["files"]), content["revision"], is_online=False)


# ---- the hubs' clients ------------------------------------------------------------------------------------------------


def _list_huggingface(repo: str) -> Listing:
    from huggingface_hub import HfApi

    with huggingface_in_sentences(_wanted(repo), is_fetching=False):
        info = HfApi().dataset_info(repo)
    return Listing("huggingface", repo, tuple(sorted(file.rfilename for file in info.siblings or [])), info.sha, is_online=True)


def _fetch_huggingface(listing: Listing, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with huggingface_in_sentences(_wanted(listing.repo), is_fetching=True):
        try:
            return Path(
                hf_hub_download(listing.repo, file, repo_type="dataset", revision=listing.revision, local_files_only=not listing.is_online)
            )
        except LocalEntryNotFoundError as err:
            if listing.is_online:
                raise
            raise _not_in_cache(listing, file) from err


def _list_modelscope(repo: str) -> Listing:
    from modelscope.hub.api import HubApi

    api, paths = HubApi(), list[str]()
    with modelscope_in_sentences(_wanted(repo), is_fetching=False):
        for number in count(1):
            page = api.get_dataset_files(repo_id=repo, page_number=number, page_size=PAGE_FILES)
            paths += [file["Path"] for file in page if file.get("Type") != "tree"]
            if len(page) < PAGE_FILES:
                break
    return Listing("modelscope", repo, tuple(sorted(paths)), None, is_online=True)


def _fetch_modelscope(listing: Listing, file: str) -> Path:
    from modelscope.hub.file_download import dataset_file_download
    from modelscope_hub.errors import HubError

    with modelscope_in_sentences(_wanted(listing.repo), is_fetching=True):
        try:
            return Path(dataset_file_download(dataset_id=listing.repo, file_path=file, local_files_only=not listing.is_online))
        except (HubError, OSError) as err:
            if listing.is_online:
                raise
            raise _not_in_cache(listing, file) from err


def _not_in_cache(listing: Listing, file: str) -> DataError:
    hint = "run it once where a hub can be reached, or name a file on disk"
    return DataError(f"{file} is not in the cache of {listing.hub}, and no hub answers", where=listing.repo, hint=hint)


LIST: dict[str, Callable[[str], Listing]] = {"huggingface": _list_huggingface, "modelscope": _list_modelscope}
FETCH: dict[str, Callable[[Listing, str], Path]] = {"huggingface": _fetch_huggingface, "modelscope": _fetch_modelscope}
