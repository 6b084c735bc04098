"""Hub ids ``OWNER/NAME`` through the hubs' own clients: Hugging Face and ModelScope. Paths come from what the clients return.

``WEITIAO_HUB`` names one of them; otherwise a hub that has the model in its cache is taken, else whichever answers first. A complete
snapshot in a cache is used as it is, without a request; another ``revision`` fetches another.
"""

from __future__ import annotations

import importlib.util
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weitiao.errors import CommandError, ModelError
from weitiao.log import Advance, logger, progress
from weitiao.model.folder import lacks

ALLOWED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
"""Weights, settings, tokenizer and template; no pickles and no code."""

IGNORED = ["*/*"]
"""Copies of the model in other forms lie in folders of the repository."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PROBE_SECONDS = 5.0
MEGABYTE = 1_000_000


def resolve_hub(name: str, revision: str | None) -> Path:
    """Return the folder of a hub's model, downloaded first where no cache has it. Files that have arrived are kept.

    Args:
        name: ``OWNER/NAME``.
        revision: branch, tag or commit; the hub's default branch when None.

    Returns:
        The snapshot's folder, as the hub's own client names it.

    Raises:
        CommandError: ``WEITIAO_HUB`` is not a hub, or its client is not installed.
        ModelError: no hub answers, none has the model, it is gated, or the download broke.
    """
    hubs = _chosen_hubs()
    for hub in hubs:
        cached = FIND_CACHED[hub](name, revision)
        if cached is not None and lacks(cached) is None:
            logger.info("%s: from the cache of %s", name, hub)
            return cached
    if len(hubs) > 1:
        hubs = _that_answer(hubs, name)
    refusals: list[ModelError] = []
    for hub in hubs:
        try:
            return FETCH[hub](name, revision)
        except ModelError as err:
            refusals.append(err)
    raise refusals[0]


def _chosen_hubs() -> list[str]:
    chosen = os.environ.get("WEITIAO_HUB", "").lower()
    if chosen and chosen not in FETCH:
        raise CommandError("there is no such hub", where=f"WEITIAO_HUB={chosen}", hint=f"there are: {', '.join(FETCH)}")
    has_modelscope = importlib.util.find_spec("modelscope") is not None
    if chosen == "modelscope" and not has_modelscope:
        raise CommandError("ModelScope's client is not installed", where="WEITIAO_HUB=modelscope", hint="pip install 'weitiao[modelscope]'")
    if chosen:
        return [chosen]
    return ["huggingface", "modelscope"] if has_modelscope else ["huggingface"]


def _endpoint(hub: str) -> str:
    if hub == "modelscope":
        return os.environ.get("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn")
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _that_answer(hubs: list[str], name: str) -> list[str]:
    """The hubs that can be reached, the quickest first."""
    with ThreadPoolExecutor(len(hubs)) as pool:
        probes = {pool.submit(_answers, _endpoint(hub)): hub for hub in hubs}
        answering = [probes[probe] for probe in as_completed(probes) if probe.result()]
    if not answering:
        raise _no_answer(name, " and ".join(_endpoint(hub) for hub in hubs))
    return answering


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


# ---- Hugging Face -----------------------------------------------------------------------------------------------------


def _cached_by_huggingface(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=ALLOWED, ignore_patterns=IGNORED))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _fetch_from_huggingface(name: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    with _huggingface_in_sentences(name, revision, _no_answer):
        files = HfApi().model_info(name, revision=revision, files_metadata=True).siblings or []
    sizes = {file.rfilename: file.size or 0 for file in files}
    wanted = list(filter_repo_objects(sizes, allow_patterns=ALLOWED, ignore_patterns=IGNORED))
    total = sum(sizes[file] for file in wanted) // MEGABYTE
    with _huggingface_in_sentences(name, revision, _broken), progress(f"fetching {name} from Hugging Face", total, "MB") as advance:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=ALLOWED, ignore_patterns=IGNORED, tqdm_class=_reporting_bar(advance)
        )
    return Path(folder)


def _reporting_bar(advance: Advance) -> type[Any]:
    """A progress bar as Hugging Face's client wants one, that shows nothing itself and hands bytes on."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        shown = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **{name: value for name, value in kwargs.items() if name != "name"} | {"disable": True})
            self.n_bytes = 0

        def update(self, n: float | None = 1) -> bool | None:
            if self.counts_bytes:
                self.n_bytes += int(n or 0)
                done = self.n_bytes // MEGABYTE
                if done > Bar.shown:  # the client counts the same bytes in several bars
                    advance(done - Bar.shown)
                    Bar.shown = done
            return None

    return Bar


