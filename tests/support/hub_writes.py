"""A Hub that can be written to, on two loopback origins: the Hub and its storage.

Repositories, their trees and files, commits with regular and LFS files, the LFS batch call and
uploads in one or several parts, Xet's write token with a content store that takes what is sent.
It keeps what it gets, so that a second upload finds it. What it cannot prove: rate limits, the
Hub's own checks of model cards, Xet's chunking (its store accepts every xorb; with Xet on, the
bytes of a large file are taken from the commit's digest and ``xet_source``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.endpoints_refusals import REFUSALS

LARGE = 4096  # bytes from which a file goes through LFS
PART = 1 << 20  # bytes of one part of an upload


def git_sha1(data: bytes) -> str:
    """Git's digest of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Origin:
    """A server whose requests all go to one function."""

    def __init__(self, answer: Callable[[Origin, BaseHTTPRequestHandler, bytes], None]) -> None:
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # head and body in one packet: nothing waits for an acknowledgement
            disable_nagle_algorithm = True

            def respond(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                answer(origin, self, self._body(length))

            def _body(self, length: int) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(length)
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = respond

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=lambda: self._server.serve_forever(poll_interval=0.02), daemon=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes | Any = b"",
    headers: dict[str, str] | None = None,
) -> None:
    """An answer; what is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for key, value in (headers or {}).items():
        handler.send_header(key, value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)


class WritableHub:
    """``url`` is what HF_ENDPOINT would be; ``repositories`` holds what was committed."""

    def __init__(self, tokens: dict[str, str]) -> None:
        self.tokens = tokens  # token → user
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.public: set[str] = set()
        self.granted = {"meta-llama/Llama-2-7b-chat-hf"}  # gated repositories with access
        self.objects: dict[str, bytes] = {}  # LFS, by SHA-256
        self.parts: dict[str, dict[int, bytes]] = {}
        self.commits: list[tuple[str, list[str]]] = []  # repository, paths
        self.requests: list[tuple[str, str]] = []
        self.leaks: list[str] = []  # requests that carried the token to the storage
        self.xorbs = 0  # pieces that Xet's store took
        self.xet_source: list[Path] = []  # folders whose files stand for what Xet took
        self.fail: list[tuple[str, str, int]] = []  # method, part of the path, status
        self.denied: list[str] = []  # starts of paths that the token may not read
        self.limited = 0  # further requests that are told to wait for the next window
        self.scopes: dict[str, dict[str, list[str]]] = {}  # fine-grained: token → entity → scopes
        self.organisations: dict[str, list[str]] = {}  # user → organisations
        self.gated: set[str] = set()  # repositories whose files need ``granted``
        self.unlisted: set[str] = set()  # repositories that the list does not show yet
        self._history: dict[tuple[str, str], dict[str, bytes]] = {}  # by repository and commit
        self.on_commit: Callable[[int], None] = lambda count: None
        self.hub = Origin(self._hub)
        self.storage = Origin(self._storage)
        self._lock = threading.RLock()

    @property
    def url(self) -> str:
        return self.hub.url

    def __enter__(self) -> WritableHub:
        self.hub.start()
        self.storage.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hub.stop()
        self.storage.stop()

    def reset(self) -> None:
        """As new, for the next test."""
        with self._lock:
            self.granted = {"meta-llama/Llama-2-7b-chat-hf"}
            self.limited = self.xorbs = 0
            self.denied = []
            self.on_commit = lambda count: None
            for known in (self.repositories, self.objects, self.parts, self._history, self.scopes):
                known.clear()
            for kept in (self.commits, self.requests, self.leaks, self.xet_source, self.fail):
                kept.clear()
            for names in (self.public, self.gated, self.unlisted, self.organisations):
                names.clear()

    def head(self, repository: str) -> str:
        """The commit that ``main`` is at: a digest of all files, so that equal states are one."""
        files = self.repositories[repository]
        told = "".join(f"{path} {git_sha1(data)}\n" for path, data in sorted(files.items()))
        commit = hashlib.sha1(f"{repository}\n{told}".encode()).hexdigest()
        self._history.setdefault((repository, commit), dict(files))
        return commit

    def files_at(self, repository: str, revision: str | None) -> dict[str, bytes] | None:
        """The files of a commit or of ``main``; ``None`` if there is no such revision."""
        if repository not in self.repositories:
            return None
        self.head(repository)
        if revision in (None, "main"):
            return self.repositories[repository]
        return self._history.get((repository, str(revision)))

    def resolve(self, repository: str, revision: str | None) -> str | None:
        """The commit of a revision, as Inference Endpoints asks for it."""
        with self._lock:
            if self.files_at(repository, revision) is None:
                return None
            return self.head(repository) if revision in (None, "main") else revision

    @property
    def writes(self) -> int:
        """Requests that change something."""
        changing = ("/commit/", "/repos/create", "/repos/delete", "/objects/batch")
        return sum(any(part in path for part in changing) for _, path in self.requests)

    # --- the Hub --------------------------------------------------------------------------

    def _hub(self, origin: Origin, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        with self._lock:
            where = urlsplit(handler.path)
            path = unquote(where.path)
            self.requests.append((handler.command, path))
            for fault in self.fail:
                if fault[0] == handler.command and fault[1] in path:
                    self.fail.remove(fault)
                    return send(handler, fault[2], {"error": f"scripted {fault[2]}"})
            token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
            if token not in self.tokens:
                refused = {"X-Error-Message": "Invalid credentials in Authorization header"}
                return send(handler, 401, {"error": "Invalid credentials"}, refused)
            if any(path.startswith(start) for start in self.denied):
                status, document, headers = REFUSALS["denied"].answer
                return send(handler, status, document, dict(headers))
            if self.limited:
                self.limited -= 1
                status, document, headers = REFUSALS["rate limit"].answer
                return send(handler, status, document, dict(headers))
            return self._route(handler, path, where.query, body, self.tokens[token], token)

    def _route(
        self,
        handler: BaseHTTPRequestHandler,
        path: str,
        query: str,
        body: bytes,
        user: str,
        token: str,
    ) -> None:
        if path == "/api/whoami-v2":
            return send(handler, 200, self._who(user, token))
        if path == "/api/validate-yaml":
            return send(handler, 200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(handler, json.loads(body), user)
        if path == "/api/repos/delete":
            return self._delete(handler, json.loads(body), user)
        if path == "/api/models":
            return self._list(handler, parse_qs(query))
        if path.startswith("/api/models/"):
            return self._model(handler, path.removeprefix("/api/models/"), body)
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(handler, json.loads(body))
        if "/resolve/" in path:
            return self._resolve(handler, path.strip("/"))
        return send(handler, 404, {"error": f"no route {path}"})

    def _who(self, user: str, token: str) -> dict[str, Any]:
        scoped = self.scopes.get(token)
        access: dict[str, Any] = {"displayName": "test", "role": "write"}
        if scoped is not None:
            entries = [
                {"entity": {"type": "user", "name": name}, "permissions": permissions}
                for name, permissions in scoped.items()
            ]
            access |= {"role": "fineGrained", "fineGrained": {"global": [], "scoped": entries}}
        organisations = [{"name": one} for one in self.organisations.get(user, [])]
        return {
            "type": "user",
            "name": user,
            "canPay": True,
            "orgs": organisations,
            "auth": {"type": "access_token", "accessToken": access},
        }

    def _create(self, handler: BaseHTTPRequestHandler, body: Any, user: str) -> None:
        name = f"{body.get('organization') or user}/{body['name']}"
        answer = {"url": f"{self.url}/{name}", "name": name, "id": name}
        if name in self.repositories:
            return send(handler, 409, answer | {"error": "You already created this model repo"})
        self.repositories[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        if body.get("visibility") != "private" and not body.get("private"):
            self.public.add(name)
        return send(handler, 200, answer)

    def _delete(self, handler: BaseHTTPRequestHandler, body: Any, user: str) -> None:
        name = f"{body.get('organization') or user}/{body['name']}"
        if self.repositories.pop(name, None) is None:
            return _missing(handler)
        return send(handler, 200, {})

    def _list(self, handler: BaseHTTPRequestHandler, query: dict[str, list[str]]) -> None:
        author, search = query.get("author", [""])[0], query.get("search", [""])[0]
        names = [
            name
            for name in sorted(self.repositories)
            if name.startswith(f"{author}/") and search in name and name not in self.unlisted
        ]
        send(handler, 200, [self._info(name) for name in names])

    def _info(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "modelId": name,
            "sha": self.head(name),
            "private": name not in self.public,
            "gated": "manual" if name in self.gated else False,
            "tags": [],
            "siblings": [{"rfilename": path} for path in self.repositories[name]],
        }

    def _model(self, handler: BaseHTTPRequestHandler, rest: str, body: bytes) -> None:
        owner, name, *more = rest.split("/")
        repository = f"{owner}/{name}"
        verb = more[0] if more else ""
        if verb == "auth-check" and repository in self.granted:
            return send(handler, 200, b"")
        if repository not in self.repositories:
            return _missing(handler)
        if verb == "tree":
            files = self.files_at(repository, more[1])
            if files is None:
                return _no_revision(handler)
            return send(handler, 200, [_entry(path, data) for path, data in files.items()])
        if verb == "revision":
            if self.files_at(repository, more[1]) is None:
                return _no_revision(handler)
            commit = self.resolve(repository, more[1])
            return send(handler, 200, self._info(repository) | {"sha": commit})
        if verb == "preupload":
            return send(handler, 200, {"files": [_mode(one) for one in json.loads(body)["files"]]})
        if verb == "commit":
            return self._commit(handler, repository, body)
        if verb == "xet-write-token":
            return self._xet_token(handler)
        return send(handler, 200, self._info(repository))

    def _commit(self, handler: BaseHTTPRequestHandler, repository: str, body: bytes) -> None:
        files, paths = self.repositories[repository], []
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self._object(value["oid"])
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
            else:
                continue
            paths.append(value["path"])
        self.commits.append((repository, paths))
        commit = self.head(repository)
        self.on_commit(len(self.commits))
        url = f"{self.url}/{repository}/commit/{commit}"
        send(handler, 200, {"commitOid": commit, "commitUrl": url})

    def _object(self, oid: str) -> bytes:
        if oid in self.objects:
            return self.objects[oid]
        for folder in self.xet_source:
            for path in folder.rglob("*"):
                if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == oid:
                    return path.read_bytes()
        raise AssertionError(f"a commit names the object {oid}, which was never uploaded")

    def _xet_token(self, handler: BaseHTTPRequestHandler) -> None:
        url, expiry = self.storage.url, 4102444800
        headers = {
            "X-Xet-Cas-Url": url,
            "X-Xet-Access-Token": "xet-token",
            "X-Xet-Token-Expiration": str(expiry),
        }
        body = {"accessToken": "xet-token", "exp": expiry, "casUrl": url}
        send(handler, 200, body, headers)

    def _batch(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        answered = []
        for one in body["objects"]:
            answer: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.objects:
                answer["actions"] = {"upload": self._upload_action(one)}
            answered.append(answer)
        send(handler, 200, {"transfer": "basic", "objects": answered})

    def _upload_action(self, one: Any) -> dict[str, Any]:
        href = f"{self.storage.url}/lfs/{one['oid']}"
        if one["size"] <= PART:
            return {"href": href, "header": {}}
        count = -(-one["size"] // PART)
        header = {str(part): f"{href}/{part}" for part in range(1, count + 1)}
        return {"href": f"{href}/complete", "header": {"chunk_size": str(PART), **header}}

    def _resolve(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        repository, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repository not in self.repositories:
            return _missing(handler)
        if repository in self.gated and repository not in self.granted:
            message = f"Access to model {repository} is restricted and you are not in the "
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"{message}authorized list."}
            return send(handler, 403, {"error": message}, headers)
        files = self.files_at(repository, revision)
        if files is None:
            return _no_revision(handler)
        data = files.get(name)
        if data is None:
            return send(
                handler, 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
            )
        return send(
            handler,
            200,
            data,
            {"ETag": f'"{git_sha1(data)}"', "X-Repo-Commit": self.head(repository)},
        )

    # --- the storage ----------------------------------------------------------------------

    def _storage(self, origin: Origin, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        with self._lock:
            sent = handler.headers.get("Authorization") or ""
            if any(token in sent for token in self.tokens):
                self.leaks.append(handler.path)
            if not handler.path.startswith("/lfs/"):
                self.xorbs += handler.path.startswith("/v1/xorbs/")
                return _xet(handler)
            oid, *more = handler.path.removeprefix("/lfs/").split("/")
            if handler.command == "PUT" and more:
                self.parts.setdefault(oid, {})[int(more[0])] = body
                return send(handler, 200, b"", {"ETag": hashlib.md5(body).hexdigest()})
            data = body
            if more:
                data = b"".join(data for _, data in sorted(self.parts.pop(oid, {}).items()))
            if hashlib.sha256(data).hexdigest() != oid:
                return send(handler, 400, {"error": "the content has another digest"})
            self.objects[oid] = data
            return send(handler, 200, {})


def _xet(handler: BaseHTTPRequestHandler) -> None:
    if handler.path.startswith("/v1/xorbs/"):
        return send(handler, 200, {"was_inserted": True})
    if handler.path.startswith("/v1/shards"):
        return send(handler, 200, {"result": 1})
    return send(handler, 404, {"error": "not here"})


def _missing(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})


def _no_revision(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})


def _mode(one: Any) -> dict[str, Any]:
    mode = "lfs" if one["size"] >= LARGE else "regular"
    return {"path": one["path"], "uploadMode": mode, "shouldIgnore": False}


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "file",
        "path": path,
        "size": len(data),
        "oid": git_sha1(data),
    }
    if len(data) >= LARGE:
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
    return entry
