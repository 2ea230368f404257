"""Hugging Face on two loopback origins: the Hub, gated, and the CDN that it redirects to.

The real ``huggingface_hub`` client works against it (``tests/hub/test_huggingface.py``). What it
cannot prove: the exact wording of the Hub's answers for a pending and a rejected request, Xet
transfers, rate limits.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.support.http_server import Seen, Server

LARGE = 10_000  # bytes from which a file lies in LFS, on the CDN
COMMIT = "94b07a6e30c3292b8265ed32ffdeccfdadf434a8"
REFUSALS = {
    "stranger": "Access to model {repo} is restricted and you are not in the authorized list. "
    "Visit https://huggingface.co/{repo} to ask for access.",
    "pending": "Your request to access model {repo} is awaiting a review from the repo authors.",
    "rejected": "Your request to access model {repo} has been rejected by the repo's authors.",
    "scopeless": "Please enable access to public gated repositories in your fine-grained token "
    "settings to view this repository.",
}


class FakeHub:
    """One repository; ``accounts`` maps a token to ``granted`` or a key of ``REFUSALS``."""

    def __init__(
        self,
        repository: str,
        files: Mapping[str, bytes | Path],
        *,
        gated: bool = True,
        closed_metadata: bool = False,  # as the Hub was in 2023: the file list is gated too
    ) -> None:
        self.repository = repository
        self.files = dict(files)
        self.gated = gated
        self.closed_metadata = closed_metadata
        self.accounts = {"hf_granted0000": "granted"}
        self.accounts |= {f"hf_{state}0000": state for state in REFUSALS}
        self.commit = COMMIT  # that main means now
        self.signature = 0  # those before are expired
        self.leaks: list[Seen] = []  # requests that carried the token to the CDN
        self.hub = Server({}, handler=self._hub)
        self.cdn = Server({_sha256(data): data for data in files.values()}, handler=self._cdn)

    def __enter__(self) -> FakeHub:
        self.cdn.__enter__()
        self.hub.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.hub.__exit__()
        self.cdn.__exit__()

    @property
    def url(self) -> str:
        """The Hub's base: what HF_ENDPOINT would be."""
        return self.hub.url

    def expire(self) -> None:
        """Every address of the CDN that was given out stops working."""
        self.signature += 1

    def _hub(self, handler: Any, seen: Seen) -> bool:
        fault = self.hub.take_fault(seen.path)
        if fault is not None:
            handler.answer(fault.status, b"", fault.headers)
        elif seen.path.startswith("/api/models/"):
            self._api(handler, seen)
        elif "/resolve/" in seen.path:
            self._resolve(handler, seen)
        else:
            handler.answer(404, b"{}")
        return True

    def _state(self, seen: Seen) -> str:
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        return self.accounts.get(token, "invalid") if token else "anonymous"

    def _refused(self, handler: Any, seen: Seen, *, gate: bool) -> bool:
        state = self._state(seen)
        if state == "invalid":
            _refuse(handler, 401, "", "Invalid credentials in Authorization header")
        elif not self.gated or not gate or state == "granted":
            return False
        elif state == "anonymous":
            text = "Access to model {repo} is restricted. You must have access to it and be "
            text += "authenticated to access it. Please log in."
            _refuse(handler, 401, "GatedRepo", text.format(repo=self.repository))
        else:
            text = REFUSALS[state].format(repo=self.repository)
            _refuse(handler, 403, "GatedRepo", text)
        return True

    def _api(self, handler: Any, seen: Seen) -> None:
        rest = seen.path.removeprefix("/api/models/")
        if not (rest + "/").startswith(self.repository + "/"):
            status = 404 if self._state(seen) == "granted" else 401  # as it says of private ones
            _refuse(handler, status, "RepoNotFound", "Repository not found")
            return
        if self._refused(handler, seen, gate=self.closed_metadata):
            return
        rest = rest.removeprefix(self.repository)
        kind, _, revision = rest.strip("/").partition("/")
        if revision and unquote(revision) not in ("main", self.commit):
            _refuse(handler, 404, "RevisionNotFound", "Invalid rev id")
        elif kind == "tree":
            _answer(handler, [_tree_entry(name, data) for name, data in self.files.items()])
        elif kind == "auth-check":
            handler.answer(200, b"")
        else:
            _answer(handler, self._info())

    def _info(self) -> dict[str, Any]:
        siblings = [_sibling(name, data) for name, data in self.files.items()]
        return {
            "id": self.repository,
            "modelId": self.repository,
            "sha": self.commit,
            "private": False,
            "gated": "manual" if self.gated else False,
            "tags": [],
            "siblings": siblings,
        }

    def _resolve(self, handler: Any, seen: Seen) -> None:
        repository, _, rest = seen.path.strip("/").partition("/resolve/")
        revision, _, path = rest.partition("/")
        if repository != self.repository:
            _refuse(handler, 401, "RepoNotFound", "Repository not found")
        elif self._refused(handler, seen, gate=True):
            return
        elif revision not in ("main", self.commit):
            _refuse(handler, 404, "RevisionNotFound", "Invalid rev id")
        elif path not in self.files:
            _refuse(
                handler, 404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": self.commit}
            )
        else:
            self._give(handler, path)

    def _give(self, handler: Any, path: str) -> None:
        data = self.files[path]
        headers = {"X-Repo-Commit": self.commit}
        if isinstance(data, bytes) and len(data) < LARGE:
            handler.serve_bytes(data, headers | {"ETag": f'"{_git_sha1(data)}"'})
            return
        digest = _sha256(data)
        location = f"{self.cdn.url}/{digest}?Signature=secret{self.signature}&Expires=1"
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(_size(data))}
        handler.answer(302, b"", headers | linked | {"Location": location})

    def _cdn(self, handler: Any, seen: Seen) -> bool:
        if "authorization" in seen.headers:
            self.leaks.append(seen)
        if f"Signature=secret{self.signature}&" not in seen.query:
            handler.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            return True
        return False


def _answer(handler: Any, document: Any) -> None:
    handler.answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})


def _refuse(
    handler: Any, status: int, code: str, message: str, more: Mapping[str, str] | None = None
) -> None:
    headers = {"X-Error-Message": message, **(more or {})}
    if code:
        headers["X-Error-Code"] = code
    handler.answer(status, json.dumps({"error": message}).encode(), headers)


def _sibling(name: str, data: bytes | Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": _size(data), "blobId": _git_sha1(data)}
    if _size(data) >= LARGE:
        entry["lfs"] = {"sha256": _sha256(data), "size": _size(data), "pointerSize": 134}
    return entry


def _tree_entry(name: str, data: bytes | Path) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "file",
        "path": name,
        "size": _size(data),
        "oid": _git_sha1(data),
    }
    if _size(data) >= LARGE:
        entry["lfs"] = {"oid": _sha256(data), "size": _size(data), "pointerSize": 134}
    return entry


def _size(data: bytes | Path) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)


@cache
def _sha256(data: bytes | Path) -> str:
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with data.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_sha1(data: bytes | Path) -> str:
    """The name of the blob in git; of a large file that is its pointer's, which nobody checks."""
    if isinstance(data, Path):
        return hashlib.sha1(_sha256(data).encode()).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def main() -> None:
    """Serve the files of a folder as an open repository until standard input ends."""
    files = {path.name: path for path in sorted(Path(sys.argv[2]).iterdir())}
    with FakeHub(sys.argv[1], files, gated=False) as hub:
        print(hub.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