@contextmanager
def _huggingface_in_sentences(name: str, revision: str | None, when_cut: Callable[[str, str, Exception], ModelError]) -> Iterator[None]:
    from huggingface_hub import errors

    place = _endpoint("huggingface")
    try:
        yield
    except errors.GatedRepoError as err:
        raise ModelError(
            "this model is gated: its owner asks for an agreement first",
            where=name,
            hint=f"agree at {place}/{name}, then log in with `hf auth login` or set HF_TOKEN",
        ) from err
    except errors.RevisionNotFoundError as err:
        raise ModelError(f"there is no revision `{revision}`", where=name, hint=f"see {place}/{name}") from err
    except errors.RepositoryNotFoundError as err:
        raise _unknown(name, place, "private ones need `hf auth login` or HF_TOKEN") from err
    except errors.LocalEntryNotFoundError as err:
        raise _no_answer(name, place, err) from err
    except errors.HfHubHTTPError as err:
        raise ModelError(f"the hub refused: {str(err).splitlines()[0]}", where=name, hint="try again later") from err
    except errors.HTTPError as err:  # type: ignore[attr-defined]  # of the client's HTTP library, whose name depends on its version
        raise when_cut(name, place, err) from err
    except ConnectionError as err:
        raise _no_answer(name, place, err) from err


# ---- ModelScope -------------------------------------------------------------------------------------------------------


def _cached_by_modelscope(name: str, revision: str | None) -> Path | None:
    from modelscope.hub.snapshot_download import snapshot_download
    from modelscope_hub.errors import HubError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (HubError, ValueError, OSError):
        return None


def _fetch_from_modelscope(name: str, revision: str | None) -> Path:
    from modelscope.hub.snapshot_download import snapshot_download

    with _modelscope_in_sentences(name, revision), progress(f"fetching {name} from ModelScope", None, "MB") as advance:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=ALLOWED,
            ignore_patterns=IGNORED,
            progress_callbacks=[_reporting_callback(advance)],
        )
    return Path(folder)


def _reporting_callback(advance: Advance) -> type[Any]:
    from modelscope.hub.callback import ProgressCallback

    class Callback(ProgressCallback):  # type: ignore[misc]
        n_bytes = 0

        def update(self, size: int) -> None:
            before = Callback.n_bytes // MEGABYTE
            Callback.n_bytes += size
            advance(Callback.n_bytes // MEGABYTE - before)

    return Callback


@contextmanager
def _modelscope_in_sentences(name: str, revision: str | None) -> Iterator[None]:
    import requests
    from modelscope_hub import errors

    place = _endpoint("modelscope")
    try:
        yield
    except requests.HTTPError as err:
        status = err.response.status_code if err.response is not None else 404
        if status in {401, 403}:
            raise ModelError(
                "ModelScope does not give this model without a login", where=name, hint="set MODELSCOPE_API_TOKEN, or `modelscope login`"
            ) from err
        wanted = f"{name}, revision {revision}" if revision else name
        raise _unknown(wanted, place, "private ones need `modelscope login`") from err
    except errors.FileDownloadError as err:
        raise _broken(name, place, err) from err
    except (errors.NetworkError, requests.RequestException) as err:
        raise _no_answer(name, place, err) from err
    except errors.HubError as err:
        raise ModelError(f"ModelScope refused: {str(err).splitlines()[0]}", where=name, hint="try again later") from err


# ---- what went wrong --------------------------------------------------------------------------------------------------


def _no_answer(name: str, place: str, _err: Exception | None = None) -> ModelError:
    return ModelError(
        f"no answer from {place}",
        where=name,
        hint="check the network (HF_ENDPOINT and MODELSCOPE_ENDPOINT name mirrors)\n"
        "without a hub: a folder with the weights, or model.path=bundled:qwen2.5-coder-0.5b-instruct",
    )


def _unknown(name: str, place: str, login: str) -> ModelError:
    return ModelError(f"there is no such model at {place}", where=name, hint=f"check the spelling; {login}")


def _broken(name: str, place: str, err: Exception) -> ModelError:
    return ModelError(
        f"the download from {place} broke off: {str(err).splitlines()[0]}",
        where=name,
        hint="try again: files that have arrived are kept",
    )


FETCH: dict[str, Callable[[str, str | None], Path]] = {
    "huggingface": _fetch_from_huggingface,
    "modelscope": _fetch_from_modelscope,
}
FIND_CACHED: dict[str, Callable[[str, str | None], Path | None]] = {
    "huggingface": _cached_by_huggingface,
    "modelscope": _cached_by_modelscope,
}
