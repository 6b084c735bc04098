"""A hub on 127.0.0.1 with one data set, in as much of Hugging Face's and ModelScope's HTTP as their own clients ask for."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


@dataclass
class DataHub:
    files: dict[str, bytes]
    repo: str = "lab/formulas"
    break_after: dict[str, int] = field(default_factory=dict)
    """File -> bytes after which every body of it is cut off."""
    bodies: list[str] = field(default_factory=list)
    """Files whose bodies were asked for, in order."""
    url: str = ""


@contextmanager
def serve(hub):
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
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        url = urlsplit(self.path)
        path, query = unquote(url.path), {name: values[0] for name, values in parse_qs(url.query).items()}
        repo = self.hub.repo
        if path == "/":
            self.send(200, b"a hub")
        elif path.startswith((f"/api/datasets/{repo}/revision/", f"/api/datasets/{repo}/tree/")) or path == f"/api/datasets/{repo}":
            entries = [{"type": "file", "path": name, "size": len(body), "oid": _sha1(body)} for name, body in self.hub.files.items()]
            info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.hub.files]}
            self.json(entries if "/tree/" in path else info)
        elif path.startswith(f"/datasets/{repo}/resolve/"):
            self.file(path.split("/", 6)[6])
        elif path == f"/api/v1/datasets/{repo}":
            self.json({"Code": 200, "Success": True, "Data": {"Id": 7, "Type": 3}})
        elif path == "/api/v1/datasets/7/repo/tree":
            page, size = int(query["PageNumber"]), int(query["PageSize"])
            files = [
                {
                    "Path": name,
                    "Name": name.rsplit("/", 1)[-1],
                    "Type": "blob",
                    "Size": len(body),
                    "Sha256": hashlib.sha256(body).hexdigest(),
                }
                for name, body in self.hub.files.items()
            ]
            self.json({"Code": 200, "Success": True, "Data": {"Files": files[(page - 1) * size : page * size]}})
        elif path == f"/api/v1/datasets/{repo}/repo":
            self.file(query["FilePath"])
        elif path.startswith("/api/v1/"):
            self.send(404, b'{"Code": 10010205001, "Message": "record not found", "Success": false}')
        else:
            self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

    def file(self, name):
        body = self.hub.files.get(name)
        if body is None:
            self.send(404, b'{"error": "Entry not found"}', {"X-Error-Code": "EntryNotFound"})
            return
        first, status = 0, 200
        headers = {"ETag": f'"{_sha1(body)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            first, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        if self.command == "GET":
            self.hub.bodies.append(name)
        self.send(status, body[first:], headers, limit=self.hub.break_after.get(name))

    def json(self, value):
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status, body, headers=None, limit=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:limit])
            self.wfile.flush()
            if limit is not None and limit < len(body):
                self.close_connection = True


def _sha1(body):
    return hashlib.sha1(body).hexdigest()
