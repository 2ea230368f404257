"""A loopback control plane of Hugging Face Inference Endpoints.

It keeps real state: an endpoint goes pending → initializing → running one state a poll, runs what
``launch`` starts behind its URL, pages its lists, refuses what the service is known to refuse, and
fails on request (``faults``). Bodies are checked for the fields and types that the public client
sends. What it cannot prove: the live service's own validation, timing, billing, exact error texts,
and how ``PUT`` merges (here: given keys replace, nested objects merge).
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
ACCESS = ("public", "authenticated", "private")
STARTED = "2026-01-01T00:00:00.000Z"

HARDWARE: dict[str, Any] = {
    "vendors": [
        {
            "name": "aws",
            "status": "available",
            "regions": [
                {
                    "name": "us-east-1",
                    "label": "N. Virginia",
                    "status": "available",
                    "computes": [
                        {
                            "id": "aws-us-east-1-intel-spr-x1",
                            "accelerator": "cpu",
                            "numAccelerators": 1,
                            "numCpus": 1,
                            "memoryGb": 2,
                            "instanceType": "intel-spr",
                            "instanceSize": "x1",
                            "architecture": "Intel Sapphire Rapids",
                            "status": "available",
                            "pricePerHour": 0.033,
                            "quota": {"maxAccelerators": 8, "usedAccelerators": 0},
                        },
                        {
                            "id": "aws-us-east-1-nvidia-l4-x1",
                            "accelerator": "gpu",
                            "numAccelerators": 1,
                            "numCpus": 8,
                            "memoryGb": 30,
                            "gpuMemoryGb": 24,
                            "instanceType": "nvidia-l4",
                            "instanceSize": "x1",
                            "architecture": "NVIDIA L4",
                            "status": "available",
                            "pricePerHour": 0.8,
                            "quota": {"maxAccelerators": 4, "usedAccelerators": 0},
                        },
                        {
                            "id": "aws-us-east-1-nvidia-a100-x1",
                            "accelerator": "gpu",
                            "numAccelerators": 1,
                            "numCpus": 11,
                            "memoryGb": 145,
                            "gpuMemoryGb": 80,
                            "instanceType": "nvidia-a100",
                            "instanceSize": "x1",
                            "architecture": "NVIDIA A100",
                            "status": "available",
                            "pricePerHour": 2.5,
                            "quota": {"maxAccelerators": 0, "usedAccelerators": 0},
                        },
                    ],
                }
            ],
        }
    ]
}


@dataclass
class Faults:
    """What goes wrong; each entry is used up or kept as its comment says."""

    answers: list[tuple[str, str, int]] = field(default_factory=list)  # (method, path part, status)
    never_ready: bool = False  # stays initializing
    fail_start: str = ""  # the next start ends as ``failed`` with this message
    revoked: bool = False  # every token is refused
    quota_full: bool = False  # creating is refused


@dataclass
class Running:
    """What stands behind a URL: where it is, and how to stop it."""

    url: str
    stop: Callable[[], None]


class EndpointsPlane:
    """``url`` is the value for ``INFERENCE_ENDPOINTS_ENDPOINT`` (it ends in ``/v2``)."""

    def __init__(
        self,
        *,
        tokens: dict[str, str],
        launch: Callable[[dict[str, Any]], Running],
        page_size: int = 20,
    ) -> None:
        self.tokens = tokens  # token → namespace that it may manage
        self.launch = launch
        self.page_size = page_size
        self.faults = Faults()
        self.requests: list[tuple[str, str, Any]] = []  # method, path, body
        self.endpoints: dict[tuple[str, str], dict[str, Any]] = {}
        self.logs: dict[tuple[str, str], list[str]] = {}
        self.hardware = copy.deepcopy(HARDWARE)
        self._running: dict[tuple[str, str], Running] = {}
        self._lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"plane": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v2"

    @property
    def writes(self) -> list[tuple[str, str, Any]]:
        """Every request that is not a plain read."""
        return [request for request in self.requests if request[0] != "GET"]

    def __enter__(self) -> EndpointsPlane:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._running):
            self._stop(key)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # What the routes do; each returns (status, body).

    def answer(self, method: str, path: str, query: str, token: str, body: Any) -> tuple[int, Any]:
        """One request, under the lock, so that state changes are whole."""
        with self._lock:
            self.requests.append((method, path, body))
            refused = self._refusal(method, path, token)
            if refused:
                return refused
            parts = path.removeprefix("/v2/").split("/")
            if parts[0] == "provider" and len(parts) == 2:
                return 200, self.hardware
            if parts[0] != "endpoint" or len(parts) < 2:
                return 404, {"error": "Not Found"}
            if self.tokens[token] != parts[1]:
                return 403, {"error": f"You are not allowed to manage {parts[1]}"}
            return self._endpoint(method, parts[1], parts[2:], query, body)

    def _refusal(self, method: str, path: str, token: str) -> tuple[int, Any] | None:
        if self.faults.revoked or token not in self.tokens:
            return 401, {"error": "Invalid credentials in Authorization header"}
        for fault in self.faults.answers:
            if fault[0] == method and fault[1] in path:
                self.faults.answers.remove(fault)
                return fault[2], {"error": f"scripted {fault[2]}"}
        return None

    def _endpoint(
        self, method: str, namespace: str, rest: list[str], query: str, body: Any
    ) -> tuple[int, Any]:
        if not rest:
            return (
                self._list(namespace, query) if method == "GET" else self._create(namespace, body)
            )
        key = (namespace, rest[0])
        if key not in self.endpoints:
            return 404, {"error": f"Endpoint {rest[0]} not found"}
        verb = rest[1] if len(rest) > 1 else ""
        actions: dict[tuple[str, str], Callable[[], tuple[int, Any]]] = {
            ("GET", ""): lambda: (200, self._poll(key)),
            ("PUT", ""): lambda: self._update(key, body),
            ("DELETE", ""): lambda: self._delete(key),
            ("POST", "pause"): lambda: self._set(key, "paused"),
            ("POST", "resume"): lambda: self._resume(key),
            ("POST", "scale-to-zero"): lambda: self._set(key, "scaledToZero"),
            ("GET", "logs"): lambda: (200, "\n".join(self._log(key, query)) + "\n"),
        }
        action = actions.get((method, verb))
        return action() if action else (405, {"error": "Method Not Allowed"})

    def _list(self, namespace: str, query: str) -> tuple[int, Any]:
        asked = parse_qs(query)
        begin = int(asked.get("cursor", ["0"])[0])
        limit = int(asked.get("limit", [str(self.page_size)])[0])
        tags = set(asked.get("tags", []))
        keys = [key for key in sorted(self.endpoints) if key[0] == namespace]
        keys = [key for key in keys if tags <= set(self.endpoints[key]["tags"])]
        page: dict[str, Any] = {"items": [self._poll(key) for key in keys[begin : begin + limit]]}
        if begin + limit < len(keys):
            page["cursor"] = str(begin + limit)
        return 200, page

    def _create(self, namespace: str, body: Any) -> tuple[int, Any]:
        problem = problem_of(body)
        if problem:
            return 400, {"error": problem}
        key = (namespace, body["name"])
        if key in self.endpoints:
            return 409, {"error": f"Endpoint name {body['name']} is already taken"}
        if self.faults.quota_full:
            return 403, {"error": "You have reached your quota of accelerators for this instance"}
        state = copy.deepcopy(body)
        state.setdefault("tags", [])
        state["model"].setdefault("secrets", {})
        state["model"].setdefault("task", "custom")
        state["status"] = {"state": "pending", "createdAt": STARTED, "updatedAt": STARTED}
        state["status"]["message"] = "Endpoint is pending"
        state["healthRoute"] = _health_route(state)
        self.endpoints[key] = state
        self.logs[key] = ["- 2026-01-01T00:00:00.000Z Endpoint created"]
        return 200, self._shown(key)

    def _update(self, key: tuple[str, str], body: Any) -> tuple[int, Any]:
        state = self.endpoints[key]
        merged = _merge(state, body)
        problem = problem_of(merged)
        if problem:
            return 400, {"error": problem}
        if set(merged["model"]["image"]) != set(state["model"]["image"]):
            return 400, {"error": "The engine of an endpoint cannot be changed"}
        self.endpoints[key] = merged
        merged["healthRoute"] = _health_route(merged)
        merged["status"]["state"] = "updating"
        return 200, self._shown(key)

    def _delete(self, key: tuple[str, str]) -> tuple[int, Any]:
        self._stop(key)
        del self.endpoints[key]
        return 202, {}

    def _set(self, key: tuple[str, str], state: str) -> tuple[int, Any]:
        self._stop(key)
        self.endpoints[key]["status"]["state"] = state
        return 200, self._shown(key)

    def _resume(self, key: tuple[str, str]) -> tuple[int, Any]:
        if self.endpoints[key]["status"]["state"] == "running":
            return 400, {"error": "Bad Request: Endpoint is already running"}
        self.endpoints[key]["status"]["state"] = "pending"
        return 200, self._shown(key)

    def _log(self, key: tuple[str, str], query: str) -> list[str]:
        tail = int(parse_qs(query).get("tail", ["0"])[0])
        return self.logs[key][-tail:]

    def _poll(self, key: tuple[str, str]) -> dict[str, Any]:
        """Show the endpoint, having let it go one state further."""
        status = self.endpoints[key]["status"]
        if status["state"] == "pending":
            status["state"] = "initializing"
        elif status["state"] in ("initializing", "updating") and not self.faults.never_ready:
            self._start(key)
        return self._shown(key)

    def _start(self, key: tuple[str, str]) -> None:
        status = self.endpoints[key]["status"]
        updating = status["state"] == "updating"
        if self.faults.fail_start:
            status["state"] = "updateFailed" if updating else "failed"
            status["message"], self.faults.fail_start = self.faults.fail_start, ""
            self.logs[key].append(f"- 2026-01-01T00:00:01.000Z {status['message']}")
            return
        fresh = self.launch(copy.deepcopy(self.endpoints[key]))
        self._stop(key)
        self._running[key] = fresh
        ready = self.endpoints[key]["compute"]["scaling"]["minReplica"]
        status.update(state="running", url=fresh.url, message="Endpoint is ready")
        status["readyReplica"] = ready
        self.logs[key].append("- 2026-01-01T00:00:02.000Z Endpoint is ready")

    def _stop(self, key: tuple[str, str]) -> None:
        old = self._running.pop(key, None)
        if old:
            old.stop()

    def _shown(self, key: tuple[str, str]) -> dict[str, Any]:
        """As the service shows it: secrets are names only, empty fields and branches are gone."""
        shown = copy.deepcopy(self.endpoints[key])
        model, scaling = shown["model"], shown["compute"]["scaling"]
        model["secrets"] = dict.fromkeys(model["secrets"], "")
        for inner, name in ((model, "secrets"), (model, "env"), (scaling, "scaleToZeroTimeout")):
            if not inner.get(name):
                inner.pop(name, None)
        if model.get("revision") == "main":
            model["revision"] = hashlib.sha1(model["repository"].encode()).hexdigest()
        return shown


def problem_of(body: Any) -> str:
    """Why the service would refuse ``body``, or an empty string."""
    try:
        checks = {
            "name must be at most 32 lower-case letters, digits and '-'": bool(
                NAME.fullmatch(body["name"])
            ),
            "type is unknown": body["type"] in ACCESS,
            "compute.accelerator is unknown": body["compute"]["accelerator"] in ("cpu", "gpu"),
            "compute.instanceType must be text": isinstance(body["compute"]["instanceType"], str),
            "scaling must be 0 ≤ minReplica ≤ maxReplica": 0
            <= body["compute"]["scaling"]["minReplica"]
            <= body["compute"]["scaling"]["maxReplica"],
            "model.repository must be owner/name": body["model"]["repository"].count("/") == 1,
            "model.image must name one engine": len(body["model"]["image"]) == 1,
            "model.env must map text to text": _is_text_map(body["model"].get("env", {})),
            "model.secrets must map text to text": _is_text_map(body["model"].get("secrets", {})),
            "tags must be texts": all(isinstance(tag, str) for tag in body.get("tags", [])),
            "provider.vendor must be text": isinstance(body["provider"]["vendor"], str),
        }
    except (KeyError, TypeError, AttributeError) as error:
        return f"Invalid body: {error!r}"
    return next((problem for problem, fine in checks.items() if not fine), "")


def _is_text_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _health_route(state: dict[str, Any]) -> str:
    image = next(iter(state["model"]["image"].values()))
    return str(image.get("healthRoute") or "/health")


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(old.get(key), dict)
        merged[key] = _merge(old[key], value) if both and key not in ("env", "secrets") else value
    return merged


class _Handler(BaseHTTPRequestHandler):
    plane: ClassVar[EndpointsPlane]
    protocol_version = "HTTP/1.1"

    def _respond(self) -> None:
        where = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        status, answer = self.plane.answer(self.command, where.path, where.query, token, body)
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header(
            "Content-Type", "text/plain" if isinstance(answer, str) else "application/json"
        )
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _respond

    def log_message(self, *_: object) -> None:
        """Quiet."""
