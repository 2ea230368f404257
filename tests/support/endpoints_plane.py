"""A loopback control plane of Hugging Face Inference Endpoints, stricter than the service.

It keeps real state: an endpoint goes pending → initializing → running one state a poll, has no URL
before, runs what ``launch`` starts behind its URL, pages its lists and shows new endpoints in them
late. What it shows is what the library's own mocks show: empty fields are gone, branches are
commits, secrets and passwords are not given out, and there are fields that nobody set. Accelerators
are counted. In front of each endpoint stands the platform's proxy, with its own opinion of tokens,
paused and sleeping endpoints. Refusals are those of ``endpoints_refusals``. What it cannot prove:
the live service's own validation, timing, billing, and how ``PUT`` merges (here: given keys
replace, nested objects merge).
"""

from __future__ import annotations

import copy
import hashlib
import http.client
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from tests.support.endpoints_refusals import REFUSALS

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
ACCESS = ("public", "authenticated", "private")
STARTED = "2026-01-01T00:00:00.263078506Z"  # nanoseconds, as in MOCK_INITIALIZING

Answer = tuple[int, Any, Mapping[str, str]]


def _row(kind: str, size: str, price: float | None, **more: Any) -> dict[str, Any]:
    return {
        "id": f"aws-us-east-1-{kind}-{size}",
        "accelerator": "gpu",
        "numAccelerators": int(size[1:]),
        "instanceType": kind,
        "instanceSize": size,
        "architecture": kind.replace("nvidia-", "Nvidia ").upper().replace("NVIDIA", "Nvidia"),
        "status": "available",
        "pricePerHour": price,
        "quota": {"maxAccelerators": 8, "usedAccelerators": 0},
    } | more


_CPU: dict[str, Any] = {"accelerator": "cpu", "numAccelerators": 1, "gpuMemoryGb": None}
_NONE_LEFT = {"quota": {"maxAccelerators": 0, "usedAccelerators": 0}}

# The shapes of MOCK_PROVIDERS in the library's own tests: memory as floats of GiB and for all
# accelerators of a machine together, no numCpus and null gpuMemoryGb on CPUs, machines that are
# listed and cannot be had. One without a price is ours.
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
                        _row("intel-spr", "x1", 0.033, memoryGb=2.0, **_CPU),
                        _row("intel-spr", "x16", 0.53, memoryGb=32.0, **_CPU),
                        _row("nvidia-t4", "x1", 0.5,
                            memoryGb=15.0, gpuMemoryGb=16, numCpus=3,
                        ),
                        _row("nvidia-t4", "x4", 3.0,
                            memoryGb=186.0, gpuMemoryGb=64, numCpus=46,
                        ),
                        _row("nvidia-l4", "x1", 0.8,
                            memoryGb=30.0, gpuMemoryGb=24, numCpus=7,
                        ),
                        _row("nvidia-l4", "x4", 3.8,
                            memoryGb=186.0, gpuMemoryGb=96, numCpus=46,
                        ),
                        _row("nvidia-a100", "x1", 2.5,
                            memoryGb=145.0, gpuMemoryGb=80, numCpus=11, **_NONE_LEFT,
                        ),
                        _row("nvidia-h100", "x1", 0.1,
                            memoryGb=145.0, gpuMemoryGb=80, numCpus=11, status="reserved",
                        ),
                        _row("nvidia-b200", "x1", None,
                            memoryGb=145.0, gpuMemoryGb=180, numCpus=11,
                        ),
                    ],
                }
            ],
        }
    ]
}  # fmt: skip


MANAGE = "inference.endpoints.write"
INFER = "inference.endpoints.infer.write"
BILLS = ("pending", "initializing", "updating", "running", "updateFailed", "scaledToZero")


@dataclass
class Faults:
    """What goes wrong; each entry is used up or kept as its comment says."""

    answers: list[tuple[str, str, int]] = field(default_factory=list)  # (method, path part, status)
    limited: list[tuple[str, str]] = field(default_factory=list)  # a 429 each; used up
    denied: list[tuple[str, str]] = field(default_factory=list)  # (method, path pattern); kept
    never_ready: bool = False  # stays initializing
    fail_start: str = ""  # the next start ends as ``failed`` with this message
    revoked: bool = False  # every token is refused
    quota_full: bool = False  # creating is refused
    unlisted: int = 0  # listings in which a new endpoint does not show yet


@dataclass
class Running:
    """What stands behind a URL: where it is, and how to stop it."""

    url: str
    stop: Callable[[], None]


def _commit(repository: str, revision: str | None) -> str:
    """A commit that is always the same one, where no Hub is asked."""
    if re.fullmatch("[0-9a-f]{40}", revision or ""):
        return str(revision)
    return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()


