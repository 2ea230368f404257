"""What the platform refuses, and what happens to a deployment that does not come up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from llama_hub.backends.huggingface import scopes
from llama_hub.backends.huggingface.backend import HuggingFaceBackend
from llama_hub.backends.huggingface.errors import explain
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.cloud_error import ErrorResponse
from llama_hub.deploy.deployer import Deployer
from llama_hub.errors import (
    AccessError,
    NotFoundError,
    NotOursError,
    ProvisioningError,
    QuotaError,
    TransientError,
)
from tests.backends.huggingface.conftest import TOKEN, USER, Loopback, spec

OPTIONS = ApplyOptions(sleep=lambda seconds: None, timeout=60)


def apply(deployer: Deployer, **wanted: object) -> None:
    deployer.apply(deployer.plan(spec(**wanted)), OPTIONS)


def test_a_start_that_fails_is_explained_and_removed(quick: Loopback, deployer: Deployer) -> None:
    quick.plane.faults.fail_start = "Out of memory while loading"
    with pytest.raises(ProvisioningError, match="Out of memory while loading"):
        apply(deployer)
    assert quick.plane.endpoints == {}


def test_initialising_for_ever_ends(quick: Loopback, deployer: Deployer) -> None:
    quick.plane.faults.never_ready = True
    with pytest.raises(ProvisioningError, match="initializing"):
        apply(deployer)
    assert quick.plane.endpoints == {}


def test_an_update_that_fails_leaves_the_old_revision(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer)
    before = quick.backend().status("chat").generation
    quick.plane.faults.fail_start = "the new image is broken"
    with pytest.raises(ProvisioningError, match="the new image is broken"):
        apply(deployer, environment={"A": "1"})
    after = quick.backend().status("chat")
    assert (after.status, after.generation) == ("ready", before)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_platform_is_asked_again(quick: Loopback, deployer: Deployer, status: int) -> None:
    quick.plane.faults.answers = [("POST", "/endpoint/", status)] * 2
    apply(deployer)
    assert quick.backend().status("chat").status == "ready"


def test_a_read_that_meets_a_busy_platform_is_asked_again(
    quick: Loopback, deployer: Deployer
) -> None:
    apply(deployer)
    pauses: list[float] = []
    backend = HuggingFaceBackend(token=TOKEN, plane=quick.plane.url, sleep=pauses.append)
    quick.plane.faults.answers = [("GET", "/endpoint/", 503)] * 2
    assert backend.status("chat").status == "ready"
    assert len(pauses) == 2


def test_quota_is_its_own_error(quick: Loopback, deployer: Deployer) -> None:
    quick.plane.faults.quota_full = True
    with pytest.raises(QuotaError):
        apply(deployer)


def test_a_name_that_somebody_else_has(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer)
    quick.plane.endpoints[(USER, "chat")]["tags"] = []
    writes = quick.hub.writes
    with pytest.raises(NotOursError, match="endpoint/chat exists in huggingface") as raised:
        deployer.plan(spec())
    assert quick.hub.writes == writes, "weights were sent before the refusal"
    assert "--name" in raised.value.hint
    assert (USER, "chat") in quick.plane.endpoints


def test_a_revoked_token(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer)
    quick.plane.faults.revoked = True
    with pytest.raises(AccessError, match="not valid") as raised:
        quick.backend().status("chat")
    assert "hf auth login" in raised.value.hint
    assert TOKEN not in str(raised.value)


def test_doctor_has_a_mend_for_each_failed_line(
    quick: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(line.ok for line in quick.backend().check())
    quick.hub.granted.clear()
    failed = [line for line in quick.backend().check() if not line.ok]
    assert [line.name for line in failed] == ["gate of Llama 2"]
    assert "huggingface.co/meta-llama" in failed[0].hint
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (line,) = HuggingFaceBackend(plane=quick.plane.url).check()
    assert not line.ok
    assert "hf auth login" in line.hint


def test_doctor_lists_each_scope_of_a_fine_grained_token(quick: Loopback) -> None:
    quick.hub.scopes[TOKEN] = {USER: [scopes.MANAGE, scopes.WRITE_REPOSITORIES]}
    lines = {line.name: line for line in quick.backend().check()}
    failed = [name for name, line in lines.items() if not line.ok]
    assert failed == [f"scope {scopes.INFER}"]
    assert "Make calls to your Inference Endpoints" in lines[failed[0]].detail
    assert scopes.TOKENS in lines[failed[0]].hint
    assert lines[f"scope {scopes.READ_REPOSITORIES}"].ok, "who may write may read"
    assert lines["billing"].ok


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (401, "Invalid credentials", AccessError),
        (403, "not allowed", AccessError),
        (403, "You have reached your quota", QuotaError),
        (404, "no such endpoint", NotFoundError),
        (409, "already taken", ProvisioningError),
        (429, "slow down", TransientError),
        (503, "", TransientError),
        (418, "teapot", ProvisioningError),
    ],
)
def test_answers_have_their_error(status: int, text: str, kind: type[Exception]) -> None:
    found = explain(ErrorResponse(status, "", text, {"Retry-After": "7"}), "GET /x")
    assert type(found) is kind
    if isinstance(found, TransientError):
        assert found.retry_after == 7.0


KILLED = """
    import json, os, sys
    from pathlib import Path
    from llama_hub.backends.huggingface.client import Client
    from llama_hub.backends.huggingface.storage import Upload
    from llama_hub.deploy.backend import Artifact
    from llama_hub.hub.manifest import read
    from llama_hub.progress import NO_PROGRESS

    folder = Path(sys.argv[1])
    artifact = Artifact(folder, read(folder), "r-0")
    Upload(Client(sys.argv[2]), "acme/llama-hub-chat-0", artifact, NO_PROGRESS).run(
        {"state": "ready"}, {}
    )
"""


@pytest.mark.parametrize("commits", [1, 2, 4])
def test_a_killed_upload_goes_on_where_it_was(
    loopback: Loopback, demo: Artifact, commits: int
) -> None:
    hub = loopback.hub

    def upload() -> subprocess.Popen[bytes]:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
        script = textwrap.dedent(KILLED)
        command = [sys.executable, "-c", script, str(demo.folder), TOKEN]
        return subprocess.Popen(command, env=environment)

    children: list[subprocess.Popen[bytes]] = []

    def kill(count: int) -> None:
        if count == commits:
            os.kill(children[0].pid, signal.SIGKILL)

    hub.on_commit = kill
    children.append(upload())
    assert children[0].wait() == -signal.SIGKILL
    hub.on_commit = lambda count: None
    assert upload().wait() == 0
    files = hub.repositories["acme/llama-hub-chat-0"]
    for entry in demo.manifest.files:
        assert files[entry.path] == (demo.folder / entry.path).read_bytes()
    sent = [path for _, paths in hub.commits for path in paths]
    weights = [path for path in sent if path.endswith(".safetensors")]
    assert len(weights) == len(set(weights)), "weights that were there were sent again"
