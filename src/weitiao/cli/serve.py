"""``weitiao serve``: a run's model over HTTP."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from weitiao.cli.ahead import importing
from weitiao.cli.verbs import RunFolder, app, find_run
from weitiao.errors import CommandError

LIBRARIES = ("fastapi", "uvicorn", "prometheus_client")


@app.command()
def serve(
    run: RunFolder,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network that this machine is in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model; the run folder's name if not given.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Keys of those who may ask, one a line.")] = None,
    allow_image_urls: Annotated[
        bool, typer.Option("--allow-image-urls", help="Fetch images that requests name by public web address.")
    ] = False,
    max_prompt_tokens: Annotated[int, typer.Option(min=1, help="Longest prompt of a chat request.")] = 8192,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 1024,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows of one request to /v1/tasks/predict.")] = 256,
    max_images: Annotated[int, typer.Option(min=0, help="Images of one chat request or row.")] = 8,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of an image.")] = 20_000_000,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Bytes of a request's body.")] = 20_000_000,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Prompts that may wait for a place in the batch; more are refused with 503.")
    ] = 512,
    max_seconds: Annotated[float, typer.Option(min=0.001, help="Seconds until an answer is given up with 504.")] = 300,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="embedded, or vllm[:PYTHON] to start your own vLLM with the run's settings.")
    ] = "embedded",
) -> None:
    """Serve a run's model over HTTP, as OpenAI's API does.

    /v1/chat/completions, /v1/models, /v1/tasks/predict, /health and /metrics, on 127.0.0.1 unless another host is named. SIGTERM or
    Ctrl-C finishes the answers that were begun. Needs weitiao[serve]; with --engine vllm, vLLM instead.
    """
    path = find_run(run)
    kind, _, python = engine.partition(":")
    if kind not in ("embedded", "vllm") or (kind == "embedded" and python):
        raise CommandError(
            f"`{engine}` cannot serve", where="--engine", hint="embedded, or vllm[:PYTHON] with the interpreter that has vLLM"
        )
    if kind == "embedded":
        _need_libraries()
    with importing():
        from weitiao import serving
    from weitiao.cli.show import say
    from weitiao.serve import Limits

    limits = Limits(max_prompt_tokens, max_new_tokens, max_rows, max_images, max_pixels, max_body_bytes, max_waiting, max_seconds)
    if kind == "vllm":
        serving.serve_with_vllm(
            path, host, port, limits, python=python, key_file=api_key_file, allow_image_urls=allow_image_urls, name=name
        )
    serving.serve_run(
        path,
        host,
        port,
        limits,
        key_file=api_key_file,
        allow_image_urls=allow_image_urls,
        name=name,
        ready=lambda address: say(f"serving {name or path.name} on {address}  (Ctrl-C finishes what was begun and ends)"),
    )


def _need_libraries() -> None:
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise CommandError(f"the server needs {', '.join(missing)}, which is not installed", hint="pip install 'weitiao[serve]'")
