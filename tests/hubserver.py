"""A hub on 127.0.0.1 with models and data sets, in as much of Hugging Face's and ModelScope's HTTP as their own clients ask for."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server has, what it was asked, and how it misbehaves."""

    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """``OWNER/NAME`` -> path -> content."""
    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False
    break_after: dict[str, int] = field(default_factory=dict)
    """File -> the byte of it that is never sent: the connection is cut there."""
    n_breaks: int = 1_000_000
    """How often that happens before the server behaves."""
    served: list[tuple[str, int]] = field(default_factory=list)
    """(file, first byte) of every body sent."""
    paths: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def bodies(self):
        """Files whose bodies were sent, in order."""
        return [path for path, _ in self.served]


@contextmanager
def serve_hub(hub):
    """Serve ``hub`` until the block ends; its address is ``hub.url``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        self.hub.paths.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        path, query = unquote(url.path), {name: values[0] for name, values in parse_qs(url.query).items()}
        if path == "/":
            self._send(200, b"a hub")
        elif path.startswith("/api/v1/"):
            self._modelscope(path.removeprefix("/api/v1/"), query)
        else:
            self._huggingface(path)

    def _huggingface(self, path):
        for kind, repos, prefix in (("models", self.hub.models, "/"), ("datasets", self.hub.datasets, "/datasets/")):
            for repo, files in repos.items():
                if path.startswith(f"/api/{kind}/{repo}/tree/"):
                    entries = [{"type": "file", "path": name, "size": len(body), "oid": _sha1(body)} for name, body in files.items()]
                    return self._json(entries)
                if path in {f"/api/{kind}/{repo}", f"/api/{kind}/{repo}/revision/main", f"/api/{kind}/{repo}/revision/{COMMIT}"}:
                    siblings = [{"rfilename": name, "size": len(body)} for name, body in files.items()]
                    return self._json({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings})
                if path.startswith(f"/api/{kind}/{repo}/revision/"):
                    return self._send(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
                if path.startswith(f"{prefix}{repo}/resolve/"):
                    return self._huggingface_file(files, path.removeprefix(f"{prefix}{repo}/resolve/").split("/", 1)[1])
        return self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

    def _huggingface_file(self, files, name):
        if self.hub.gated:
            self._send(403, b'{"error": "Access is restricted"}', {"X-Error-Code": "GatedRepo"})
        elif name not in files:
            self._send(404, b'{"error": "Entry not found"}', {"X-Error-Code": "EntryNotFound"})
        else:
            self._file(files, name, {"ETag": f'"{_sha1(files[name])}"', "X-Repo-Commit": COMMIT})

    def _modelscope(self, path, query):
        for repo, files in self.hub.models.items():
            if path == f"models/{repo}/repo/files":
                return self._modelscope_list(_modelscope_entries(files))
            if path == f"models/{repo}/repo":
                return self._file(files, query["FilePath"], {})
        for number, (repo, files) in enumerate(self.hub.datasets.items()):
            if path == f"datasets/{repo}":
                return self._json({"Code": 200, "Success": True, "Data": {"Id": number, "Type": 3}})
            if path == f"datasets/{number}/repo/tree":
                page, size = int(query["PageNumber"]), int(query["PageSize"])
                return self._modelscope_list(_modelscope_entries(files)[(page - 1) * size : page * size])
            if path == f"datasets/{repo}/repo":
                return self._file(files, query["FilePath"], {})
        return self._send(404, b'{"Code": 10010205001, "Message": "record not found", "Success": false}')

    def _modelscope_list(self, entries):
        self._json({"Code": 200, "Success": True, "Data": {"Files": entries}})

    def _file(self, files, name, headers):
        content = files[name]
        first, status = 0, 200
        headers = {**headers, "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            first, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        limit = None
        if self.command == "GET":
            self.hub.served.append((name, first))
            if name in self.hub.break_after and self.hub.n_breaks > 0:
                self.hub.n_breaks -= 1
                limit = max(0, self.hub.break_after[name] - first)
        self._send(status, content[first:], headers, limit=limit)

    def _json(self, value):
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status, content, headers=None, *, limit=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:limit])
            self.wfile.flush()
            self.close_connection = self.close_connection or limit is not None


def _modelscope_entries(files):
    return [
        {"Path": path, "Name": path.rsplit("/", 1)[-1], "Type": "blob", "Size": len(body), "Sha256": hashlib.sha256(body).hexdigest()}
        for path, body in files.items()
    ]


def _sha1(body):
    return hashlib.sha1(body).hexdigest()
