"""Hub ids ``OWNER/NAME`` through the hubs' own clients: Hugging Face and ModelScope. Paths come from what the clients return.

Of the hubs that may be asked (``hubs.py``) one that has the model in its cache is taken, else whichever answers first. A complete
snapshot in a cache is used as it is, without a request; another ``revision`` fetches another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weitiao.errors import ModelError
from weitiao.hubs import Wanted, chosen_hubs, hubs_that_answer, huggingface_in_sentences, modelscope_in_sentences
from weitiao.log import Advance, logger, progress
from weitiao.model.folder import lacks

SETTINGS = ["*.json", "*.txt", "*.jinja", "*.model"]
"""Settings, tokenizer, image processor and template: a few megabytes."""

ALLOWED = ["*.safetensors", *SETTINGS]
"""With the weights; no pickles and no code."""

IGNORED = ["*/*"]
"""Copies of the model in other forms lie in folders of the repository."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MEGABYTE = 1_000_000


def resolve_hub(name: str, revision: str | None, *, weights: bool = True) -> Path:
    """Return the folder of a hub's model, downloaded first where no cache has it. Files that have arrived are kept.

    Args:
        name: ``OWNER/NAME``.
        revision: branch, tag or commit; the hub's default branch when None.
        weights: whether they are needed; without, only the small files are fetched.

    Returns:
        The snapshot's folder, as the hub's own client names it.

    Raises:
        CommandError: ``WEITIAO_HUB`` is not a hub, or its client is not installed.
        ModelError: no hub answers, none has the model, it is gated, or the download broke.
    """
    hubs = chosen_hubs()
    for hub in hubs:
        cached = FIND_CACHED[hub](name, revision)
        if cached is not None and lacks(cached, weights=weights) is None:
            logger.info("%s: from the cache of %s", name, hub)
            return cached
    refusals: list[ModelError] = []
    for hub in hubs_that_answer(hubs, _wanted(name, revision)):
        try:
            return FETCH[hub](name, revision, ALLOWED if weights else SETTINGS)
        except ModelError as err:
            refusals.append(err)
    raise refusals[0]


def _wanted(name: str, revision: str | None) -> Wanted:
    instead = "without a hub: a folder with the weights, or model.path=bundled:qwen2.5-coder-0.5b-instruct"
    return Wanted(name, "model", ModelError, name, instead, "files that have arrived are kept", revision)


def _noun(name: str, patterns: list[str]) -> str:
    return name if patterns == ALLOWED else f"the tokenizer of {name}"


# ---- Hugging Face -----------------------------------------------------------------------------------------------------


def _cached_by_huggingface(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=ALLOWED, ignore_patterns=IGNORED))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _fetch_from_huggingface(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    with huggingface_in_sentences(_wanted(name, revision), is_fetching=False):
        files = HfApi().model_info(name, revision=revision, files_metadata=True).siblings or []
    sizes = {file.rfilename: file.size or 0 for file in files}
    wanted = list(filter_repo_objects(sizes, allow_patterns=patterns, ignore_patterns=IGNORED))
    total = sum(sizes[file] for file in wanted) // MEGABYTE
    with (
        huggingface_in_sentences(_wanted(name, revision), is_fetching=True),
        progress(f"fetching {_noun(name, patterns)} from Hugging Face", total, "MB") as advance,
    ):
        folder = snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=IGNORED, tqdm_class=_reporting_bar(advance)
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


# ---- ModelScope -------------------------------------------------------------------------------------------------------


def _cached_by_modelscope(name: str, revision: str | None) -> Path | None:
    from modelscope.hub.snapshot_download import snapshot_download
    from modelscope_hub.errors import HubError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (HubError, ValueError, OSError):
        return None


def _fetch_from_modelscope(name: str, revision: str | None, patterns: list[str]) -> Path:
    from modelscope.hub.snapshot_download import snapshot_download

    with (
        modelscope_in_sentences(_wanted(name, revision), is_fetching=False),
        progress(f"fetching {_noun(name, patterns)} from ModelScope", None, "MB") as advance,
    ):
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=patterns,
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


FETCH: dict[str, Callable[[str, str | None, list[str]], Path]] = {
    "huggingface": _fetch_from_huggingface,
    "modelscope": _fetch_from_modelscope,
}
FIND_CACHED: dict[str, Callable[[str, str | None], Path | None]] = {
    "huggingface": _cached_by_huggingface,
    "modelscope": _cached_by_modelscope,
}
