"""AWS on one loopback port: the real boto3 in front, a contract fake behind.

Every request of a JSON service is held against botocore's own model (required members,
enumerations, patterns, lengths, ranges), and so is every answer of the fake. IAM, STS and
CloudWatch are moto's. Faults are told to the plane beforehand. Requests must be signed and their
time must be right; whether a signature itself is right is not checked.
"""

from __future__ import annotations

import email.utils
import fnmatch
import functools
import itertools
import json
import logging
import os
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support import sagemaker_host as host
from tests.support import sagemaker_s3 as s3
from tests.support import sagemaker_shapes as shapes
from tests.support.sagemaker_control import Control
from tests.support.sagemaker_iam import Permissions, form_of
from tests.support.sagemaker_others import Others
from tests.support.sagemaker_refusals import ApiError, refusal
from tests.support.sagemaker_roles import Roles
from tests.support.sagemaker_runtime import Runtime

REGION = "us-east-1"
ACCOUNT = "123456789012"
JSON_SERVICES = {  # signing name → botocore's name
    "sagemaker": "sagemaker",
    "application-autoscaling": "application-autoscaling",
    "logs": "logs",
    "servicequotas": "service-quotas",
    "pricing": "pricing",
    "ecr": "ecr",
    "codebuild": "codebuild",
    "kms": "kms",
}
MOTO = ("iam", "sts", "monitoring")
INVOKES = {
    "invocations": "InvokeEndpoint",
    "async-invocations": "InvokeEndpointAsync",
    "invocations-response-stream": "InvokeEndpointWithResponseStream",
}
READS = re.compile(r"(Describe|List|Get|Head|BatchGet|Simulate|Assume|Invoke)")
_SCOPE = re.compile(r"Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
QUOTAS = {
    "ml.m5.large": 8,
    "ml.m5.xlarge": 8,
    "ml.m5.2xlarge": 8,
    "ml.g5.2xlarge": 4,
    "ml.g5.12xlarge": 2,
    "ml.g6e.2xlarge": 2,
    "ml.p4d.24xlarge": 0,
}


@dataclass
class Fault:
    """What happens instead of, or after, the next calls of an operation (a pattern)."""

    operation: str
    kind: str = "ThrottlingException"
    message: str = "Rate exceeded"
    status: int = 400
    times: int = 1
    after: bool = False  # the call was done, but its answer is this


@dataclass
class Call:
    """One request that arrived."""

    service: str
    operation: str
    body: Any = None
    write: bool = False
    path: str = ""
    place: tuple[str, str] = (ACCOUNT, REGION)


@functools.cache
def _moto() -> Any:
    """One moto for all planes of this process, which empty it; called as WSGI, without a socket."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.test import Client

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    return Client(DomainDispatcherApplication(create_backend_app))


@dataclass(frozen=True)
class Scope:
    """Whose key signed a request, for which region and service."""

    key: str
    region: str
    service: str


class Elsewhere:
    """Another account or region: empty, and like the plane in all else."""

    def __init__(self, plane: Plane, account: str, region: str) -> None:
        self._plane, self.account, self.region = plane, account, region
        self.control = Control(self)  # type: ignore[arg-type]
        self.others = Others(self)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plane, name)


@dataclass
class Plane:
    """AWS, for as long as the block lasts."""

    root: Path
    region: str = REGION
    account: str = ACCOUNT
    launch: host.Launch = host.stub
    accounts: dict[str, str] = field(default_factory=dict)  # access key → another account
    page: int = 2  # entries of one page
    listing_lag: int = 0  # listings until something new is in them
    quotas: dict[str, int] = field(default_factory=lambda: dict(QUOTAS))
    default_quotas: dict[str, int] = field(default_factory=dict)
    odd_products: list[Any] = field(default_factory=list)  # of the price list, of other shapes
    prices: dict[str, float] = field(default_factory=lambda: {"ml.m5.large": 0.115})
    no_capacity: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)  # patterns of service:Operation
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    networks: dict[str, str] = field(  # subnet or security group → VPC
        default_factory=lambda: {"subnet-1": "vpc-1", "subnet-2": "vpc-1", "sg-1": "vpc-1"}
    )
    keys: dict[str, str] = field(default_factory=lambda: {"alias/weights": "Enabled"})  # → state
    skew: float = 0.0  # seconds by which the caller's clock is wrong
    kill_at: tuple[int, bool] | None = None  # number of a write, after it is done or before
    kill_pid: int = 0
    hurry: bool = False  # time goes by with every request, for callers in other processes
    images: dict[str, float | None] = field(default_factory=dict)  # URI → CUDA version

    def __post_init__(self) -> None:
        self._offset = 0.0
        self._names = itertools.count()
        self._ticks: list[Callable[[], None]] = []
        self._elsewhere: dict[tuple[str, str], Elsewhere] = {}
        self.roles = Roles(self)
        self.permissions = Permissions(self)
        self.s3 = s3.S3(self.root / "s3", self.region)
        self.control = Control(self)
        self.others = Others(self)
        self.runtime = Runtime(self)

    # --- life -----------------------------------------------------------------------------

    def __enter__(self) -> Plane:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._forward("POST", "/moto-api/reset", {}, b"")
        return self

    def __exit__(self, *problem: object) -> None:
        self.control.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """What makes boto3 talk to this plane."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }

    # --- time -----------------------------------------------------------------------------

    def now(self) -> float:
        """Virtual time."""
        return time.time() + self._offset

    def sleep(self, seconds: float) -> None:
        """What the backend calls instead of ``time.sleep``: workers get on, time goes by."""
        self._offset += seconds
        workers = [one.worker for one in list(self.control.endpoints.values()) if one.worker]
        for worker in workers:
            worker.join(0.3)
        self._run_ticks()

    def tick(self, action: Callable[[], None]) -> None:
        """Do ``action`` when time goes by."""
        self._ticks.append(action)

    def _run_ticks(self) -> None:
        due, self._ticks = self._ticks, []
        for action in due:
            action()

    # --- what tests ask -------------------------------------------------------------------

    def at(self, place: tuple[str, str]) -> Plane | Elsewhere:
        """What is in one account and region."""
        if place == (self.account, self.region):
            return self
        return self._elsewhere.setdefault(place, Elsewhere(self, *place))

    def inventory(self) -> list[str]:
        """Everything that exists in the account."""
        objects = [
            f"s3://{name}/{key}"
            for name, bucket in self.s3.buckets.items()
            for key in bucket.objects
        ]
        return [
            *self.control.inventory(),
            *self.others.inventory(),
            *objects,
            *(f"bucket/{name}" for name in self.s3.buckets),
            *(f"upload/{one.key}" for one in self.s3.uploads.values()),
            *(f"role/{name}" for name in self._moto_roles()),
            *(f"alarm/{name}" for name in self._alarms()),
        ]

    def writes(self) -> list[str]:
        """Operations that change something, since ``forget``."""
        return [f"{call.service}:{call.operation}" for call in self.calls if call.write]

    def forget(self) -> None:
        """Start counting again."""
        self.calls.clear()

    def body_of(self, operation: str) -> dict[str, Any]:
        """The last request of an operation."""
        return next(dict(one.body) for one in reversed(self.calls) if one.operation == operation)

    def new_folder(self) -> Path:
        """For a container's copy of the weights."""
        folder = self.root / f"container-{next(self._names)}" / "model"
        folder.mkdir(parents=True)
        return folder

    def quota(self, instance: str) -> int:
        """Instances of a type that the account may have."""
        return self.quotas.get(instance, self.default_quotas.get(instance, 0))

    # --- moto -----------------------------------------------------------------------------

    def backend(self, service: str) -> Any:
        """moto's own state of a service."""
        from moto.backends import get_backend
        from moto.core.base_backend import BackendDict

        found: BackendDict[Any] = get_backend(service)  # type: ignore[call-overload]
        return found[self.account]["aws" if service == "iam" else self.region]

    def _moto_roles(self) -> list[str]:
        return [role.name for role in self.backend("iam").roles.values()]

    def _alarms(self) -> list[str]:
        return list(self.backend("cloudwatch").alarms)

    def alarm_state(self, name: str) -> str | None:
        """OK, ALARM or INSUFFICIENT_DATA; ``None`` if there is no such alarm."""
        found = self.backend("cloudwatch").alarms.get(name)
        return str(found.state_value) if found else None

    def check_image(self, image: str) -> None:
        """Refuse an image of another region, or one that is not in the account's repository."""
        match = re.fullmatch(r"(\d+)\.dkr\.ecr\.([\w-]+)\.amazonaws\.com/([^:@]+)[:@](.+)", image)
        if match is None or match[2] != self.region:
            raise refusal("invalid", problem=f"The image {image} is not in ECR of this region")
        if match[1] == self.account and match[4] not in self.others.repositories.get(match[3], {}):
            raise refusal("no image", image=image)

    def cuda_of(self, image: str) -> float | None:
        """CUDA version of an image; ours has 13.0."""
        if image in self.images:
            return self.images[image]
        return 13.0 if image.startswith(self.account) else None

    def write_log(self, group: str, stream: str, lines: list[str]) -> None:
        """Lines of a container."""
        self.others.groups.setdefault(group, {}).setdefault(stream, []).extend(lines)

    # --- requests -------------------------------------------------------------------------

    def answer(self, request: s3.Request, scope: Scope) -> s3.Reply:
        """Answer one request; a mistake of the fake itself fails the test."""
        try:
            return self.handle(request, scope)
        except ConnectionError:  # the caller went away in the middle of a body
            return s3.Reply(500)
        except Exception:
            self.problems.append(f"the fake broke: {traceback.format_exc()}")
            return s3.Reply(500)

    def handle(self, request: s3.Request, scope: Scope) -> s3.Reply:
        """Answer one request."""
        service = scope.service
        if self.hurry:
            self._offset += 5
            self._run_ticks()
        if request.path.startswith("/endpoints/"):
            service = "runtime"
        place = (self.accounts.get(scope.key, self.account), scope.region)
        call = Call(service, self._operation(request, service), path=request.path, place=place)
        call.write = not READS.match(call.operation)
        self.calls.append(call)
        try:
            self._kill(call, after=False)
            self._refuse(call, request, after=False)
            reply = self._answer(call, request)
            self._kill(call, after=True)
            self._refuse(call, request, after=True)
        except ApiError as error:
            return _refusal(service, error)
        except s3.S3Error as error:
            return _s3_refusal(error)
        return reply

    def _operation(self, request: s3.Request, service: str) -> str:
        target = request.headers.get("X-Amz-Target", "")
        if service in JSON_SERVICES:
            return target.rpartition(".")[2]
        if service in MOTO:
            return ""  # known when the body is read
        if service == "runtime":
            return INVOKES.get(request.path.rpartition("/")[2], "Invoke")
        return _s3_operation(request)

    def _answer(self, call: Call, request: s3.Request) -> s3.Reply:
        if call.service == "runtime":
            call.body = {"EndpointName": request.path.split("/")[2]}
            self.permissions.check(call)
            return self.runtime.handle(request)
        if call.service in JSON_SERVICES:
            return self._json(call, request)
        if call.service in MOTO:
            return self._moto_call(call, request)
        if call.service == "ec2":
            return self._ec2(call, request)
        try:
            self.permissions.check(call)
        except ApiError as error:
            raise _error("s3", error.kind, error.message, 403) from error
        return self.s3.handle(request)

    def _json(self, call: Call, request: s3.Request) -> s3.Reply:
        call.body = json.loads(s3.body_of(request) or b"{}")
        name = JSON_SERVICES[call.service]
        found = shapes.check_request(name, call.operation, call.body)
        if found:
            self.problems.append("; ".join(found))
            raise ApiError("ValidationException", f"{len(found)} validation errors: {found}")
        self.permissions.check(call)
        if call.service == "sagemaker":
            answer = self.at(call.place).control.call(call.operation, call.body)
        else:
            answer = getattr(self.at(call.place).others, call.operation)(call.body) or {}
        wrong = shapes.check_answer(name, call.operation, answer)
        assert not wrong, wrong
        content = json.dumps(answer).encode()
        return s3.Reply(body=content, headers={"Content-Type": "application/x-amz-json-1.1"})

    def _moto_call(self, call: Call, request: s3.Request) -> s3.Reply:
        body = s3.body_of(request)
        named = re.search(rb"Action=(\w+)", body)
        target = request.headers.get("X-Amz-Target", "") or request.path
        call.operation = named[1].decode() if named else re.split(r"[./]", target)[-1]
        call.write = not READS.match(call.operation)
        call.body = form_of(body)
        if call.service == "monitoring":
            call.body = json.loads(body or b"{}")
        self._refuse(call, request, after=False)
        self.permissions.check(call)
        self._kill(call, after=False)
        if call.operation == "SimulatePrincipalPolicy":
            answer = self.permissions.simulate(call.body)
            return s3.Reply(body=answer.encode(), headers={"Content-Type": "text/xml"})
        if call.operation == "GetCallerIdentity" and call.place[0] != self.account:
            return s3.Reply(
                body=_identity(call.place[0]).encode(), headers={"Content-Type": "text/xml"}
            )
        headers = {k: v for k, v in request.headers.items() if k.lower() != "connection"}
        reply = self._forward(request.method, request.path or "/", headers, body)
        if call.service == "iam" and call.write and reply.status < 300:
            self.roles.changed(call.operation, body)
        return reply

    def _ec2(self, call: Call, request: s3.Request) -> s3.Reply:
        """Subnets and security groups, by their ids."""
        call.body = form_of(s3.body_of(request))
        call.operation, call.write = call.body["Action"], False
        self._refuse(call, request, after=False)
        self.permissions.check(call)
        noun, key, code = {
            "DescribeSubnets": ("subnet", "SubnetId", "InvalidSubnetID.NotFound"),
            "DescribeSecurityGroups": ("securityGroup", "GroupId", "InvalidGroup.NotFound"),
        }[call.operation]
        asked = [value for name, value in call.body.items() if name.startswith(f"{key}.")]
        items = ""
        for id_ in asked:
            if id_ not in self.networks:
                raise ApiError(code, f"The {noun} ID '{id_}' does not exist")
            member = key[0].lower() + key[1:]
            items += f"<item><{member}>{id_}</{member}><vpcId>{self.networks[id_]}</vpcId></item>"
        inner = f"<{noun}Set>{items}</{noun}Set>" if noun == "subnet" else ""
        inner = inner or f"<securityGroupInfo>{items}</securityGroupInfo>"
        answer = f"<{call.operation}Response>{inner}</{call.operation}Response>"
        return s3.Reply(body=answer.encode(), headers={"Content-Type": "text/xml"})

    def _forward(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> s3.Reply:
        answer = _moto().open(path, method=method, headers=dict(headers), data=body)
        kept = ("content-type", "x-amzn-requestid", "smithy-protocol", "x-amzn-errortype")
        shown = {k: v for k, v in answer.headers.items() if k.lower() in kept}
        return s3.Reply(answer.status_code, answer.get_data(), shown)

    # --- faults ---------------------------------------------------------------------------

    def _refuse(self, call: Call, request: s3.Request, *, after: bool) -> None:
        named = f"{call.service}:{call.operation}"
        if not after:
            self._check_time(call, request)
            if self.is_denied(named):
                raise self._denial(call)
        for fault in self.faults:
            due = fault.times and fault.after == after
            if due and fnmatch.fnmatchcase(named, fault.operation):
                fault.times -= 1
                raise _error(call.service, fault.kind, fault.message, fault.status)

    def is_denied(self, action: str) -> bool:
        """Whether the caller may not do ``service:Operation``."""
        return any(fnmatch.fnmatchcase(action, pattern) for pattern in self.denied)

    def _denial(self, call: Call) -> Exception:
        who = f"arn:aws:iam::{self.account}:user/you"
        service = "cloudwatch" if call.service == "monitoring" else call.service
        action = f"{service}:{call.operation}"
        refused = refusal("denied", who=who, action=action, resource="*")
        return _error(call.service, refused.kind, refused.message, 403)

    def _check_time(self, call: Call, request: s3.Request) -> None:
        stamp = request.headers.get("X-Amz-Date", "")
        if not stamp or not self.skew:
            return
        sent = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        here = datetime.now(UTC) + timedelta(seconds=self.skew)
        if abs((here - sent).total_seconds()) > 300:
            if call.service == "s3":
                raise s3.S3Error(403, "RequestTimeTooSkewed", "The difference is too large.")
            message = f"Signature expired: {stamp} is now earlier than {here:%Y%m%dT%H%M%SZ}"
            raise ApiError("InvalidSignatureException", message, 403)

    def _kill(self, call: Call, *, after: bool) -> None:
        """SIGKILL the client at its n-th write."""
        if self.kill_at is None or not call.write or not call.operation:
            return
        number, late = self.kill_at
        if len(self.writes()) >= number and late == after:
            self.kill_at = None
            os.kill(self.kill_pid, signal.SIGKILL)
            if not after:
                raise ApiError("Killed", "the caller is gone before this was done", 500)


def _error(service: str, kind: str, message: str, status: int) -> Exception:
    if service == "s3":
        code = {"ThrottlingException": "SlowDown", "AccessDeniedException": "AccessDenied"}
        return s3.S3Error(
            503 if kind == "ThrottlingException" else status, code.get(kind, kind), message
        )
    return ApiError(kind, message, status)


def _refusal(service: str, error: ApiError) -> s3.Reply:
    if service in MOTO and service != "monitoring":
        denied = error.kind == "AccessDeniedException"
        text = (
            "<ErrorResponse><Error><Type>Sender</Type>"
            f"<Code>{'AccessDenied' if denied else error.kind}</Code>"
            f"<Message>{error.message}</Message></Error></ErrorResponse>"
        )
        status = 403 if denied else error.status
        return s3.Reply(status, text.encode(), {"Content-Type": "text/xml"})
    if service == "runtime":
        headers = {"x-amzn-ErrorType": error.kind, "Content-Type": "application/json"}
        return s3.Reply(error.status, error.message.encode(), headers)
    if service == "ec2":
        text = (
            f"<Response><Errors><Error><Code>{error.kind}</Code><Message>{error.message}"
            "</Message></Error></Errors></Response>"
        )
        return s3.Reply(error.status, text.encode(), {"Content-Type": "text/xml"})
    content = json.dumps({"__type": error.kind, "message": error.message}).encode()
    return s3.Reply(error.status, content, {"Content-Type": "application/x-amz-json-1.1"})


def _identity(account: str) -> str:
    return (
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        f"<GetCallerIdentityResult><Arn>arn:aws:iam::{account}:user/other</Arn>"
        f"<UserId>U</UserId><Account>{account}</Account></GetCallerIdentityResult>"
        "</GetCallerIdentityResponse>"
    )


def _s3_refusal(error: s3.S3Error) -> s3.Reply:
    text = f"<Error><Code>{error.code}</Code><Message>{error.message}</Message></Error>"
    return s3.Reply(error.status, text.encode(), {"Content-Type": "application/xml"})


def _s3_operation(request: s3.Request) -> str:
    """A name of our own: method and what it is about."""
    known = {"PUT": "Put", "GET": "Get", "HEAD": "Head", "DELETE": "Delete", "POST": "Post"}
    about = next((key for key in ("uploads", "delete", *s3.SETTINGS) if key in request.query), "")
    if "uploadId" in request.query:
        about = "part" if "partNumber" in request.query else "upload"
    noun = about or ("object" if request.place[1] else "bucket")
    return known[request.method] + noun.capitalize()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is no news; the plane's own mistakes are kept elsewhere."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def plane(self) -> Plane:
        """Whose server this is."""
        assert isinstance(self.server, _Server)
        return self.server.plane

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _do(self) -> None:
        scope = _SCOPE.search(self.headers.get("Authorization", ""))
        request = s3.Request.of(self.command, self.path, self.headers, self.rfile)  # type: ignore[arg-type]
        if scope is None:
            reply = s3.Reply(403, b"<Error><Code>AccessDenied</Code></Error>")
            self.close_connection = True
        else:
            reply = self.plane.answer(request, Scope(*scope.groups()))
            has_body = "Content-Length" in self.headers or "Transfer-Encoding" in self.headers
            if reply.status >= 400 and has_body and not request.is_read:
                self.close_connection = True
        self._send(reply)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _do

    def _send(self, reply: s3.Reply) -> None:
        self.send_response(reply.status)
        headers = dict(reply.headers)
        size = reply.file.stat().st_size if reply.file else len(reply.body)
        headers.setdefault("Content-Length", str(size))
        headers["x-amzn-RequestId"] = "00000000-0000-0000-0000-000000000000"
        headers.setdefault(
            "Date", email.utils.formatdate(self.plane.now() + self.plane.skew, usegmt=True)
        )
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command != "HEAD" and not reply.file:  # one packet, not two
            self._headers_buffer += [b"\r\n", reply.body]
            self.flush_headers()
            return
        self.end_headers()
        if self.command == "HEAD":
            return
        if reply.file:
            with reply.file.open("rb") as file:
                self.connection.sendfile(file)

    def send_response(self, code: int, message: str | None = None) -> None:
        self.send_response_only(code, message)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def plane(root: Path, **settings: Any) -> Iterator[Plane]:
    """A fresh AWS."""
    with Plane(root, **settings) as running:
        yield running
