"""Parts of the server that need no process: stop texts, keys, addresses of images, images, vLLM's command line."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from weitiao.errors import CommandError, EngineError
from weitiao.hosts import is_local
from weitiao.seams import Sample
from weitiao.serve import Limits, VllmRun, open_socket, read_keys, start_vllm, vllm_command
from weitiao.serve.counts import Counts
from weitiao.serve.fetch import addresses, fetch_image, is_public
from weitiao.serve.gate import Gate
from weitiao.serve.images import RequestImages
from weitiao.serve.jobs import Job
from weitiao.serve.refusal import Refusal
from weitiao.serve.vllm import NO_DOMAIN
from weitiao.serve.waiting import finished
from weitiao.serve.writing import Writing
from weitiao.serving import vllm_run

LETTERS = dict(enumerate("abcdefgh"))


def written(ids: list[int], stops: list[str], decode=lambda ids: "".join(LETTERS[i] for i in ids)) -> tuple[list[str], bool]:
    writing = Writing(decode, stops)
    pieces = [writing.take([token]) for token in ids]
    return [*pieces, writing.end(decode(ids))], writing.stopped


@pytest.mark.parametrize(
    ("stops", "pieces", "stopped"),
    [
        ([], ["a", "b", "c", "d", ""], False),
        (["cd"], ["a", "b", "", "", ""], True),
        (["bd"], ["a", "", "bc", "d", ""], False),
        (["de"], ["a", "b", "c", "", "d"], False),
        (["b", "ab"], ["", "", "", "", ""], True),
        (["a"], ["", "", "", "", ""], True),
    ],
    ids=["none", "met", "begun but not met", "begun at the end", "the earlier one", "at once"],
)
def test_text_is_held_back_while_it_may_begin_a_stop(stops, pieces, stopped):
    assert written([0, 1, 2, 3], stops) == (pieces, stopped)


def test_tokens_that_come_together_are_those_up_to_the_stop_text():
    writing = Writing(lambda ids: "".join(LETTERS[i] for i in ids), ["cd"])
    assert (writing.take([0]), writing.take([1, 2, 3, 4, 5])) == ("a", "b")
    assert (writing.said, writing.stopped, writing.n_tokens) == ("ab", True, 4)


def test_half_a_character_is_held_back():
    whole = "a微b".encode()

    def decode(ids):
        return bytes(whole[i] for i in ids).decode("utf-8", "replace")

    assert written([0, 1, 2, 3, 4], [], decode)[0] == ["a", "", "", "微", "b", ""]
    assert written([0, 1, 2], [], decode)[0] == ["a", "", "", "\ufffd"]


def test_any_of_the_keys_opens_and_nothing_else_does(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst-key-0123456789\n\nsecond-key-0123456789\n")
    file.chmod(0o600)
    keys = read_keys(file)
    assert keys.allow("Bearer first-key-0123456789")
    assert keys.allow("bearer  second-key-0123456789")
    for wrong in (None, "", "Bearer ", "Bearer first-key-012345678", "Basic first-key-0123456789", "first-key-0123456789", "Bearer # ours"):
        assert not keys.allow(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# none\n", "no key in the file"),
        ("short\n", "at least 16 characters"),
        ("has a space in it 123\n", "without spaces"),
        (None, "cannot be read"),
    ],
)
def test_a_key_file_that_protects_nothing_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "keys").write_text(text)
    with pytest.raises(CommandError, match=message):
        read_keys(tmp_path / "keys")


def test_a_key_file_that_others_can_read_is_told(tmp_path, caplog):
    (tmp_path / "keys").write_text("first-key-0123456789\n")
    (tmp_path / "keys").chmod(0o644)
    read_keys(tmp_path / "keys")
    assert "chmod 600" in caplog.text


INSIDE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255",
    "::1", "::", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1", "localhost",
    "fec0::1", "64:ff9b:1::808:808", "::127.0.0.1", "::8.8.8.8",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_an_address_outside_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "found", "message"),
    [
        ("http://inside.example/a.png", ["10.0.0.1"], "does not lie in the public internet"),
        ("http://both.example/a.png", ["8.8.8.8", "127.0.0.1"], "does not lie in the public internet"),
        ("http://127.0.0.1/a.png", ["127.0.0.1"], "does not lie in the public internet"),
        ("http://nowhere.example/a.png", [], "does not lie in the public internet"),
        ("ftp://a.example/a.png", ["8.8.8.8"], "neither http nor https"),
        ("http://user:pass@a.example/", ["8.8.8.8"], "holds a password"),
        ("http://[::1/", ["8.8.8.8"], "is no address"),
        ("http://" + "a" * 64 + ".example/a.png", None, "cannot be reached"),
        ("http://a..example/a.png", None, "cannot be reached"),
    ],
)
def test_an_image_is_not_fetched_from_there(url, found, message):
    with pytest.raises(Refusal, match=message):
        fetch_image(url, 1000, 1.0, addresses if found is None else lambda _host, _port: found)


def test_a_name_that_is_not_found_in_time_is_given_up():
    def slowly(_host: str, _port: int) -> list[str]:
        time.sleep(3)
        return ["8.8.8.8"]

    started = time.monotonic()
    with pytest.raises(Refusal, match="cannot be reached"):
        fetch_image("http://slow.example/a.png", 1000, 0.5, slowly)
    assert time.monotonic() - started < 2


class Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        port = self.server.server_address[1]
        there = {"/moved": f"http://ok.example:{port}/a.png", "/inside": f"http://inside.example:{port}/a.png", "/round": "/round"}
        there["/broken"] = "http://[::1/a.png"
        if self.path in there:
            self.send_response(302)
            self.send_header("Location", there[self.path])
            self.end_headers()
            return
        if self.path == "/drip":
            for letter in "HTTP/1.0 200 OK\r\nX-Long: drop by drop\r\n\r\n":
                self.wfile.write(letter.encode())
                time.sleep(0.2)
            return
        if "%" in self.path:
            self.send_response(200 if self.path == "/%E5%9B%BE%20.png?a=%C3%A9%2F" and self.headers["Host"].startswith("ok.") else 404)
            self.end_headers()
            self.wfile.write(b"x" * 10)
            return
        self.send_response(404 if self.path == "/none" else 200)
        self.end_headers()
        if self.path == "/slow":
            time.sleep(3)
        self.wfile.write(b"x" * (2000 if self.path == "/large" else 10))

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture(scope="module")
def pictures() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


NAMES = {"ok.example": ["127.0.0.1"], "inside.example": ["10.0.0.1"]}


def fetched(url: str) -> bytes:
    """With this machine in the place of the internet."""
    return fetch_image(url, 1000, 1.0, lambda host, _port: NAMES[host], lambda address: address == "127.0.0.1")


@pytest.mark.parametrize("path", ["/a.png", "/moved", "/图%20.png?a=é%2F"])
def test_an_image_is_fetched_from_the_address_that_was_checked(pictures, path):
    assert fetched(f"http://ok.example:{pictures}{path}") == b"x" * 10


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/inside", "inside.example.* does not lie in the public internet"),
        ("/round", "is redirected more than 3 times"),
        ("/large", "is larger than 1,000 bytes"),
        ("/slow", "does not answer"),
        ("/broken", "does not answer: Invalid IPv6"),
        ("/none", "answers with status 404"),
    ],
)
def test_an_image_that_leads_astray_is_not_fetched(pictures, path, message):
    with pytest.raises(Refusal, match=message):
        fetched(f"http://ok.example:{pictures}{path}")


def test_headers_that_drip_are_given_up_in_time(pictures):
    started = time.monotonic()
    with pytest.raises(Refusal, match=r"does not answer: .*(timed out|too long)"):
        fetched(f"http://ok.example:{pictures}/drip")
    assert time.monotonic() - started < 2.5


def test_an_answer_that_takes_too_long_is_given_up():
    async def wait() -> None:
        job = Job(Sample("a", "a", ()), None)
        await finished(job, asyncio.get_running_loop().time() + 0.05)

    with pytest.raises(Refusal, match="took too long") as caught:
        asyncio.run(wait())
    assert caught.value.status == 504


def test_a_body_that_does_not_arrive_is_given_up():
    sent: list[dict[str, Any]] = []

    async def never() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        gate = Gate(never, keys=None, limits=Limits(max_upload_seconds=0.05), counts=Counts())  # type: ignore[arg-type]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [(b"content-type", b"application/json")]}
        await gate(scope, never, send)

    asyncio.run(ask())
    assert sent[0]["status"] == 408


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "LocalHost", "127.0.0.1:8000", "127.0.0.5", "[::1]", "[::1]:8000"])
def test_a_host_header_names_this_machine(host):
    assert is_local(host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "8.8.8.8", "a@localhost", "[::1", "::1", "[x]"],
)
def test_a_host_header_names_another_machine(host):
    assert not is_local(host)


def png(width: int, height: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def test_an_image_lies_in_a_file_until_the_request_is_done():
    with RequestImages(Limits(), allow_urls=False, is_vision=True) as images:
        path = images.keep(data_url(png(3, 2)))
        assert (path.suffix, Image.open(path).size) == (".png", (3, 2))
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (data_url(png(101, 100)), "101 x 100 pixels, more than the 10,000 allowed"),
        (data_url(png(20, 20)[:60]), "cannot be decoded"),
        (data_url(b"<svg/>"), "cannot be decoded"),
        ("data:image/png,hello", "does not begin with"),
        ("data:image/png;base64,@@@", "cannot be read"),
        ("https://example.com/a.png", "fetches no images from the web"),
        ("file:///etc/passwd", "fetches no images from the web"),
    ],
    ids=["too large", "cut off", "no image", "not base64", "bad base64", "web", "file"],
)
def test_an_image_that_cannot_be_used_is_refused(url, message):
    with RequestImages(Limits(max_pixels=10_000), allow_urls=False, is_vision=True) as images, pytest.raises(Refusal, match=message):
        images.keep(url)


def test_the_images_of_a_request_share_the_time_to_be_fetched():
    given: list[float] = []

    def fetch(_url: str, _max_bytes: int, seconds: float) -> bytes:
        given.append(seconds)
        time.sleep(0.2)
        return png(3, 2)

    with RequestImages(Limits(), allow_urls=True, is_vision=True, fetch=fetch) as images:
        for _ in range(3):
            images.keep("https://example.com/a.png")
    assert given[0] == pytest.approx(10)
    assert given[2] < 9.7


# ---- vLLM -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    base, best = tmp_path / "base", tmp_path / "run" / "best"
    for folder in (base, best):
        folder.mkdir(parents=True)
    (base / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    (best / "chat_template.jinja").write_text("…")
    return base, best


def lora_run(folders: tuple[Path, Path], **more: object) -> VllmRun:
    base, best = folders
    settings = {"name": "complaints", "weights": base, "adapter": best, "lora_rank": 12, "tokenizer": best, "is_vision": False}
    settings |= {"path": best.parent, "dtype": "float32"}
    return VllmRun(**{**settings, **more})  # type: ignore[arg-type]


def test_vllm_is_given_adapter_template_and_limits(folders):
    base, best = folders
    words = vllm_command(lora_run(folders), "127.0.0.1", 8001, Limits(1000, 200), python="/opt/python", allow_image_urls=False)
    assert words[:3] == ["/opt/python", "-m", "vllm.entrypoints.openai.api_server"]
    options = dict(zip(words[3::2], words[4::2], strict=False))
    assert options["--model"] == str(base)
    assert options["--tokenizer"] == str(best)
    assert options["--chat-template"] == str(best / "chat_template.jinja")
    assert (options["--host"], options["--port"], options["--max-model-len"]) == ("127.0.0.1", "8001", "1200")
    assert options["--dtype"] == "float32"
    defaults = json.loads(options["--override-generation-config"])
    assert (defaults["temperature"], defaults["repetition_penalty"], defaults["max_new_tokens"]) == (0.0, 1.0, 200)
    assert words[words.index("--lora-modules") + 1] == f"complaints={best}"
    assert words[words.index("--max-lora-rank") + 1] == "16"
    assert words[words.index("--served-model-name") + 1] == "complaints-base"
    assert "--enable-lora" in words
    assert options["--generation-config"] == "auto"
    (best / "generation_config.json").write_text("{}")
    words = vllm_command(lora_run(folders), "127.0.0.1", 8001, Limits(), python="python", allow_image_urls=False)
    assert words[words.index("--generation-config") + 1] == str(best)


def test_vllm_is_given_merged_weights_and_no_way_to_fetch_images(folders):
    run = lora_run(folders, adapter=None, is_vision=True)
    words = vllm_command(run, "127.0.0.1", 8001, Limits(max_images=3), python="python", allow_image_urls=False)
    assert "--enable-lora" not in words
    assert words[words.index("--served-model-name") + 1] == "complaints"
    assert words[words.index("--max-model-len") + 1] == "4096"
    assert words[words.index("--generation-config") + 1] == "auto"
    assert json.loads(words[words.index("--limit-mm-per-prompt") + 1]) == {"image": 3, "video": 0}
    assert words[words.index("--allowed-media-domains") + 1] == NO_DOMAIN


@pytest.mark.parametrize("limits", [Limits(max_rows=5), Limits(max_pixels=1000)], ids=["rows", "pixels"])
def test_vllm_gets_no_limit_that_it_does_not_have(folders, limits):
    with pytest.raises(CommandError, match=r"--max-(rows|pixels): vLLM's server has no such limit"):
        vllm_command(lora_run(folders), "127.0.0.1", 8001, limits, python="python", allow_image_urls=False)


def test_vllm_is_not_let_fetch_images(folders):
    with pytest.raises(CommandError, match="--allow-image-urls: vLLM's server fetches images from private addresses"):
        vllm_command(lora_run(folders), "127.0.0.1", 8001, Limits(), python="python", allow_image_urls=True)


def test_a_base_that_vllm_cannot_load_is_told(folders):
    (folders[0] / "config.json").unlink()
    with pytest.raises(EngineError, match="vLLM loads Hugging Face folders, and the base is none") as caught:
        vllm_command(lora_run(folders), "127.0.0.1", 8001, Limits(), python="python", allow_image_urls=False)
    assert caught.value.hint == f"merge the adapter first: weitiao export {folders[1].parent} --kind merged"


def test_absent_vllm_says_how_to_install_it():
    import sys

    with pytest.raises(EngineError, match=r"vLLM is not installed[^$]*pip install vllm"):
        start_vllm([sys.executable, "-m", "vllm"])
    with pytest.raises(CommandError, match="takes one key, and the file holds 2"):
        start_vllm([sys.executable], ("a", "b"))


def test_the_command_replaces_the_process_and_hides_the_key(tmp_path):
    """A stand-in for the interpreter that says it has vLLM and writes down what it is given."""
    import subprocess
    import sys

    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] || echo "$@ key=$VLLM_API_KEY" > {tmp_path}/got\n')
    python.chmod(0o755)
    code = f"from weitiao.serve import start_vllm; start_vllm([{str(python)!r}, '-m', 'server'], ('secret-key',)); print('still here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert (tmp_path / "got").read_text() == "-m server key=secret-key\n"


def test_vllm_is_started_without_the_servers_libraries_and_an_open_host_is_told(complaints_run, tmp_path):
    import subprocess
    import sys

    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] || echo "$@" > {tmp_path}/got\n')
    python.chmod(0o755)
    code = "import sys; sys.modules.update(dict.fromkeys(['fastapi', 'uvicorn', 'starlette', 'prometheus_client'])); "
    code += "from weitiao.cli import main; main()"
    with open_socket("127.0.0.1", 0) as free:
        port = str(free.getsockname()[1])
    words = [sys.executable, "-c", code, "serve", str(complaints_run), "--engine", f"vllm:{python}", "--port", port, "--host"]
    done = subprocess.run([*words, "0.0.0.0"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--served-model-name complaints-base" in (tmp_path / "got").read_text()
    assert "can be reached from other machines" in done.stderr
    assert "can be reached" not in subprocess.run([*words, "127.0.0.1"], capture_output=True, text=True, check=True).stderr


def finished_run(path: Path, *, is_vision: bool = False, tuning: str = "lora") -> Path:
    """A run folder with a checkpoint's facts, and no weights."""
    from weitiao.model import CheckpointFacts
    from weitiao.recipe import Recipe
    from weitiao.runs import open_run

    recipe = Recipe.model_validate(
        {"task": {"kind": "classification", "labels": ["a", "b"]}, "data": {"train": {"path": "x.jsonl"}}, "model": {"path": "/base"}}
    )
    run = open_run(path, "new")
    with run.recording(recipe):
        pass
    facts = CheckpointFacts("/base", "/base", None, {"kind": tuning, "r": 8}, {}, {}, None, 64, 64, "head", "float32", is_vision)
    (path / "best").mkdir()
    (path / "best" / "weitiao.json").write_text(json.dumps({name: getattr(facts, name) for name in CheckpointFacts.__slots__}))
    return path


