"""Data sets of Hugging Face and ModelScope: ``hub:OWNER/NAME`` to files, fetched one by one through the hubs' own clients.

``WEITIAO_HUB`` names one of the hubs; otherwise the one that answers first is asked. A file is fetched when its first row is wanted, so
that ``data.limit`` spares the rest. Which files make a subset's split is told by the data set's card, else by their names.
"""

from __future__ import annotations

import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count
from pathlib import Path

from weitiao.data.files import READERS
from weitiao.data.hub_files import choose_files
from weitiao.data.rows import RawRow
from weitiao.errors import CommandError, DataError
from weitiao.log import logger

PREFIX = "hub:"
CARD = "README.md"
PROBE_SECONDS = 5.0
PAGE_FILES = 200
"""Files that ModelScope is asked to list at once."""

ENDPOINTS = {
    "huggingface": ("HF_ENDPOINT", "https://huggingface.co"),
    "modelscope": ("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn"),
}


@dataclass(frozen=True)
class HubFile:
    """A file of a data set on a hub; fetched when it is read."""

    hub: str
    repo: str
    file: str

    @property
    def name(self) -> str:
        """What origins call the file."""
        return f"{self.repo}/{self.file}"

    @cached_property
    def path(self) -> Path:
        """Where the file lies once it is fetched; raises ``DataError`` where it cannot be."""
        return fetch_file(self.hub, self.repo, self.file)

    def rows(self, encoding: str | None, delimiter: str | None) -> Iterator[RawRow]:
        """Fetch the file and read it row by row, as ``DataFile.rows`` does."""
        for number, values in READERS[self.path.suffix.lower()](self.path, encoding, delimiter):
            origin = f"{self.name}:{number}"
            yield RawRow(origin, problem=values) if isinstance(values, str) else RawRow(origin, values)

    def beside(self, named: str) -> Path | None:
        """A file that a row names from this file's folder, fetched; None where the hub has none of that name."""
        parts = [part for part in (Path(self.file).parent / named).parts if part != "."]
        file = "/".join(parts)
        return fetch_file(self.hub, self.repo, file) if file in list_files(self.hub, self.repo) else None


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
        DataError: no hub answers or none has the data set, or it has no such subset or split.
    """
    repo = path.removeprefix(PREFIX)
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise DataError("a hub data set is named hub:OWNER/NAME", where=path)
    refusals: list[DataError] = []
    for hub in _hubs(repo):
        try:
            files = list_files(hub, repo)
        except DataError as err:
            refusals.append(err)
            continue
        card = fetch_file(hub, repo, CARD).read_text(encoding="utf-8", errors="replace") if CARD in files else ""
        chosen = choose_files(files, card, subset, split, path)
        logger.info("%s: %d files from %s", repo, len(chosen), hub)
        return [HubFile(hub, repo, file) for file in chosen]
    raise refusals[0]


def _hubs(repo: str) -> list[str]:
    """The hub that ``WEITIAO_HUB`` names, else those that answer, the quickest first."""
    chosen = os.environ.get("WEITIAO_HUB", "").lower()
    if chosen and chosen not in ENDPOINTS:
        raise CommandError("there is no such hub", where=f"WEITIAO_HUB={chosen}", hint=f"there are: {', '.join(ENDPOINTS)}")
    has_modelscope = importlib.util.find_spec("modelscope") is not None
    if chosen == "modelscope" and not has_modelscope:
        raise CommandError("ModelScope's client is not installed", where="WEITIAO_HUB=modelscope", hint="pip install 'weitiao[modelscope]'")
    if chosen:
        return [chosen]
    hubs = ["huggingface", "modelscope"] if has_modelscope else ["huggingface"]
    with ThreadPoolExecutor(len(hubs)) as pool:
        probes = {pool.submit(_answers, _endpoint(hub)): hub for hub in hubs}
        answering = [probes[probe] for probe in as_completed(probes) if probe.result()]
    if not answering:
        raise _unreachable(repo, " or ".join(_endpoint(hub) for hub in hubs))
    return answering


def _endpoint(hub: str) -> str:
    variable, usual = ENDPOINTS[hub]
    return os.environ.get(variable, usual)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


@lru_cache(maxsize=16)
def list_files(hub: str, repo: str) -> tuple[str, ...]:
    """The paths of all files of a data set, asked for once in a process.

    Args:
        hub: ``huggingface`` or ``modelscope``.
        repo: ``OWNER/NAME``.

    Returns:
        Paths in the data set, sorted.

    Raises:
        DataError: the hub does not answer, or does not give the data set.
    """
    return tuple(sorted(LIST[hub](repo)))


def fetch_file(hub: str, repo: str, file: str) -> Path:
    """Fetch a file into the hub client's own cache; one that is there already is not fetched again.

    Args:
        hub: ``huggingface`` or ``modelscope``.
        repo: ``OWNER/NAME``.
        file: its path in the data set.

    Returns:
        Where the client put it.

    Raises:
        DataError: the hub does not answer or refuses, or the download broke off.
    """
    return FETCH[hub](repo, file)


def _list_huggingface(repo: str) -> list[str]:
    from huggingface_hub import HfApi

    with _huggingface_in_sentences(repo):
        return HfApi().list_repo_files(repo, repo_type="dataset")


def _fetch_huggingface(repo: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _huggingface_in_sentences(repo):
        return Path(hf_hub_download(repo, file, repo_type="dataset"))


@contextmanager
def _huggingface_in_sentences(repo: str) -> Iterator[None]:
    from huggingface_hub import errors

    place = _endpoint("huggingface")
    try:
        yield
    except errors.GatedRepoError as err:
        hint = f"agree at {place}/datasets/{repo}, then log in with `hf auth login` or set HF_TOKEN"
        raise DataError("this data set is gated: its owner asks for an agreement first", where=repo, hint=hint) from err
    except errors.RepositoryNotFoundError as err:
        raise _unknown(repo, place, "private ones need `hf auth login` or HF_TOKEN") from err
    except errors.LocalEntryNotFoundError as err:
        raise _unreachable(repo, place) from err
    except errors.HfHubHTTPError as err:
        raise DataError(f"the hub refused: {_first_line(err)}", where=repo, hint="try again later") from err
    except errors.HFValidationError as err:
        raise DataError(f"this is no name of a data set: {_first_line(err)}", where=repo) from err
    except errors.HTTPError as err:  # type: ignore[attr-defined]  # of the client's HTTP library, whose name depends on its version
        raise _broken(repo, place, err) from err
    except OSError as err:
        raise _broken(repo, place, err) from err


def _list_modelscope(repo: str) -> list[str]:
    from modelscope.hub.api import HubApi

    api, paths = HubApi(), list[str]()
    with _modelscope_in_sentences(repo):
        for number in count(1):
            page = api.get_dataset_files(repo_id=repo, page_number=number, page_size=PAGE_FILES)
            paths += [file["Path"] for file in page if file.get("Type") != "tree"]
            if len(page) < PAGE_FILES:
                break
    return paths


def _fetch_modelscope(repo: str, file: str) -> Path:
    from modelscope.hub.file_download import dataset_file_download

    with _modelscope_in_sentences(repo, is_fetching=True):
        return Path(dataset_file_download(dataset_id=repo, file_path=file))


@contextmanager
def _modelscope_in_sentences(repo: str, *, is_fetching: bool = False) -> Iterator[None]:
    import requests
    from modelscope_hub import errors

    place = _endpoint("modelscope")
    try:
        yield
    except requests.HTTPError as err:
        status = err.response.status_code if err.response is not None else 404
        if status in {401, 403}:
            hint = "set MODELSCOPE_API_TOKEN, or `modelscope login`"
            raise DataError("ModelScope does not give this data set without a login", where=repo, hint=hint) from err
        raise _unknown(repo, place, "private ones need `modelscope login`") from err
    except errors.NotExistError as err:
        raise _unknown(repo, place, "private ones need `modelscope login`") from err
    except errors.FileDownloadError as err:
        raise _broken(repo, place, err) from err
    except (errors.NetworkError, requests.RequestException) as err:
        # The hub has answered with its list of files by the time one of them is fetched.
        raise (_broken(repo, place, err) if is_fetching else _unreachable(repo, place)) from err
    except errors.HubError as err:
        raise DataError(f"ModelScope refused: {_first_line(err)}", where=repo, hint="try again later") from err
    except OSError as err:
        raise _broken(repo, place, err) from err


def _first_line(err: Exception) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0]


def _unknown(repo: str, place: str, login: str) -> DataError:
    return DataError(f"there is no such data set at {place}", where=repo, hint=f"check the spelling; {login}")


def _unreachable(repo: str, place: str) -> DataError:
    hint = "check the network (HF_ENDPOINT and MODELSCOPE_ENDPOINT name mirrors), or name a file on disk"
    return DataError(f"no answer from {place}", where=repo, hint=hint)


def _broken(repo: str, place: str, err: Exception) -> DataError:
    return DataError(f"the download from {place} broke off: {_first_line(err)}", where=repo, hint="try again: what has arrived is kept")


LIST: dict[str, Callable[[str], list[str]]] = {"huggingface": _list_huggingface, "modelscope": _list_modelscope}
FETCH: dict[str, Callable[[str, str], Path]] = {"huggingface": _fetch_huggingface, "modelscope": _fetch_modelscope}
