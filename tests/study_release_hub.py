"""A stand-in for the Hub's HTTP interface: keeps what is pushed, and what it was told."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Repositories in memory; ``refuse`` answers everything with 403 and repeats the token."""

    daemon_threads = True

    def __init__(self, *, private=True, refuse=False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.private, self.refuse = private, refuse
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.files, self.blobs, self.created, self.tokens = {}, {}, [], set()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Stay silent."""

    def do_GET(self):
        if self._refused():
            return
        revision = {"id": "me/model", "sha": "1" * 40, "private": self.server.private}
        self._say({**revision, "siblings": [], "tags": []})

    def do_PUT(self):
        oid = self.path.rpartition("/")[2]
        self.server.blobs[oid] = self._body()
        self._say({})

    def do_POST(self):
        content = self._body()
        if self._refused():
            return
        hub = self.server
        if self.path.endswith("/api/repos/create"):
            hub.created.append(json.loads(content))
            asked = hub.created[-1]
            hub.private = asked.get("visibility") == "private" or asked.get("private") is True
            self._say({"url": f"{hub.address}/me/model", "id": "me/model", "name": "me/model"})
        elif "/preupload/" in self.path:
            files = json.loads(content)["files"]
            kinds = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in files
            ]
            self._say({"files": kinds})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.address}/blob/{one['oid']}"}}}
                for one in json.loads(content)["objects"]
            ]
            self._say({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            for line in filter(None, content.splitlines()):
                self._take(json.loads(line))
            commit = {"commitUrl": f"{hub.address}/me/model/commit/{'2' * 40}"}
            self._say({**commit, "commitOid": "2" * 40, "success": True})
        else:
            self._say({"errors": [], "warnings": []})

    def _take(self, line):
        value, hub = line["value"], self.server
        if line["key"] == "file":
            hub.files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            hub.files[value["path"]] = hub.blobs[value["oid"]]

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _refused(self):
        token = self.headers.get("Authorization", "")
        self.server.tokens.add(token.removeprefix("Bearer "))
        if self.server.refuse:
            self._say({"error": f"no right to write with {token}"}, status=403)
        return self.server.refuse

    def _say(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Error-Message", value.get("error", ""))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(**options):
    """Run a stand-in until the block ends."""
    hub = Hub(**options)
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
