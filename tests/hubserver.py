"""A model hub on 127.0.0.1 that speaks as much of Hugging Face's and ModelScope's HTTP as their own clients ask for in a download."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server has, what it was asked, and how it misbehaves."""

    files: dict[str, bytes]
    repo: str = "lab/tiny"
    gated: bool = False
    break_after: dict[str, int] = field(default_factory=dict)
    """File -> the byte of it that is never sent: the connection is cut there."""
    n_breaks: int = 1_000_000
    """How often that happens before the server behaves."""
    served: list[tuple[str, int]] = field(default_factory=list)
    """(file, first byte) of every body sent."""
    paths: list[str] = field(default_factory=list)
    url: str = ""


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
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        url = urlsplit(self.path)
        self.hub.paths.append(f"{self.command} {self.path}")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        repo = self.hub.repo
        if url.path == "/":
            self._send(200, b"a hub", body=body)
        elif url.path.startswith(f"/api/models/{repo}/tree/"):
            self._json([self._tree_entry(path) for path in self.hub.files])
        elif url.path in {f"/api/models/{repo}", f"/api/models/{repo}/revision/main", f"/api/models/{repo}/revision/{COMMIT}"}:
            siblings = [{"rfilename": path, "size": len(content)} for path, content in self.hub.files.items()]
            self._json({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings})
        elif url.path.startswith(f"/api/models/{repo}/revision/"):
            self._send(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"}, body=body)
        elif url.path.startswith(f"/{repo}/resolve/"):
            self._hf_file(url.path.split("/", 5)[5], body=body)
        elif url.path == f"/api/v1/models/{repo}/repo/files":
            files = [
                {"Path": path, "Name": path, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}
                for path, content in self.hub.files.items()
            ]
            self._json({"Code": 200, "Success": True, "Data": {"Files": files}})
        elif url.path == f"/api/v1/models/{repo}/repo":
            self._file(query["FilePath"], {}, body=body)
        elif url.path.startswith("/api/v1/"):
            self._send(404, b'{"Code": 10010205001, "Message": "record not found", "Success": false}', body=body)
        else:
            self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, body=body)

    def _tree_entry(self, path):
        content = self.hub.files[path]
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _hf_file(self, path, *, body):
        if self.hub.gated:
            self._send(403, b'{"error": "Access to model is restricted"}', {"X-Error-Code": "GatedRepo"}, body=body)
            return
        etag = hashlib.sha1(self.hub.files[path]).hexdigest()
        self._file(path, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body=body)

    def _file(self, path, headers, *, body):
        content = self.hub.files[path]
        first = 0
        status = 200
        if asked := self.headers.get("Range"):
            first = int(asked.removeprefix("bytes=").split("-")[0])
            status = 206
            headers = {**headers, "Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        breaks = body and path in self.hub.break_after and self.hub.n_breaks > 0
        self.hub.n_breaks -= breaks
        limit = max(0, self.hub.break_after[path] - first) if breaks else None
        if body:
            self.hub.served.append((path, first))
        self._send(status, content[first:], {**headers, "Accept-Ranges": "bytes"}, body=body, limit=limit)

    def _json(self, value):
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body=self.command == "GET")

    def _send(self, status, content, headers=None, *, body, limit=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and limit is None:
            self.wfile.write(content)
        elif body:
            self.wfile.write(content[:limit])
            self.wfile.flush()
            self.close_connection = True
