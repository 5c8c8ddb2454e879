"""Downloads from a server of this machine that does what bad networks do."""

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vl3ref import CheckpointError
from vl3ref.hub import download, find_checkpoint

COMMIT = "a" * 40
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 200}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as `snapshot_download` asks for. `fault` says what goes wrong, with the weights if anything
    comes at all."""

    protocol_version = "HTTP/1.1"
    fault = ""

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if self.fault == "404":
            self.send(b"", 404, {"X-Error-Code": "RepoNotFound"})
        elif self.fault == "500":
            self.send(b"oops", 500)
        elif self.fault == "a login page":
            self.send(b"<html>")
        elif path.startswith("/api/models/") and "/tree/" in path:
            entries = [{"type": "file", "path": n, "size": len(x), "oid": "0" * 40} for n, x in FILES.items()]
            self.send(json.dumps(entries).encode())
        elif path.startswith("/api/models/"):
            about = {"id": "o/n", "sha": COMMIT, "siblings": [{"rfilename": n} for n in FILES]}
            self.send(json.dumps(about).encode())
        elif name == "model.safetensors" and self.fault == "a file is not there":
            self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        else:
            self.send_file(FILES[name], large=name == "model.safetensors")

    def send_file(self, content: bytes, large: bool) -> None:
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        promised = hashlib.sha256(content).hexdigest() if large else git
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{promised}"'}
        if large:
            headers |= {"X-Linked-Etag": f'"{promised}"', "X-Linked-Size": str(len(content))}
        if large and self.command == "GET" and self.fault == "wrong hash":
            content = content[:-1] + b"?"
        if large and self.command == "GET" and self.fault == "wrong size":
            content = content[:-5]
        half = large and self.command == "GET" and self.fault == "cut off"
        self.send(content, headers=headers, sent=len(content) // 2 if half else None)

    def send(self, body: bytes, code: int = 200, headers: dict | None = None, sent: int | None = None) -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:sent])
        self.close_connection = sent is not None


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    from huggingface_hub import constants, file_download

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Faulty", (Hub,), {}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    there = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", there)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", there + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)  # between its tries
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield server.RequestHandlerClass
    server.shutdown()
    server.server_close()


FAULTS = {
    "404": "could not be fetched from the Hugging Face hub: .*404",
    "500": "could not be fetched from the Hugging Face hub: .*500 Internal Server Error",
    "a login page": "could not be fetched from the Hugging Face hub: Expecting value",
    "a file is not there": "could not be fetched from the Hugging Face hub: .*404",
    "wrong size": "could not be fetched from the Hugging Face hub: .*should be of size 51200 but has size 51195",
    "cut off": "could not be fetched from the Hugging Face hub: peer closed connection",
    "wrong hash": r"model\.safetensors came damaged",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("cached", [True, False])
def test_what_bad_networks_do_is_one_sentence_and_the_next_try_is_whole(
    fault: str, cached: bool, hub: type[Hub], tmp_path: Path
) -> None:
    folder = None if cached else tmp_path / "there"
    hub.fault = fault
    with pytest.raises(CheckpointError, match=FAULTS[fault]) as error:
        download("o/n", folder=folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    for place, _, names in os.walk(tmp_path):
        for name in names:
            whole = name.endswith(".incomplete") or Path(place, name).stat().st_size < 10_000
            assert whole, f"half of the weights are left as {name}"
    hub.fault = ""
    found = download("o/n", folder=folder)
    assert {name: (found / name).read_bytes() for name in FILES} == FILES


def test_what_is_in_the_cache_needs_no_second_download(hub: type[Hub]) -> None:
    assert find_checkpoint("o/n") == download("o/n")


@pytest.mark.parametrize("way", ["no network", "a proxy that is not there"])
def test_a_hub_that_cannot_be_reached_is_one_sentence(
    way: str, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    if way == "no network":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    else:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    close_session()  # it is made anew, with the environment's proxy
    try:
        with pytest.raises(CheckpointError, match=r"could not be fetched from the Hugging Face hub: .*refused"):
            download("o/n")
    finally:
        close_session()


@pytest.mark.parametrize(
    "name", ["~nouser", "~nouser/x", "a\0b", "x" * 5000, "owner/", "a/b/c", "\ud800", "../nothing/x"]
)
def test_names_that_are_nothing_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError) as error:
        find_checkpoint(name)
    assert len(str(error.value)) < 500


def test_a_folder_whose_save_was_cut_off_says_where_it_is(tmp_path: Path) -> None:
    (tmp_path / ".mine.old").mkdir()
    with pytest.raises(CheckpointError, match=r"mine was being saved .*; rename .*\.mine\.old to mine"):
        find_checkpoint(tmp_path / "mine")
