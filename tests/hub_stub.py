"""The Hub's HTTP interface on loopback, as far as huggingface_hub needs it to upload a folder and fetch files."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

LARGE = (".safetensors", ".onnx")  # stored by LFS


class Hub:
    """Repositories by name, each with its files and whether it is private; what was asked for, in order."""

    def __init__(self):
        self.repositories, self.private, self.blobs, self.asked = {}, {}, {}, []
        self.token, self.failing = "hf_right", None

    def commit(self, name):
        digests = {path: hashlib.sha1(content).hexdigest() for path, content in self.repositories[name].items()}
        return hashlib.sha1(json.dumps(digests, sort_keys=True).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    @property
    def hub(self):
        return self.server.hub

    def answer(self, code, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):
        body, path = self.body(), self.path
        self.hub.asked.append(path)
        here = f"http://{self.headers['Host']}"
        if self.hub.failing is not None:
            return self.answer(self.hub.failing, {"error": "out of order"})
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            self.hub.repositories.setdefault(name, {})
            self.hub.private.setdefault(name, given.get("private") or given.get("visibility") == "private")
            return self.answer(200, {"url": f"{here}/{name}", "name": name})
        if path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---")[1])
            return self.answer(200, {"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = [{"path": each["path"], "shouldIgnore": False,
                      "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular"}
                     for each in json.loads(body)["files"]]  # fmt: skip
            return self.answer(200, {"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            given = json.loads(body)["objects"]
            objects = [{**one, "actions": {"upload": {"href": f"{here}/lfs/{one['oid']}"}}} for one in given]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            return self.committed(path, [json.loads(line) for line in body.splitlines()], here)
        return self.answer(404, {"error": f"nothing at {path}"})

    def committed(self, path, lines, here):
        name = "/".join(path.split("/")[3:5])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                self.hub.repositories[name][value["path"]] = self.hub.blobs[value["oid"]]
        sha = self.hub.commit(name)
        return self.answer(200, {"commitUrl": f"{here}/{name}/commit/{sha}", "commitOid": sha})

    def do_PUT(self):
        body = self.body()
        assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
        self.hub.blobs[self.path.rpartition("/")[2]] = body
        self.answer(200)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.hub.asked.append(self.path)
        if self.hub.failing is not None:
            return self.answer(self.hub.failing, {"error": "out of order"})
        _, owner, name, _, revision, *rest = self.path.split("/")
        files = self.hub.repositories.get(f"{owner}/{name}")
        if files is None:
            return self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="no such repository")
        if (content := files.get("/".join(rest))) is None:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="no such file")
        known = {"X_Repo_Commit": self.hub.commit(f"{owner}/{name}"), "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        assert revision in ("main", known["X_Repo_Commit"])
        return self.answer(200, content, **known)


@contextlib.contextmanager
def running(monkeypatch, tmp_path):
    """Run a Hub, and let huggingface_hub speak to it with a token and a cache of its own."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    here = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", here)  # which transformers' own fetching reads when it is imported
    monkeypatch.setattr(constants, "ENDPOINT", here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_TOKEN", server.hub.token)
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