class EndpointsPlane:
    """``url`` is the value for ``INFERENCE_ENDPOINTS_ENDPOINT`` (it ends in ``/v2``)."""

    def __init__(
        self,
        *,
        tokens: dict[str, str],
        launch: Callable[[dict[str, Any]], Running],
        resolve: Callable[[str, str | None], str | None] = _commit,
        page_size: int = 20,
    ) -> None:
        self.tokens = tokens  # token → namespace that it may manage
        self.scopes: dict[str, set[str]] = {}  # of fine-grained tokens; others may do everything
        self.launch = launch
        self.resolve = resolve  # repository and revision → commit; None: there is no such
        self.page_size = page_size
        self.faults = Faults()
        self.requests: list[tuple[str, str, Any]] = []  # method, path, body
        self.asked: list[tuple[str, str, Mapping[str, str]]] = []  # of endpoints: their own proxy
        self.called: list[tuple[str, str]] = []  # the same: method and path
        self.endpoints: dict[tuple[str, str], dict[str, Any]] = {}
        self.logs: dict[tuple[str, str], list[str]] = {}
        self.hardware = copy.deepcopy(HARDWARE)
        self._unseen: dict[tuple[str, str], int] = {}
        self._running: dict[tuple[str, str], Running] = {}
        self._lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"plane": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(
            target=lambda: self._server.serve_forever(poll_interval=0.02), daemon=True
        )

    def reset(self) -> None:
        """As new, for the next test."""
        with self._lock:
            for key in list(self._running):
                self._stop(key)
            self.faults = Faults()
            self.hardware = copy.deepcopy(HARDWARE)
            for kept in (self.requests, self.asked, self.called):
                kept.clear()
            for known in (self.endpoints, self.logs, self._unseen, self.scopes):
                known.clear()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v2"

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

    # What the routes do; each returns (status, body, headers).

    def answer(self, method: str, path: str, query: str, token: str, body: Any) -> Answer:
        """One request, under the lock, so that state changes are whole."""
        with self._lock:
            self.requests.append((method, path, body))
            refused = self._refusal(method, path, token)
            if refused:
                return refused
            parts = path.removeprefix("/v2/").split("/")
            if parts[0] not in ("provider", "endpoint") or len(parts) < 2:
                return 404, {"error": "Not Found"}, {}
            if self.tokens[token] != parts[1]:
                return REFUSALS["another namespace"].answer
            if parts[0] == "provider":
                return 200, self._hardware(), {}
            found = self._endpoint(method, parts[1], parts[2:], query, body)
            return found if len(found) == 3 else (*found, {})

    def _refusal(self, method: str, path: str, token: str) -> Answer | None:
        if self.faults.revoked or token not in self.tokens:
            return REFUSALS["bad token"].answer
        if MANAGE not in self.scopes.get(token, {MANAGE}):
            return REFUSALS["no scope to manage"].answer
        if any(one == method and re.search(part, path) for one, part in self.faults.denied):
            return REFUSALS["denied"].answer
        for limit in self.faults.limited:
            if limit[0] == method and limit[1] in path:
                self.faults.limited.remove(limit)
                return REFUSALS["rate limit"].answer
        for fault in self.faults.answers:
            if fault[0] == method and fault[1] in path:
                self.faults.answers.remove(fault)
                return fault[2], {"error": f"scripted {fault[2]}"}, {}
        return None

    def _endpoint(self, method: str, namespace: str, rest: list[str], query: str, body: Any) -> Any:
        if not rest:
            return (
                self._list(namespace, query) if method == "GET" else self._create(namespace, body)
            )
        key = (namespace, rest[0])
        if key not in self.endpoints:
            return REFUSALS["no endpoint"].answer
        verb = rest[1] if len(rest) > 1 else ""
        actions: dict[tuple[str, str], Callable[[], Any]] = {
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
        limit = min(self.page_size, int(asked.get("limit", [str(self.page_size)])[0]))
        keys = [key for key in sorted(self.endpoints) if key[0] == namespace and self._seen(key)]
        page: dict[str, Any] = {"items": [self._poll(key) for key in keys[begin : begin + limit]]}
        if begin + limit < len(keys):
            page["cursor"] = str(begin + limit)
        return 200, page

    def _seen(self, key: tuple[str, str]) -> bool:
        left = self._unseen.get(key, 0)
        self._unseen[key] = max(0, left - 1)
        return left == 0

    def _create(self, namespace: str, body: Any) -> Any:
        problem = problem_of(body)
        if problem:
            return 400, {"error": problem}
        key = (namespace, body["name"])
        if key in self.endpoints:
            return REFUSALS["taken"].answer
        state = copy.deepcopy(body)
        refused = self._unplaceable(key, state)
        if refused:
            return refused
        state.setdefault("tags", [])
        state["model"].setdefault("secrets", {})
        state["model"].setdefault("task", "custom")
        state["status"] = {"state": "pending", "createdAt": STARTED, "updatedAt": STARTED}
        state["status"] |= {"message": "Endpoint waiting to be scheduled", "readyReplica": 0}
        state["status"]["targetReplica"] = state["compute"]["scaling"]["minReplica"]
        state["healthRoute"] = _health_route(state)
        self.endpoints[key] = state
        self._unseen[key] = self.faults.unlisted
        self.logs[key] = ["- 2026-01-01T00:00:00.000Z Endpoint created"]
        return 200, self._shown(key)

    def _unplaceable(self, key: tuple[str, str], state: dict[str, Any]) -> Any:
        """Why it cannot run: no such revision or machine, or no accelerators left of that kind."""
        model, compute = state["model"], state["compute"]
        commit = self.resolve(model["repository"], model.get("revision"))
        if commit is None:
            return REFUSALS["no revision"].answer
        model["revision"] = commit
        machine = self._machine(state)
        if machine is None or machine["status"] != "available":
            return REFUSALS["no such machine"].answer
        wanted = machine["numAccelerators"] * compute["scaling"]["maxReplica"]
        most = machine["quota"]["maxAccelerators"]
        if self.faults.quota_full or self._used(machine, without=key) + wanted > most:
            return REFUSALS["quota"].answer
        return None

    def _machine(self, state: dict[str, Any]) -> dict[str, Any] | None:
        compute, provider = state["compute"], state["provider"]
        for vendor in self.hardware["vendors"]:
            for region in vendor["regions"]:
                for machine in region["computes"]:
                    place = (vendor["name"], region["name"])
                    kind = (machine["instanceType"], machine["instanceSize"])
                    if place == (provider["vendor"], provider["region"]) and kind == (
                        compute["instanceType"],
                        compute["instanceSize"],
                    ):
                        return dict(machine)
        return None

    def _used(self, machine: dict[str, Any], without: tuple[str, str] | None = None) -> int:
        """Accelerators of that kind that count: sleeping endpoints do, paused ones do not."""
        there = [
            state
            for key, state in self.endpoints.items()
            if key != without
            and state["status"]["state"] in BILLS
            and state["compute"]["instanceType"] == machine["instanceType"]
            and state["provider"]["vendor"] in machine["id"]
        ]
        counts = [
            int(state["compute"]["instanceSize"][1:]) * state["compute"]["scaling"]["maxReplica"]
            for state in there
        ]
        return int(machine["quota"]["usedAccelerators"]) + sum(counts)

    def _hardware(self) -> dict[str, Any]:
        shown = copy.deepcopy(self.hardware)
        for vendor in shown["vendors"]:
            for region in vendor["regions"]:
                for machine in region["computes"]:
                    machine["quota"]["usedAccelerators"] = self._used(machine)
        return shown

    def _update(self, key: tuple[str, str], body: Any) -> Any:
        state = self.endpoints[key]
        if state["status"]["state"] == "failed":
            return REFUSALS["failed"].answer
        merged = _merge(state, body)
        problem = problem_of(merged)
        if problem:
            return 400, {"error": problem}
        if set(merged["model"]["image"]) != set(state["model"]["image"]):
            return REFUSALS["engine"].answer
        refused = self._unplaceable(key, merged)
        if refused:
            return refused
        self.endpoints[key] = merged
        merged["healthRoute"] = _health_route(merged)
        if merged["status"]["state"] != "paused":
            merged["status"]["state"] = "updating"
        return 200, self._shown(key)

    def _delete(self, key: tuple[str, str]) -> tuple[int, Any]:
        self._stop(key)
        del self.endpoints[key]
        return 202, {}

    def _set(self, key: tuple[str, str], state: str) -> tuple[int, Any]:
        self._stop(key)
        status = self.endpoints[key]["status"]
        status.update(state=state, readyReplica=0, targetReplica=0)
        if state == "paused":
            status.pop("url", None)
        return 200, self._shown(key)

    def _resume(self, key: tuple[str, str]) -> Any:
        if self.endpoints[key]["status"]["state"] == "running":
            return REFUSALS["running"].answer
        if self.endpoints[key]["status"]["state"] == "failed":
            return REFUSALS["failed"].answer
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
        ready = max(1, self.endpoints[key]["compute"]["scaling"]["minReplica"])
        url = f"{self.root}/endpoint/{key[0]}/{key[1]}"
        status.update(state="running", url=url, message="Endpoint is ready")
        status.update(readyReplica=ready, targetReplica=ready)
        self.logs[key].append("- 2026-01-01T00:00:02.000Z Endpoint is ready")

    def _stop(self, key: tuple[str, str]) -> None:
        old = self._running.pop(key, None)
        if old:
            old.stop()

    def _shown(self, key: tuple[str, str]) -> dict[str, Any]:
        """As the service shows it: see the module; the shapes are the library's own mocks'."""
        shown = copy.deepcopy(self.endpoints[key])
        model, scaling = shown["model"], shown["compute"]["scaling"]
        model["secrets"] = dict.fromkeys(model["secrets"], "********")
        for image in model["image"].values():
            if "credentials" in image:
                image["credentials"] = {"username": image["credentials"]["username"]}
        empty = ((model, "secrets"), (model, "env"), (model, "args"), (shown, "tags"))
        for inner, name in (*empty, (scaling, "scaleToZeroTimeout")):
            if not inner.get(name):
                inner.pop(name, None)
        who = {"id": "6273f303f6d63a28483fde12", "name": "Wauplin"}
        shown["status"] |= {"createdBy": who, "updatedBy": who, "private": None}
        scaling["measure"] = {"hardwareUsage": 80}
        for engine in ("vLLM",):
            if engine in model["image"]:
                model["image"][engine].setdefault("dataParallelSize", 1)
        return shown | {"accountId": None, "experimentalFeatures": {"kvRouter": {"tag": "x"}}}

    # --- the proxy in front of an endpoint ------------------------------------------------

    def admit(self, method: str, path: str, token: str, headers: Mapping[str, str]) -> Answer | str:
        """Where a request to an endpoint goes on, or the proxy's own answer."""
        with self._lock:
            namespace, name, *rest = path.removeprefix("/endpoint/").split("/")
            key = (namespace, name)
            self.asked.append((name, "/".join(["", *rest]), headers))
            self.called.append((method, "/" + "/".join(rest)))
            state = self.endpoints.get(key)
            if state is None:
                return REFUSALS["no endpoint"].answer
            refused = self._not_admitted(state, namespace, token)
            if refused:
                return refused
            if state["status"]["state"] == "paused":
                return REFUSALS["paused"].answer
            if state["status"]["state"] == "scaledToZero":
                state["status"]["state"] = "initializing"
                if not headers.get("X-Scale-Up-Timeout", "").isdigit():
                    return REFUSALS["asleep"].answer
                self._start(key)
            if key not in self._running:
                return REFUSALS["asleep"].answer
            return self._running[key].url + "".join(f"/{part}" for part in rest)

    def _not_admitted(self, state: dict[str, Any], namespace: str, token: str) -> Answer | None:
        if state["type"] == "public":
            return None
        if not token:
            return REFUSALS["anonymous"].answer
        if self.faults.revoked or token not in self.tokens:
            return REFUSALS["bad token"].answer
        if INFER not in self.scopes.get(token, {INFER}):
            return REFUSALS["no scope to infer"].answer
        if state["type"] == "private" and self.tokens[token] != namespace:
            return REFUSALS["denied"].answer
        return None


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
            "model.args must be texts": _is_texts(body["model"].get("args", [])),
            "vLLM runs on accelerators": "vLLM" not in body["model"]["image"]
            or body["compute"]["accelerator"] == "gpu",
            "model.secrets must map text to text": _is_text_map(body["model"].get("secrets", {})),
            "tags must be texts": all(isinstance(tag, str) for tag in body.get("tags", [])),
            "provider.vendor must be text": isinstance(body["provider"]["vendor"], str),
        }
    except (KeyError, TypeError, AttributeError) as error:
        return f"Invalid body: {error!r}"
    return next((problem for problem, fine in checks.items() if not fine), "")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


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
    wbufsize = 1 << 16  # head and body in one packet: nothing waits for an acknowledgement
    disable_nagle_algorithm = True

    def _respond(self) -> None:
        where = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if where.path.startswith("/endpoint/"):
            return self._forward(where.path, token, body)
        document = json.loads(body) if body else None
        self._send(*self.plane.answer(self.command, where.path, where.query, token, document))
        return None

    def _forward(self, path: str, token: str, body: bytes) -> None:
        target = self.plane.admit(self.command, path, token, dict(self.headers))
        if not isinstance(target, str):
            return self._send(*target)
        where = urlsplit(target)
        onward = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
        kept = ("content-type", "accept")
        headers = {key: value for key, value in self.headers.items() if key.lower() in kept}
        try:
            onward.request(self.command, where.path or "/", body or None, headers)
            answer = onward.getresponse()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type") or "text/plain")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while piece := answer.read1(65536):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        finally:
            onward.close()

    def _send(self, status: int, answer: Any, headers: Mapping[str, str]) -> None:
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header(
            "Content-Type", "text/plain" if isinstance(answer, str) else "application/json"
        )
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _respond

    def log_message(self, *_: object) -> None:
        """Quiet."""
