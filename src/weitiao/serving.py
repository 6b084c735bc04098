"""A finished run as a server: loads it, hands it to ``serve``, and waits until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

from weitiao import answering, data, model, runs, serve, tasks
from weitiao.errors import EngineError
from weitiao.log import logger
from weitiao.predict import calibrated
from weitiao.seams import Sampling


def serve_run(
    path: Path,
    host: str,
    port: int,
    limits: serve.Limits,
    *,
    key_file: Path | None = None,
    allow_image_urls: bool = False,
    name: str | None = None,
    ready: Callable[[str], None] = lambda _address: None,
) -> None:
    """Serve a run's tuned model over HTTP until the process is told to stop.

    Args:
        path: a run folder.
        host: address or name to listen on.
        port: 0 for any that is free.
        limits: of every request.
        key_file: keys of those who may ask, one a line; None for everybody who reaches the port.
        allow_image_urls: whether images are fetched from public web addresses.
        name: what clients call the model; the run folder's name when not given.
        ready: gets the server's address once requests are answered.

    Raises:
        CommandError: the port is taken, or the key file cannot be used.
    """
    keys = serve.read_keys(key_file) if key_file is not None else None
    with serve.open_socket(host, port) as listening:
        address = serve.address_of(listening)
        _warn_if_open(listening.getsockname()[0], address, has_key=keys is not None)
        served = load_served(path, name)
        serve.run_server(served, listening, limits, keys, allow_image_urls=allow_image_urls, ready=lambda: ready(address))


def _warn_if_open(host: str, address: str, *, has_key: bool) -> None:
    if not has_key and not ip_address(host).is_loopback:
        logger.warning("%s can be reached from other machines, and whoever reaches it may ask; --api-key-file asks for a key", address)


def load_served(path: Path, name: str | None = None) -> serve.Served:
    """Load a run for serving.

    Args:
        path: a run folder.
        name: what clients call the model; the folder's name when not given.

    Returns:
        The run.
    """
    run = runs.read_run(path)
    engine, loaded, renderer = answering.embedded_engine(run)
    task, recipe = answering.task_of(run)
    drawn = recipe.evaluate
    facts = model.read_facts(run.path / "best")
    candidates, temperature = answering.candidates_of(run), answering.temperature_of(run)
    return serve.Served(
        name=name or run.path.name,
        base=facts.base,
        created=int(datetime.fromisoformat(run.read("run")["started"]).timestamp()),
        engine=engine,
        new_batch=engine.step_batch,
        max_prompt_tokens=facts.max_prompt_tokens,
        renderer=renderer,
        task=task,
        read_rows=lambda rows, find_image: data.read_rows(rows, recipe.data, task, find_image, candidates),
        calibrated=lambda probabilities: calibrated(probabilities, temperature),
        system=tasks.usual_system(task, facts.system, candidates),
        sampling=Sampling(drawn.max_new_tokens, drawn.temperature, drawn.top_p, drawn.top_k, recipe.run.seed),
        batch_rows=drawn.batch_size,
        constrained=drawn.constrained,
        is_vision=loaded.is_vision,
    )


def serve_with_vllm(
    path: Path,
    host: str,
    port: int,
    limits: serve.Limits,
    *,
    python: str,
    key_file: Path | None = None,
    allow_image_urls: bool = False,
    name: str | None = None,
) -> None:
    """Start the user's own vLLM with a run's weights, template and limits; this process becomes that server.

    Args:
        path: a run folder.
        host: address to listen on.
        port: 1 to 65535.
        limits: of every request.
        python: the interpreter that has vLLM; empty for the one that runs now.
        key_file: with the key of those who may ask; None for everybody who reaches the port.
        allow_image_urls: whether images shall be fetched from the web, which is refused.
        name: what clients call the model; the run folder's name when not given.

    Raises:
        CommandError: something was asked that vLLM's server does not have, or the port is taken.
    """
    keys = serve.read_key_texts(key_file) if key_file is not None else ()
    run = vllm_run(path, name)
    words = serve.vllm_command(run, host, port, limits, python=serve.interpreter(python), allow_image_urls=allow_image_urls)
    with serve.open_socket(host, port) as listening:  # free, and of this machine; vLLM takes it once it is let go
        _warn_if_open(listening.getsockname()[0], serve.address_of(listening), has_key=bool(keys))
    serve.start_vllm(words, keys)


def vllm_run(path: Path, name: str | None = None) -> serve.VllmRun:
    """What vLLM needs to answer as a run does: the merged weights where they were exported, else the base and the adapter.

    Args:
        path: a run folder.
        name: what clients call the model; the folder's name when not given.

    Returns:
        Weights, tokenizer and settings.

    Raises:
        EngineError: a vision run has no merged weights.
    """
    run = runs.read_run(path)
    best, merged = run.path / "best", run.path / "merged"
    facts = model.read_facts(best)
    is_lora = facts.tuning["kind"] == "lora"
    has_merged = (merged / "config.json").exists()
    if facts.is_vision and not has_merged:
        hint = f"{'merge' if is_lora else 'export'} it first: weitiao export {run.path} --kind merged"
        # Only an export says in the image processor's own words how large pictures may be.
        what = "vLLM takes no adapter of a vision model here" if is_lora else "vLLM would read pictures by the base's limits, not the run's"
        raise EngineError(what, where=str(best), hint=hint)
    return serve.VllmRun(
        path=run.path,
        name=name or run.path.name,
        weights=merged if has_merged else Path(facts.base_path) if is_lora else best,
        adapter=best if is_lora and not has_merged else None,
        lora_rank=int(facts.tuning.get("r", 0)),
        tokenizer=best,
        is_vision=facts.is_vision,
        dtype=facts.dtype,
    )
