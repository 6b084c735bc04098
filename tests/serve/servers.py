"""A real server in a process of its own, on a port that was free."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

WEITIAO = str(Path(sys.executable).with_name("weitiao"))
START_SECONDS = 500


@dataclass
class Server:
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def post(self, path: str, body: Any, **more: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, headers=self.headers, timeout=120, **more)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, headers=self.headers, timeout=60)

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    def wait_until(self, name: str, value: float, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while (now := self.metric(name)) != value:
            assert time.monotonic() < end, f"{name} is {now}, not {value}"
            time.sleep(0.02)

    def memory_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * 4096

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def log(self) -> str:
        return "".join(self.lines)


@contextmanager
def running(run: Path, *options: str, headers: dict[str, str] | None = None) -> Iterator[Server]:
    """Start `weitiao serve` and wait until it answers; ended by force if a test did not end it."""
    words = [WEITIAO, "serve", str(run), "--port", "0", *options]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    server = Server(process, headers=headers or {})

    def read() -> None:
        assert process.stderr
        server.lines.extend(iter(process.stderr.readline, ""))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        end = time.monotonic() + START_SECONDS
        while not (found := re.search(r"on (http://\S+)", server.log())):
            assert process.poll() is None, server.log()
            assert time.monotonic() < end, server.log()
            time.sleep(0.05)
        server.url = found.group(1)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        assert process.stderr
        process.stderr.close()
