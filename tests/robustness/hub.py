"""A hub on this machine, for huggingface_hub to download from: one that keeps its promises, or breaks them."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(folder: Path, fault: str = "", piece: int = 1 << 20, pause: float = 0.0) -> Iterator[str]:
    """The address of a hub whose every repository holds the files of a folder.

    Args:
        fault: of model.safetensors: "cut" (half of it comes), "short" (it is shorter than was said), "hash" (one byte
            is another), "gone" (404).
        piece: bytes of each piece in which a file is sent; `pause`: seconds between two pieces.
    """

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            if "/tree/" in path:
                sizes = [(file.name, file.stat().st_size) for file in sorted(folder.iterdir())]
                tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes]
                self.send(json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
                return
            if path.startswith("/api/"):
                names = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                described = {"id": "a/b", "modelId": "a/b", "sha": COMMIT, "siblings": names, "tags": []}
                self.send(json.dumps(described).encode(), {"Content-Type": "application/json"}, body)
                return
            file = folder / path.rpartition("/")[2]
            broken = fault if file.name == "model.safetensors" else ""
            if not file.is_file() or broken == "gone":
                self.send_error(404)
                return
            content = file.read_bytes()
            sha = hashlib.sha256(content).hexdigest()
            named = {"ETag": f'"{sha}"', "X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content))}
            if broken == "hash":
                content = content[:-1] + bytes([content[-1] ^ 1])
            if broken == "short":
                content = content[: len(content) // 2]
            self.send(content, {"X-Repo-Commit": COMMIT, **named}, body, cut=broken == "cut")

        def send(self, content: bytes, headers: dict[str, str], body: bool, cut: bool = False) -> None:
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if cut:
                content = content[: len(content) // 2]
            for start in range(0, len(content), piece) if body else ():
                self.wfile.write(content[start : start + piece])
                stopping.wait(pause)
            self.close_connection = cut

        def log_message(self, *_: Any) -> None:
            pass

    stopping = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that was killed
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
