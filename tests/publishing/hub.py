"""A stand-in for the Hugging Face hub: an HTTP server with the part of its interface that a push needs."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What the hub holds and has heard; tests set `repositories` (private or not), `answers` and `large`.

    `answers` replaces the answer to a request by status and message, by the beginning of its method and path.
    """

    url: str = ""
    repositories: dict[str, bool] = field(default_factory=dict)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    large: str = ".safetensors"
    heard: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict] = field(default_factory=list)

    def requests(self, beginning: str) -> list[Any]:
        """Return the bodies of the requests with this prefix."""
        return [body for request, _, body in self.heard if request.startswith(beginning)]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def _take(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        path = self.path.partition("?")[0]
        kind = self.headers.get("Content-Type", "")
        body: Any = json.loads(data) if kind.endswith("json") and "ndjson" not in kind else data
        request = f"{self.command} {path}"
        self.hub.heard.append((request, dict(self.headers), body))
        status, answer = next(
            (
                (status, {"error": message})
                for begin, (status, message) in self.hub.answers.items()
                if request.startswith(begin)
            ),
            (0, {}),
        )
        headers = {"X-Error-Message": answer["error"]} if status else {}
        if not status:
            status, answer, headers = self._answer(path, body)
        text = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = _take

    def _answer(self, path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        hub, parts = self.hub, path.strip("/").split("/")
        if path == "/api/repos/create":
            name = f"{body['organization']}/{body['name']}"
            hub.repositories[name] = body.get("visibility") == "private"
            return 200, {"url": f"{hub.url}/{name}", "name": name}, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if parts[0] == "blobs":
            hub.blobs[parts[1]] = body
            return 200, {}, {}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/blobs/{each['oid']}"}}} for each in body["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}, {}
        name = "/".join(parts[2:4])
        if name not in hub.repositories:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if "preupload" in parts:
            return 200, {"files": [self._mode(each) for each in body["files"]]}, {}
        if "commit" in parts:
            return 200, self._commit(name, parts[-1], [json.loads(line) for line in body.splitlines()]), {}
        return 200, {"id": name, "private": hub.repositories[name], "sha": "0" * 40, "siblings": [], "tags": []}, {}

    def _mode(self, file: dict) -> dict:
        large = file["path"].endswith(self.hub.large)
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def _commit(self, name: str, branch: str, lines: list[dict]) -> dict:
        self.hub.commits.append({"branch": branch, "summary": lines[0]["value"]["summary"]})
        for line in lines[1:]:
            value = line["value"]
            held = self.hub.blobs.get(value.get("oid", ""))
            self.hub.files[value["path"]] = base64.b64decode(value["content"]) if "content" in value else held
        return {"commitUrl": f"{self.hub.url}/{name}/commit/1", "commitOid": "1" * 40, "success": True}

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def standing_in() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
