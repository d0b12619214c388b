"""A server that answers as the Hugging Face hub does, with one model."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789" * 4


@contextmanager
def serve_hub(name: str, folder: Path) -> Iterator[str]:
    """Serve the files of a folder as the repository ``name``; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0].lstrip("/")
            if path.startswith(f"api/models/{name}"):
                if "/tree/" in path:
                    tree = [
                        {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": COMMIT}
                        for f in folder.iterdir()
                    ]
                    self._send(200, json.dumps(tree).encode(), {}, body=body)
                    return
                files = [{"rfilename": file.name} for file in folder.iterdir()]
                found = {"id": name, "modelId": name, "sha": COMMIT, "siblings": files}
                self._send(200, json.dumps(found).encode(), {}, body=body)
                return
            for revision in ("main", COMMIT):
                prefix = f"{name}/resolve/{revision}/"
                if path.startswith(prefix):
                    self._send_file(folder / path.removeprefix(prefix), body=body)
                    return
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body=body)

        def _send_file(self, file: Path, *, body: bool) -> None:
            if not file.is_file():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)
                return
            content = file.read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, body=body)

        def _send(
            self, status: int, content: bytes, headers: dict[str, str], *, body: bool
        ) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
