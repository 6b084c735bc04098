"""The hubs that models and data sets come from: which of them is asked, and what their clients' errors mean in sentences.

``WEITIAO_HUB`` names one of them; otherwise those that answer are asked, the quickest first. Paths come from what the clients return.
"""

from __future__ import annotations

import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass

from weitiao.errors import CommandError, WeitiaoError

PROBE_SECONDS = 5.0
ENDPOINTS = {
    "huggingface": ("HF_ENDPOINT", "https://huggingface.co"),
    "modelscope": ("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn"),
}
"""Hub -> the variable that names a mirror of it, and its usual address."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a hub, and how messages speak of it."""

    name: str
    """``OWNER/NAME``."""
    noun: str
    """``model`` or ``data set``."""
    error: type[WeitiaoError]
    """What is raised."""
    page: str
    """Path of its page on Hugging Face."""
    instead: str
    """What to do where no hub can be reached."""
    kept: str
    """What a download that broke off leaves."""
    revision: str | None = None


def chosen_hubs() -> list[str]:
    """The hubs that may be asked.

    Returns:
        The one that ``WEITIAO_HUB`` names, else every one whose client is installed.

    Raises:
        CommandError: ``WEITIAO_HUB`` is not a hub, or its client is not installed.
    """
    chosen = os.environ.get("WEITIAO_HUB", "").lower()
    if chosen and chosen not in ENDPOINTS:
        raise CommandError("there is no such hub", where=f"WEITIAO_HUB={chosen}", hint=f"there are: {', '.join(ENDPOINTS)}")
    has_modelscope = importlib.util.find_spec("modelscope") is not None
    if chosen == "modelscope" and not has_modelscope:
        raise CommandError("ModelScope's client is not installed", where="WEITIAO_HUB=modelscope", hint="pip install 'weitiao[modelscope]'")
    if chosen:
        return [chosen]
    return ["huggingface", "modelscope"] if has_modelscope else ["huggingface"]


def hubs_that_answer(hubs: Sequence[str], wanted: Wanted) -> list[str]:
    """The hubs that can be reached, the quickest first.

    Args:
        hubs: at least one. A single one is returned without being tried: its client says itself what is wrong.
        wanted: for the message.

    Returns:
        At least one hub.

    Raises:
        WeitiaoError: of the class that ``wanted`` names; none of several answers.
    """
    if len(hubs) == 1:
        return list(hubs)
    with ThreadPoolExecutor(len(hubs)) as pool:
        probes = {pool.submit(answers, endpoint(hub)): hub for hub in hubs}
        answering = [probes[probe] for probe in as_completed(probes) if probe.result()]
    if not answering:
        raise no_answer(wanted, " and ".join(endpoint(hub) for hub in hubs))
    return answering


def endpoint(hub: str) -> str:
    """The address of a hub, or of the mirror that the environment names for it."""
    variable, usual = ENDPOINTS[hub]
    return os.environ.get(variable) or usual


def answers(url: str) -> bool:
    """Whether anything answers at a hub's address, be it with a refusal."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


# ---- what went wrong --------------------------------------------------------------------------------------------------


@contextmanager
def huggingface_in_sentences(wanted: Wanted, *, is_fetching: bool) -> Iterator[None]:
    """Translate what Hugging Face's client raises.

    Args:
        wanted: what was asked for.
        is_fetching: whether a download had begun: then a connection that ends has broken off.

    Raises:
        WeitiaoError: of the class that ``wanted`` names.
    """
    from huggingface_hub import errors

    place = endpoint("huggingface")
    page = f"{place}/{wanted.page}"
    try:
        yield
    except errors.GatedRepoError as err:
        hint = f"agree at {page}, then log in with `hf auth login` or set HF_TOKEN"
        raise wanted.error(f"this {wanted.noun} is gated: its owner asks for an agreement first", where=wanted.name, hint=hint) from err
    except errors.RevisionNotFoundError as err:
        raise wanted.error(f"there is no revision `{wanted.revision}`", where=wanted.name, hint=f"see {page}") from err
    except errors.RepositoryNotFoundError as err:
        raise _unknown(wanted, place, "private ones need `hf auth login` or HF_TOKEN") from err
    except errors.LocalEntryNotFoundError as err:
        raise no_answer(wanted, place) from err
    except errors.HfHubHTTPError as err:
        raise wanted.error(f"the hub refused: {_first_line(err)}", where=wanted.name, hint="try again later") from err
    except errors.HFValidationError as err:
        raise wanted.error(f"this is no name of a {wanted.noun}: {_first_line(err)}", where=wanted.name) from err
    # HTTPError is that of the client's HTTP library, whose name depends on its version.
    except (errors.HTTPError, ConnectionError) as err:  # type: ignore[attr-defined]
        raise (_broken(wanted, place, err) if is_fetching else no_answer(wanted, place)) from err
    except OSError as err:
        raise _broken(wanted, place, err) from err


@contextmanager
def modelscope_in_sentences(wanted: Wanted, *, is_fetching: bool) -> Iterator[None]:
    """Translate what ModelScope's client raises; as ``huggingface_in_sentences``."""
    import requests
    from modelscope_hub import errors

    place = endpoint("modelscope")
    login = "private ones need `modelscope login`"
    try:
        yield
    except requests.HTTPError as err:
        status = err.response.status_code if err.response is not None else 404
        if status in {401, 403}:
            hint = "set MODELSCOPE_API_TOKEN, or `modelscope login`"
            raise wanted.error(f"ModelScope does not give this {wanted.noun} without a login", where=wanted.name, hint=hint) from err
        raise _unknown(wanted, place, login) from err
    except errors.NotExistError as err:
        raise _unknown(wanted, place, login) from err
    except errors.FileDownloadError as err:
        raise _broken(wanted, place, err) from err
    except (errors.NetworkError, requests.RequestException) as err:
        raise (_broken(wanted, place, err) if is_fetching else no_answer(wanted, place)) from err
    except errors.HubError as err:
        raise wanted.error(f"ModelScope refused: {_first_line(err)}", where=wanted.name, hint="try again later") from err
    except OSError as err:
        raise _broken(wanted, place, err) from err


def no_answer(wanted: Wanted, place: str) -> WeitiaoError:
    """The error where no hub can be reached.

    Args:
        wanted: what was asked for.
        place: the address, or several.

    Returns:
        To be raised.
    """
    hint = f"check the network (HF_ENDPOINT and MODELSCOPE_ENDPOINT name mirrors)\n{wanted.instead}"
    return wanted.error(f"no answer from {place}", where=wanted.name, hint=hint)


def _unknown(wanted: Wanted, place: str, login: str) -> WeitiaoError:
    where = f"{wanted.name}, revision {wanted.revision}" if wanted.revision else wanted.name
    return wanted.error(f"there is no such {wanted.noun} at {place}", where=where, hint=f"check the spelling; {login}")


def _broken(wanted: Wanted, place: str, err: Exception) -> WeitiaoError:
    what = f"the download from {place} broke off: {_first_line(err)}"
    return wanted.error(what, where=wanted.name, hint=f"try again: {wanted.kept}")


def _first_line(err: Exception) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0]