@pytest.mark.parametrize(
    ("tuning", "what", "verb"),
    [
        ("lora", "vLLM takes no adapter of a vision model here", "merge"),
        ("full", "vLLM would read pictures by the base's limits, not the run's", "export"),
    ],
)
def test_a_vision_run_without_merged_weights_says_how_to_make_them(tmp_path, tuning, what, verb):
    run = finished_run(tmp_path / "photos", is_vision=True, tuning=tuning)
    with pytest.raises(EngineError, match=what) as caught:
        vllm_run(run)
    assert caught.value.hint == f"{verb} it first: weitiao export {run} --kind merged"
    (run / "merged").mkdir()
    (run / "merged" / "config.json").write_text("{}")
    assert vllm_run(run).weights == run / "merged"


def test_a_run_is_served_merged_where_it_was_merged(tmp_path):
    finished_run(tmp_path / "news")
    beside = vllm_run(tmp_path / "news")
    assert (beside.weights, beside.adapter, beside.lora_rank) == (Path("/base"), tmp_path / "news" / "best", 8)
    (tmp_path / "news" / "merged").mkdir()
    (tmp_path / "news" / "merged" / "config.json").write_text("{}")
    merged = vllm_run(tmp_path / "news", "shown")
    assert (merged.weights, merged.adapter, merged.name) == (tmp_path / "news" / "merged", None, "shown")
