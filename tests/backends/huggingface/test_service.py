"""The service as it answers: what it leaves out, adds, resolves, counts and refuses."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.huggingface import machines, scopes
from llama_hub.backends.huggingface.backend import HuggingFaceBackend
from llama_hub.deploy import attest, gc, sizing
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.backend import Artifact, Deployed
from llama_hub.deploy.client import text_of
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.status import cost_so_far
from llama_hub.errors import (
    AccessError,
    NotFoundError,
    ProvisioningError,
    QuotaError,
    UnconfirmedError,
    UsageError,
)
from tests.backends.huggingface.conftest import TOKEN, USER, Loopback, spec
from tests.support.endpoints_plane import HARDWARE, INFER, MANAGE
from tests.support.endpoints_refusals import OURS, REFUSALS
from tests.support.vllm_stub import parse

OPTIONS = ApplyOptions(sleep=lambda seconds: None, timeout=60)
EVERYTHING = [MANAGE, INFER, "repo.write"]
NO_IMAGE: dict[str, Any] = {"image": None}


def apply(deployer: Deployer, **wanted: Any) -> Deployed:
    return deployer.apply(deployer.plan(spec(**wanted)), OPTIONS)


def endpoint(loopback: Loopback, name: str = "chat") -> Any:
    return loopback.plane.endpoints[(USER, name)]


def body_of(deployer: Deployer, **wanted: Any) -> Any:
    steps = deployer.plan(spec(**wanted)).steps
    return next(step for step in steps if step.kind == "endpoint")


def test_every_refusal_has_a_source() -> None:
    assert all(refusal.source for refusal in REFUSALS.values())
    assert any(refusal.source != OURS for refusal in REFUSALS.values())


def test_the_planes_shapes_are_those_of_the_librarys_own_tests(
    quick: Loopback, deployer: Deployer
) -> None:
    """The library reads what the plane shows; the plane shows no key that its mocks do not."""
    from huggingface_hub import InferenceEndpoint

    apply(deployer)
    raw = quick.backend().inventory.client.endpoint(USER, "chat")
    found = InferenceEndpoint.from_raw(raw, namespace=USER)
    assert (found.name, found.status, len(found.revision or "")) == ("chat", "running", 40)
    assert not {"secrets", "args"} & set(raw["model"])
    assert "scaleToZeroTimeout" not in raw["compute"]["scaling"]
    assert {"createdBy", "updatedBy", "readyReplica", "targetReplica"} <= set(raw["status"])


# --- comparing, pinning ---------------------------------------------------------------------


@pytest.mark.parametrize("run", ["container", "handler", "vllm"])
def test_a_second_run_writes_nothing_whatever_the_service_adds(
    quick: Loopback, deployer: Deployer, run: str
) -> None:
    wanted = {"options": {"run": run, "image": "x/y:1" if run == "container" else None}}
    apply(deployer, **wanted)
    endpoint(quick)["tags"].append("added by somebody in the browser")
    writes = len(quick.plane.writes)
    apply(deployer, **wanted)
    assert len(quick.plane.writes) == writes


def test_weights_are_served_at_the_commit_that_was_compared(
    quick: Loopback, deployer: Deployer, demo: Artifact
) -> None:
    apply(deployer)
    model = endpoint(quick)["model"]
    (_, _, sent) = quick.plane.writes[0]
    assert sent["model"]["revision"] == model["revision"] != "main"
    repository = model["repository"]
    for path in list(quick.hub.repositories[repository]):
        if path.endswith(".safetensors"):
            quick.hub.repositories[repository][path] = b"other bytes, pushed to main later" * 200
    files = quick.hub.files_at(repository, model["revision"])
    assert files is not None
    for entry in demo.manifest.files:
        assert files[entry.path] == (demo.folder / entry.path).read_bytes()
    stored = quick.backend().prove("chat", demo.manifest)[-1]
    assert stored.ok, "what is compared is not what is served"
    assert model["revision"] in stored.evidence


def test_a_new_repository_that_no_list_shows_yet_is_found(
    quick: Loopback, deployer: Deployer
) -> None:
    apply(deployer)
    quick.hub.unlisted |= set(quick.hub.repositories)
    assert not deployer.plan(spec()).changes
    assert gc.find(quick.backend()) == []


def test_a_new_endpoint_that_no_list_shows_yet_keeps_its_weights(
    quick: Loopback, deployer: Deployer
) -> None:
    quick.plane.faults.unlisted = 5
    apply(deployer)
    assert list(quick.backend().list()) == []
    assert gc.find(quick.backend()) == []


def test_weights_below_a_live_endpoint_that_nothing_uses_are_found(
    quick: Loopback, deployer: Deployer, demo: Artifact
) -> None:
    apply(deployer)
    (used,) = quick.hub.repositories
    unused = f"{USER}/llama-hub-chat-{'0' * 10}"
    quick.hub.repositories[unused] = dict(quick.hub.repositories[used])
    (left,) = gc.find(quick.backend())
    assert (left.reason, left.resources[0].name) == ("orphan", unused)
    gc.remove(deployer, left, OPTIONS)
    assert set(quick.hub.repositories) == {used}


# --- tokens ---------------------------------------------------------------------------------


def fine_grained(loopback: Loopback, *scopes: str, namespace: str = USER) -> None:
    loopback.hub.scopes[TOKEN] = {namespace: list(scopes)}
    loopback.plane.scopes[TOKEN] = set(scopes)


@pytest.mark.parametrize("lacking", EVERYTHING)
def test_a_token_without_a_scope_is_refused_by_the_plan(
    quick: Loopback, deployer: Deployer, lacking: str
) -> None:
    fine_grained(quick, *(one for one in EVERYTHING if one != lacking))
    with pytest.raises(AccessError) as raised:
        deployer.plan(spec())
    if lacking != MANAGE:  # without that one nothing can be read at all
        assert lacking in raised.value.message
    assert "settings/tokens" in raised.value.hint
    assert (quick.hub.writes, quick.plane.writes) == (0, [])


def test_a_healthy_endpoint_that_refuses_the_token_is_kept_and_the_scope_named(
    quick: Loopback, deployer: Deployer
) -> None:
    quick.plane.scopes[TOKEN] = {MANAGE}  # the Hub does not know: an organisation's rule
    with pytest.raises(UnconfirmedError) as raised:
        apply(deployer)
    assert INFER in raised.value.hint
    assert "still there: endpoint/chat" in raised.value.hint
    assert endpoint(quick)["status"]["state"] == "running"
    asked = [path for _, path, _ in quick.plane.asked]
    assert asked == ["/health"], "it was asked again and again"
    quick.plane.scopes.clear()
    assert apply(deployer).status == "ready"
    assert [method for method, _, _ in quick.plane.writes] == ["POST"]


def test_a_namespace_that_is_not_the_tokens_is_refused_by_the_plan(
    quick: Loopback, demo: Artifact, tmp_path: Path
) -> None:
    quick.hub.organisations[USER] = ["Labs"]

    def deployer(namespace: str) -> Deployer:
        backend = HuggingFaceBackend(namespace, token=TOKEN, plane=quick.plane.url)
        return Deployer(backend, artifacts=lambda _: demo, root=tmp_path)

    with pytest.raises(UsageError, match="'others' is none of this token's: acme, Labs"):
        deployer("others").plan(spec())
    assert (quick.hub.writes, quick.plane.requests) == (0, [])
    assert deployer("labs").backend.place() == {"namespace": "Labs"}  # type: ignore[attr-defined]


READS = [("GET", "/provider/"), ("GET", "/endpoint/acme$"), ("GET", "/endpoint/acme/chat$")]


@pytest.mark.parametrize("read", READS)
def test_each_read_denied_is_an_error_with_a_way_out(
    quick: Loopback, deployer: Deployer, read: tuple[str, str]
) -> None:
    apply(deployer)
    quick.plane.faults.denied = [read]
    ask = quick.backend().list if read[1].endswith("acme$") else lambda: deployer.plan(spec()).steps
    with pytest.raises(AccessError) as raised:
        list(ask())
    assert "settings/tokens" in raised.value.hint


@pytest.mark.parametrize("place", ["/api/repos/create", "POST /endpoint/acme$"])
def test_a_first_write_denied_leaves_nothing_that_bills_and_an_ended_journal(
    quick: Loopback, deployer: Deployer, place: str
) -> None:
    method, _, path = place.rpartition(" ")
    if method:
        quick.plane.faults.denied = [(method, path)]
    else:
        quick.hub.denied = [path]
    with pytest.raises(AccessError) as raised:
        apply(deployer)
    assert "settings/tokens" in raised.value.hint
    assert "removed again" in raised.value.hint
    assert ("except repository/acme/llama-hub-chat-" in raised.value.hint) is bool(method)
    assert quick.plane.endpoints == {}
    assert not deployer.journal("chat").history().exists
    quick.plane.faults.denied, quick.hub.denied = [], []
    assert apply(deployer).status == "ready"


def test_a_change_and_a_removal_denied_leave_what_runs(quick: Loopback, deployer: Deployer) -> None:
    before = apply(deployer).generation
    quick.plane.faults.denied = [("PUT", "/chat$"), ("DELETE", "/chat$")]
    with pytest.raises(AccessError) as raised:
        apply(deployer, environment={"A": "1"})
    assert "what was there before is back" in raised.value.hint
    assert quick.backend().status("chat").generation == before
    with pytest.raises(AccessError) as raised:
        deployer.apply(deployer.plan_delete("chat"), OPTIONS)
    assert "the same command again" in raised.value.hint
    assert endpoint(quick)["status"]["state"] == "running"
    quick.plane.faults.denied = []
    deployer.apply(deployer.plan_delete("chat"), OPTIONS)
    assert quick.plane.endpoints == {}
    assert not deployer.journal("chat").history().exists


@pytest.mark.parametrize("denied", [("GET", "/provider/"), ("GET", "/endpoint/acme$")])
def test_delete_needs_neither_prices_nor_lists(
    quick: Loopback, deployer: Deployer, denied: tuple[str, str]
) -> None:
    apply(deployer)
    quick.plane.faults.denied = [denied]
    deployer.apply(deployer.plan_delete("chat"), OPTIONS)
    assert quick.plane.endpoints == {}


def test_an_endpoint_is_shown_without_its_price_where_that_cannot_be_read(
    quick: Loopback, deployer: Deployer
) -> None:
    apply(deployer)
    quick.plane.faults.denied = [("GET", "/provider/")]
    found = quick.backend().status("chat")
    assert (found.status, found.cost_per_hour) == ("ready", None)


# --- states ---------------------------------------------------------------------------------


def test_a_paused_endpoint_says_so_instead_of_failing_in_the_network(
    quick: Loopback, deployer: Deployer
) -> None:
    apply(deployer)
    backend = quick.backend()
    backend.pause("chat")
    with pytest.raises(ProvisioningError, match="chat is paused") as raised:
        backend.endpoint("chat")
    assert "deploy it again" in raised.value.hint
    assert backend.status("chat").cost_per_hour == 0
    assert apply(deployer).status == "ready"


@pytest.mark.parametrize(
    ("state", "status", "part"),
    [
        ("failed", "failed", "no address"),
        ("initializing", "pending", "no address"),
        ("pending", "pending", "wait until it runs"),
    ],
)
def test_an_endpoint_without_an_address_is_explained(
    quick: Loopback, deployer: Deployer, state: str, status: str, part: str
) -> None:
    apply(deployer)
    quick.plane.faults.never_ready = True
    there = endpoint(quick)["status"]
    there["state"] = state
    there.pop("url")
    with pytest.raises(ProvisioningError) as raised:
        quick.backend().endpoint("chat")
    assert part in f"{raised.value.message} {raised.value.hint}"
    assert quick.backend().status("chat").status == status


def test_a_failed_endpoint_is_made_anew(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer)
    endpoint(quick)["status"]["state"] = "failed"
    (step,) = deployer.plan(spec()).changes
    assert (step.action, "made again" in step.why) == ("replace", True)
    assert apply(deployer).status == "ready"


def test_a_request_wakes_a_sleeping_endpoint(
    loopback: Loopback, deployer: Deployer, stub_chat: str
) -> None:
    loopback.launcher.stub = stub_chat
    apply(deployer, scale_to_zero=True)
    endpoint(loopback)["status"]["state"] = "scaledToZero"
    answer = b"".join(loopback.backend().invoke("chat", {"messages": []}, stream=False))
    assert text_of(answer) == "awake"
    assert endpoint(loopback)["status"]["state"] == "running"


@pytest.fixture
def stub_chat() -> Any:
    from tests.support.hub_writes import Origin, send

    choice = {"index": 0, "message": {"role": "assistant", "content": "awake"}}
    origin = Origin(lambda origin, handler, body: send(handler, 200, {"choices": [choice]}))
    origin.start()
    yield origin.url
    origin.stop()


@pytest.mark.parametrize("state", ["scaledToZero", "paused"])
def test_attest_leaves_a_silent_endpoint_asleep_and_keeps_the_hubs_proof(
    quick: Loopback, deployer: Deployer, demo: Artifact, state: str
) -> None:
    apply(deployer)
    endpoint(quick)["status"]["state"] = state
    quick.plane.asked.clear()
    found = attest.attest(deployer, "chat", lambda _: demo)
    lines = {one.what: one for one in found.checks}
    assert lines["served"].ok
    assert lines["the Hub's digests of every file equal the manifest's"].ok
    assert quick.plane.asked == []
    repository = endpoint(quick)["model"]["repository"]
    quick.hub._history[(repository, endpoint(quick)["model"]["revision"])] = {"a": b"b"}
    changed = attest.attest(deployer, "chat", lambda _: demo)
    assert not {one.what: one for one in changed.checks}["served"].ok


def test_attest_of_vllm_is_proved_by_digests_and_says_what_it_cannot_state(
    quick: Loopback, deployer: Deployer, demo: Artifact
) -> None:
    apply(deployer, options=NO_IMAGE)
    served, stored = quick.backend().prove("chat", demo.manifest)
    assert (served.ok, stored.ok) == (True, True)
    assert "vLLM states no manifest" in served.evidence


# --- machines and ways to run ----------------------------------------------------------------


def test_without_an_image_a_gpu_runs_vllm_and_a_cpu_our_core(
    quick: Loopback, deployer: Deployer
) -> None:
    on_gpu = body_of(deployer, options=NO_IMAGE)
    assert (on_gpu.body["compute"]["accelerator"], "vLLM" in on_gpu.body["model"]["image"]) == (
        "gpu",
        True,
    )
    assert "no image is given, on a GPU" in on_gpu.note
    assert "vLLM states no manifest" in on_gpu.note
    on_cpu = body_of(deployer, options=NO_IMAGE, instance="intel-spr-x16")
    assert on_cpu.body["model"]["image"] == {"huggingface": {}}
    assert "no image is given, on a CPU" in on_cpu.note
    given = body_of(deployer)
    assert "custom" in given.body["model"]["image"]


def test_no_image_for_gpus_is_put_on_a_cpu_machine(quick: Loopback, deployer: Deployer) -> None:
    wanted = {"run": "vllm", "image": None}
    assert body_of(deployer, options=wanted).body["compute"]["accelerator"] == "gpu"
    from llama_hub.errors import NotEnoughError

    with pytest.raises(NotEnoughError, match="intel-spr-x16"):
        deployer.plan(spec(options=wanted, instance="intel-spr-x16"))


def test_where_no_gpu_can_be_had_our_core_runs_on_a_cpu(
    quick: Loopback, deployer: Deployer
) -> None:
    for machine in quick.plane.hardware["vendors"][0]["regions"][0]["computes"]:
        if machine["accelerator"] == "gpu":
            machine["quota"]["maxAccelerators"] = 0
    planned = body_of(deployer, options=NO_IMAGE)
    assert planned.body["model"]["image"] == {"huggingface": {}}


def test_vllm_is_told_in_its_own_words(quick: Loopback, deployer: Deployer, demo: Artifact) -> None:
    wanted = {"options": NO_IMAGE, "context": 128, "concurrency": 3}
    planned = body_of(deployer, instance="nvidia-t4-x4", **wanted).body["model"]
    words = planned["args"]
    told = dict(zip(words[::2], words[1::2], strict=True))
    assert told["--max-model-len"] == "128"
    assert told["--max-num-seqs"] == "3"
    assert told["--gpu-memory-utilization"] == f"{sizing.USABLE:g}"
    assert "served-model-name" in " ".join(words)
    assert planned["image"]["vLLM"]["tensorParallelSize"] == 4
    assert parse(["serve", str(demo.folder), *words]).max_num_seqs == 3
    if importlib.util.find_spec("vllm") is None:
        return
    from vllm.engine.arg_utils import AsyncEngineArgs  # the judge, where it is installed

    known = {one.name.replace("_", "-") for one in dataclasses.fields(AsyncEngineArgs)}
    assert {key.removeprefix("--") for key in told} <= known


def test_memory_is_in_the_platforms_unit() -> None:
    listed = {one.instance: one for one in machines.offers(HARDWARE, "aws", "us-east-1")}
    assert listed["nvidia-l4-x1"].memory_bytes == 24 << 30
    assert (listed["nvidia-l4-x4"].accelerators, listed["nvidia-l4-x4"].memory_bytes) == (
        4,
        24 << 30,
    )
    assert listed["intel-spr-x16"].memory_bytes == 32 << 30
    assert "nvidia-h100-x1" not in listed


def test_one_odd_price_drops_no_other(quick: Loopback, deployer: Deployer) -> None:
    assert apply(deployer).cost_per_hour == 0.033
    computes = quick.plane.hardware["vendors"][0]["regions"][0]["computes"]
    computes.insert(0, {**copy.deepcopy(computes[0]), "instanceType": "odd", "pricePerHour": None})
    computes[1]["status"] = "deprecated"  # what runs on it is paid for all the same
    assert quick.backend().status("chat").cost_per_hour == 0.033


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ({"options": {"vendor": "asw"}}, "options.vendor 'asw' is none of aws"),
        ({"region": "mars-1"}, "region 'mars-1' is none of aws's: us-east-1"),
        ({"options": {"secrets": ("NOT_SET",)}}, "NOT_SET"),
        ({"options": {"registry_username": "me"}}, "LLAMA_HUB_REGISTRY_PASSWORD"),
    ],
)
def test_bad_input_is_refused_by_the_plan(
    quick: Loopback, deployer: Deployer, wanted: dict[str, Any], part: str
) -> None:
    with pytest.raises(UsageError) as raised:
        deployer.plan(spec(**wanted))
    assert part in raised.value.message
    assert (quick.hub.writes, quick.plane.writes) == (0, [])


def test_accelerators_that_sleep_count_against_the_quota(
    quick: Loopback, deployer: Deployer
) -> None:
    t4 = {"instance": "nvidia-t4-x4", "options": NO_IMAGE}
    apply(deployer, **t4)
    endpoint(quick)["status"]["state"] = "scaledToZero"
    assert deployer.plan(spec(name="two", **t4)).offer is not None
    with pytest.raises(QuotaError, match="leaves 1"):
        deployer.plan(spec(name="two", replicas_max=2, **t4))


# --- secrets --------------------------------------------------------------------------------


def test_a_secret_rotates(
    quick: Loopback, deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"options": {"secrets": ("MY_SECRET",)}}
    monkeypatch.setenv("MY_SECRET", "first")
    apply(deployer, **wanted)
    assert not deployer.plan(spec(**wanted)).changes
    monkeypatch.setenv("MY_SECRET", "second")
    (step,) = deployer.plan(spec(**wanted)).changes
    assert step.why == "tags differ"
    apply(deployer, **wanted)
    assert endpoint(quick)["model"]["secrets"] == {"MY_SECRET": "second"}
    assert "second" not in deployer.journal("chat").path.read_text()
    monkeypatch.delenv("MY_SECRET")
    assert list(deployer.drift("chat")) == [], "another machine does not know it, and need not"


# --- a busy service ---------------------------------------------------------------------------


def test_a_rate_limit_is_waited_out_until_the_next_window(
    quick: Loopback, demo: Artifact, tmp_path: Path
) -> None:
    pauses: list[float] = []
    backend = HuggingFaceBackend(token=TOKEN, plane=quick.plane.url, sleep=pauses.append)
    deployer = Deployer(backend, artifacts=lambda _: demo, root=tmp_path)
    quick.plane.faults.limited = [("GET", "/provider/")]
    quick.hub.limited = 2
    deployer.apply(deployer.plan(spec()), OPTIONS)
    assert len([pause for pause in pauses if pause >= 240]) == 3


def test_a_marker_that_meets_a_busy_hub_is_read_again(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer)
    quick.hub.fail = [("GET", "llama-hub-deployment.json", 503)]
    assert not deployer.plan(spec()).changes


def test_what_is_gone_meanwhile_is_not_found(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer)
    quick.plane.endpoints.clear()
    quick.hub.repositories.clear()
    with pytest.raises(NotFoundError):
        quick.backend().status("chat")


# --- plans before there is a model, looks before there is a deployment --------------------------


@pytest.mark.parametrize("options", [{}, NO_IMAGE])
def test_a_plan_needs_the_catalogue_and_the_clouds_list_only(
    quick: Loopback, tmp_path: Path, home: Path, options: dict[str, Any]
) -> None:
    deployer = Deployer(quick.backend(), root=tmp_path)
    wanted = spec(model="llama-2-7b", quantization="int4", context=1024, options=options)
    plan = deployer.preview(wanted)
    assert [step.kind for step in plan.changes] == [
        "download", "conversion", "repository", "endpoint",
    ]  # fmt: skip
    assert plan.cost_per_hour == (0.5, 0.5)
    assert (plan.manifest, quick.hub.writes, quick.plane.writes) == (None, 0, [])
    with pytest.raises(NotFoundError):
        deployer.plan(wanted)


def test_doctor_looks_at_what_a_deployment_asks_for(
    quick: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "x")
    given = {"secrets": ("MY_SECRET",), "gated_repository": "acme/gated", "image": None}
    lines = {one.name: one for one in quick.backend().check_for(spec(options=given))}
    assert [name for name, one in lines.items() if not one.ok] == ["gated repository"]
    assert "huggingface.co/acme/gated" in lines["gated repository"].hint
    asked = spec(region="mars-1", options={"secrets": ("NOT_SET",)})
    wrong = [one for one in quick.backend().check_for(asked) if not one.ok]
    assert [one.name for one in wrong] == ["place", "secrets"]


@pytest.mark.parametrize(
    ("state", "replicas", "cost"),
    [
        ("initializing", {"readyReplica": 0, "targetReplica": 2}, 0.066),
        ("updating", {"readyReplica": 1, "targetReplica": 1}, 0.033),
        ("scaledToZero", {"readyReplica": 0, "targetReplica": 0}, 0.0),
        ("paused", {"readyReplica": 0, "targetReplica": 0}, 0.0),
        ("failed", {"readyReplica": 0, "targetReplica": 1}, 0.0),
    ],
)
def test_every_state_that_bills_has_its_cost(
    quick: Loopback, deployer: Deployer, state: str, replicas: dict[str, int], cost: float
) -> None:
    apply(deployer)
    quick.plane.faults.never_ready = True
    endpoint(quick)["status"] |= {"state": state, **replicas}
    found = quick.backend().status("chat")
    assert found.cost_per_hour == pytest.approx(cost)
    assert (cost_so_far(found) or 0) > 0 if cost else cost_so_far(found) is None


def test_delete_stops_the_billing_although_no_repository_may_be_read(
    quick: Loopback, deployer: Deployer
) -> None:
    apply(deployer)
    quick.hub.denied = ["/api/models"]
    plan = deployer.plan_delete("chat")
    assert "its repository stays" in plan.steps[0].note
    deployer.apply(plan, OPTIONS)
    assert quick.plane.endpoints == {}
    with pytest.raises(AccessError):
        deployer.plan(spec())
    quick.hub.denied = []
    assert [left.reason for left in gc.find(quick.backend())] == ["orphan"]


# --- permissions as a document -----------------------------------------------------------------


def test_the_document_of_scopes_covers_every_call_and_no_more(
    quick: Loopback, demo: Artifact, tmp_path: Path
) -> None:
    """A whole life of a deployment: each recorded call needs a scope that the document lists."""
    deployer = Deployer(quick.backend(), artifacts=lambda _: demo, root=tmp_path)
    apply(deployer)
    apply(deployer, environment={"A": "1"})
    backend = quick.backend()
    list(backend.list())
    list(backend.logs("chat"))
    list(backend.check())
    backend.pause("chat")
    backend.resume("chat")
    backend.status("chat")
    backend.status("chat")
    attest.attest(deployer, "chat", lambda _: demo)
    list(backend.invoke("chat", {"messages": []}, stream=False))
    deployer.apply(deployer.plan_delete("chat"), OPTIONS)
    for left in gc.find(backend, root=tmp_path):
        gc.remove(deployer, left, OPTIONS)
    calls = [("hub", method, path) for method, path in quick.hub.requests]
    calls += [("control plane", method, path) for method, path, _ in quick.plane.requests]
    calls += [("endpoint", method, path) for method, path in quick.plane.called]
    needed = {call: scopes.scope_of(*call) for call in calls}  # type: ignore[arg-type]
    assert [call for call, scope in needed.items() if scope is None] == []
    required = {one.name for one in scopes.NEEDED if not one.optional}
    assert required == {scope for scope in needed.values() if scope}


def test_the_page_of_scopes_is_the_document() -> None:
    page = (Path(__file__).parents[3] / "docs/huggingface.md").read_text()
    for scope in scopes.NEEDED:
        mark = f"`{scope.name}`" + (" (optional)" if scope.optional else "")
        assert f"| {mark} | {scope.title} | {scope.needed}" in page
