"""The page: a text or an image, a button, and the answers of both models. Gradio draws it; nothing is asked of another machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weitiao.errors import CommandError
from weitiao.hosts import is_local
from weitiao.web.views import STYLE, Shown, draw, formula

Answering = Callable[[str, Path | None], Shown]
"""Text and image -> answer; called by one thread at a time."""

ONLY_THIS_MACHINE = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; frame-ancestors 'self'"
"""Content-Security-Policy: what the browser refuses even if a library's script asks for it."""
NOT_HERE = "this page answers requests to localhost only"
CACHE_SECONDS = (60, 600)
"""How often uploaded files are looked through, and how old they become; what is left goes when the page ends."""
FORMULAS = [{"left": "$$", "right": "$$", "display": True}]


@contextmanager
def open_page(title: str, kind: str, base: Answering, tuned: Answering, *, with_image: bool, port: int) -> Iterator[str]:
    """Serve the page on 127.0.0.1 while the context lasts.

    Args:
        title: e.g. the run's name.
        kind: of work; decides how answers are drawn.
        base: the model that the run started from.
        tuned: the run's model.
        with_image: whether an image can be given.
        port: 0 for any that is free.

    Yields:
        The page's address.

    Raises:
        CommandError: Gradio is not installed, or the port is taken.
    """
    # Read when the library is imported: no message home, no question for newer versions.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        import gradio
        from starlette.middleware import Middleware
    except ImportError as error:
        raise CommandError("the page needs Gradio", where="--web", hint='pip install "weitiao[web]"') from error
    page = _blocks(gradio, title, kind, base, tuned, with_image=with_image)
    system = ["system-ui", "sans-serif"]
    try:
        _, address, _ = page.queue(default_concurrency_limit=1).launch(
            server_name="127.0.0.1",
            server_port=port or _free_port(),
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            theme=gradio.themes.Base(font=system, font_mono=["monospace"]),
            css=STYLE,
            app_kwargs={"middleware": [Middleware(_OnlyThisMachine)], "docs_url": None, "redoc_url": None},
            footer_links=[],
        )
    except OSError as error:
        raise CommandError("the port is taken", where=f"127.0.0.1:{port}", hint="name another with --port") from error
    try:
        yield address
    finally:
        page.close()


def _blocks(gradio: Any, title: str, kind: str, base: Answering, tuned: Answering, *, with_image: bool) -> Any:
    draws_formula = kind == "ocr"

    def answer(text: str, image: str | None = None) -> list[str]:
        place = Path(image) if image else None
        shown = [base(text, place), tuned(text, place)]
        return [draw(one, kind, text) for one in shown] + ([formula(one) for one in shown] if draws_formula else [])

    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        gradio.Markdown(f"## {title}")
        image = [gradio.Image(type="filepath", label="Image", sources=["upload", "clipboard"], elem_id="image")] if with_image else []
        text = gradio.Textbox(label="Text", lines=4, elem_id="text", visible=not (with_image and kind in ("ocr", "caption")))
        button = gradio.Button("Ask both", variant="primary", elem_id="ask")
        views, drawn = [], []
        with gradio.Row():
            for name, label in (("base", "Before: the base model"), ("tuned", "After: the tuned model")):
                with gradio.Column():
                    gradio.Markdown(f"### {label}")
                    if draws_formula:
                        drawn.append(gradio.Markdown(latex_delimiters=FORMULAS, elem_id=f"{name}-formula"))
                    views.append(gradio.HTML(elem_id=name))
        gradio.on([button.click, text.submit], answer, [text, *image], [*views, *drawn], api_name="ask")
    return page


class _OnlyThisMachine:
    """ASGI middleware: only requests that name this machine are let in, and every reply says that nothing may be fetched from elsewhere."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", ONLY_THIS_MACHINE.encode())]
            await send(message)

        is_http = scope["type"] == "http"
        if (is_http or scope["type"] == "websocket") and not is_local(_host(scope)):
            await (_refuse(with_policy) if is_http else send({"type": "websocket.close"}))
            return
        await self._app(scope, receive, with_policy if is_http else send)


def _host(scope: Any) -> str:
    return str(next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), ""))


async def _refuse(send: Any) -> None:
    """A page elsewhere can have its own name point to this machine; its requests still say that name."""
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain; charset=utf-8")]})
    await send({"type": "http.response.body", "body": NOT_HERE.encode()})


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
