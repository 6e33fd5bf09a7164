"""What goes to the Hugging Face hub, seen by a local stand-in for its server."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest

from lamina.bundles.exporting import push
from lamina.registry import InputError


class Hub(BaseHTTPRequestHandler):
    """The calls of an upload of small files."""

    received: dict[str, bytes]
    refuses = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if type(self).refuses:
            self._answer({"error": "You don't have the rights"}, 403)
        elif self.path == "/api/repos/create":
            name = json.loads(body)["name"]
            self._answer({"url": f"http://{self.headers['Host']}/team/{name}"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            self._answer({"files": modes})
        elif self.path.endswith("/commit/main"):
            for line in body.decode().splitlines():
                each = json.loads(line)
                if each["key"] == "file":
                    value = each["value"]
                    self.received[value["path"]] = base64.b64decode(value["content"])
            at = f"http://{self.headers['Host']}/team/bundle/commit/0"
            self._answer({"commitUrl": at, "commitOid": "0" * 40, "commitMessage": "x"})
        else:
            self._answer({}, 404)

    def do_GET(self) -> None:
        self._answer({"sha": "0" * 40, "id": "team/bundle", "siblings": []})

    def log_message(self, *_) -> None:
        return

    def _answer(self, content, code=200) -> None:
        sent = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)


@pytest.fixture
def hub(monkeypatch):
    """A server that this process takes for the hub."""
    handler = type("OneHub", (Hub,), {"received": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    for name, content in (("README.md", "# card"), ("adapters/main/adapter_config.json", "{}")):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "out"


def test_every_file_of_the_folder_reaches_the_repository(hub, folder):
    assert push(folder, "team/bundle").endswith("/team/bundle")
    assert hub.received == {"README.md": b"# card", "adapters/main/adapter_config.json": b"{}"}


def test_a_hub_that_refuses_is_one_line(hub, folder):
    hub.refuses = True
    with pytest.raises(InputError, match="--push: 'team/bundle': ") as caught:
        push(folder, "team/bundle")
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_is_none_is_refused(hub, folder):
    with pytest.raises(InputError, match="--push: 'a/b/c'"):
        push(folder, "a/b/c")
