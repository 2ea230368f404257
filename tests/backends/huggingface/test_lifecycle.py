"""Creating, changing and removing on loopback Hugging Face, and what is sent for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llama_hub.backends.huggingface.backend import HuggingFaceBackend
from llama_hub.backends.huggingface.bodies import MARKER
from llama_hub.deploy import gc
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.backend import Artifact, Deployed
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import AccessError, IntegrityError, NotFoundError, UsageError
from tests.backends.huggingface.conftest import TOKEN, USER, Loopback, spec
from tests.support.endpoints_plane import INFER, MANAGE

OPTIONS = ApplyOptions(sleep=lambda seconds: None)


def apply(deployer: Deployer, wanted: DeploymentSpec) -> Deployed:
    return deployer.apply(deployer.plan(wanted), OPTIONS)


def created(loopback: Loopback) -> Any:
    return next(body for method, path, body in loopback.plane.writes if method == "POST")


def test_the_endpoint_is_private_and_says_what_it_serves(
    quick: Loopback, deployer: Deployer, demo: Artifact
) -> None:
    deployed = apply(deployer, spec())
    assert deployed.status == "ready"
    body = created(quick)
    assert body["type"] == "private"
    assert body["model"]["image"]["custom"] == {
        "url": "ghcr.io/acme/llama-hub:1",
        "port": 8080,
        "healthRoute": "/health",
    }
    assert f"llama-hub:manifest={demo.manifest.digest}" in body["tags"]
    repository = body["model"]["repository"]
    assert repository.startswith(f"{USER}/llama-hub-chat-")
    assert repository not in quick.hub.public


def test_the_repository_holds_the_folder_its_licence_and_its_manifest(
    quick: Loopback, deployer: Deployer, demo: Artifact
) -> None:
    apply(deployer, spec())
    files = next(iter(quick.hub.repositories.values()))
    for entry in demo.manifest.files:
        assert files[entry.path] == (demo.folder / entry.path).read_bytes()
    assert {"LICENSE", "NOTICE", "llama-hub.json", MARKER} <= set(files)
    assert json.loads(files[MARKER])["state"] == "ready"


def test_a_second_run_writes_nothing(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer, spec())
    before = (quick.hub.writes, len(quick.plane.writes))
    apply(deployer, spec())
    assert (quick.hub.writes, len(quick.plane.writes)) == before


def test_planning_writes_nothing_and_names_price_and_bytes(
    quick: Loopback, deployer: Deployer, demo: Artifact
) -> None:
    plan = deployer.plan(spec())
    assert (quick.hub.writes, quick.plane.writes) == (0, [])
    assert [step.kind for step in plan.changes] == ["repository", "endpoint"]
    assert str(demo.manifest.bytes) in plan.steps[0].note
    assert plan.offer is not None
    assert plan.offer.price_per_hour == 0.033
    assert "live list" in plan.offer.price_source


@pytest.mark.parametrize("access", ["authenticated", "public"])
def test_wider_access_is_said_with_the_licence(
    quick: Loopback, deployer: Deployer, access: Any
) -> None:
    plan = deployer.plan(spec(access=access))
    endpoint = next(step for step in plan.steps if step.kind == "endpoint")
    assert endpoint.body["type"] == access
    assert "licence llama-hub-demo" in endpoint.note


def test_an_update_changes_the_endpoint_in_place(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer, spec())
    apply(deployer, spec(environment={"A": "1"}))
    methods = [method for method, _, _ in quick.plane.writes]
    assert methods == ["POST", "PUT"]
    assert quick.plane.endpoints[(USER, "chat")]["model"]["env"]["A"] == "1"


def test_another_cloud_replaces_it_and_says_so_before(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer, spec())
    quick.plane.hardware["vendors"].append({**quick.plane.hardware["vendors"][0], "name": "gcp"})
    plan = deployer.plan(spec(options={"vendor": "gcp"}))
    step = next(step for step in plan.changes if step.kind == "endpoint")
    assert step.action == "replace"
    assert "requests fail" in step.note


def test_scale_to_zero_and_replicas(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer, spec(scale_to_zero=True, scale_to_zero_minutes=30, replicas_max=3))
    assert created(quick)["compute"]["scaling"] == {
        "minReplica": 0,
        "maxReplica": 3,
        "scaleToZeroTimeout": 30,
    }


def test_secrets_are_sent_and_stand_nowhere_else(
    quick: Loopback, deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "s3cret-value")
    wanted = spec(options={"secrets": ("MY_SECRET",)})
    plan = deployer.plan(wanted)
    assert "s3cret-value" not in json.dumps(plan.to_json(), default=str)
    deployed = deployer.apply(plan, OPTIONS)
    assert created(quick)["model"]["secrets"] == {"MY_SECRET": "s3cret-value"}
    assert "s3cret-value" not in str(deployed)
    journal = deployer.journal("chat").path.read_text()
    assert "s3cret-value" not in journal
    assert not deployer.plan(wanted).changes


def test_a_secret_that_is_not_set_is_named(quick: Loopback, deployer: Deployer) -> None:
    with pytest.raises(UsageError, match="NOT_THERE"):
        apply(deployer, spec(options={"secrets": ("NOT_THERE",)}))


def test_delete_keeps_the_repository_unless_told_otherwise(
    quick: Loopback, deployer: Deployer
) -> None:
    apply(deployer, spec())
    deployer.apply(deployer.plan_delete("chat"), OPTIONS)
    assert quick.plane.endpoints == {}
    (kept,) = quick.hub.repositories.values()
    assert json.loads(kept[MARKER])["state"] == "kept"
    with pytest.raises(NotFoundError):
        quick.backend().status("chat")
    (left,) = gc.find(quick.backend())
    assert (left.reason, left.resources[0].name) == ("kept", next(iter(quick.hub.repositories)))
    gc.remove(deployer, left, OPTIONS)
    assert quick.hub.repositories == {}
    apply(deployer, spec(options={"keep_repository": False}))
    deployer.apply(deployer.plan_delete("chat"), OPTIONS)
    assert quick.hub.repositories == {}


def test_weights_never_go_to_a_public_repository(quick: Loopback, deployer: Deployer) -> None:
    plan = deployer.plan(spec())
    name = plan.steps[0].name
    quick.hub.repositories[name] = {}
    quick.hub.public.add(name)
    with pytest.raises(AccessError, match="public"):
        apply(deployer, spec())
    assert quick.hub.repositories[name] == {}


def test_pause_and_resume(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer, spec())
    backend = quick.backend()
    backend.pause("chat")
    assert backend.status("chat").status == "stopped"
    backend.resume("chat")
    states = [backend.status("chat").status for _ in range(3)]
    assert states[-1] == "ready"


def test_every_page_of_endpoints_is_read(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer, spec())
    template = quick.plane.endpoints[(USER, "chat")]
    for number in range(33):
        name = f"other-{number}"
        tags = [tag.replace("=chat", f"={name}") for tag in template["tags"]]
        quick.plane.endpoints[(USER, name)] = {**template, "name": name, "tags": tags}
    assert len(list(quick.backend().list())) == 34


def test_somebody_elses_endpoint_is_neither_listed_nor_touched(
    quick: Loopback, deployer: Deployer
) -> None:
    apply(deployer, spec())
    foreign = {**quick.plane.endpoints.pop((USER, "chat")), "tags": []}
    quick.plane.endpoints[(USER, "chat")] = foreign
    backend = quick.backend()
    assert list(backend.list()) == []
    with pytest.raises(NotFoundError):
        backend.endpoint("chat")
    assert all(step.kind != "endpoint" for step in deployer.plan_delete("chat").steps)


def test_following_shows_lines_that_repeat(quick: Loopback, deployer: Deployer) -> None:
    apply(deployer, spec())
    log = quick.plane.logs[(USER, "chat")]
    log[:] = ["ready", "GET /health"]
    more = iter([["POST /v1", "GET /health"], [], ["GET /health"]])

    def later(seconds: float) -> None:
        log.extend(next(more))

    lines = HuggingFaceBackend(token=TOKEN, plane=quick.plane.url, sleep=later).logs(
        "chat", follow=True
    )
    shown = [next(lines) for _ in range(5)]
    assert shown == ["ready", "GET /health", "POST /v1", "GET /health", "GET /health"]


class TestGatedRepository:
    """Serving Meta's own repository at a commit, instead of a copy."""

    REPOSITORY = "meta-llama/Llama-2-7b-chat-hf"

    def wanted(self, loopback: Loopback, **more: Any) -> DeploymentSpec:
        commit = loopback.hub.head(self.REPOSITORY)
        given = {"gated_repository": self.REPOSITORY, "revision": commit, "image": None}
        return spec(options={**given, **more})

    def hold(self, loopback: Loopback, demo: Artifact) -> None:
        loopback.hub.repositories[self.REPOSITORY] = {
            entry.path: (demo.folder / entry.path).read_bytes()
            for entry in demo.manifest.files
            if entry.path.endswith((".safetensors", ".json"))
        }
        loopback.hub.gated.add(self.REPOSITORY)

    def test_equal_digests_are_served_as_they_are(
        self, quick: Loopback, deployer: Deployer, demo: Artifact
    ) -> None:
        self.hold(quick, demo)
        wanted = self.wanted(quick)
        quick.hub.repositories[self.REPOSITORY]["README.md"] = b"a later commit"
        apply(deployer, wanted)
        model = created(quick)["model"]
        assert (model["repository"], model["revision"]) == (
            self.REPOSITORY,
            wanted.options["revision"],
        )
        assert "vLLM" in model["image"]
        assert model["secrets"] == {"HF_TOKEN": TOKEN}
        assert quick.hub.commits == []
        assert TOKEN not in deployer.journal("chat").path.read_text()
        assert not deployer.plan(wanted).changes

    def test_other_weights_are_refused_by_the_plan(
        self, quick: Loopback, deployer: Deployer
    ) -> None:
        quick.hub.repositories[self.REPOSITORY] = {"model.safetensors": b"x" * 5000}
        with pytest.raises(IntegrityError, match=r"model\.safetensors"):
            deployer.plan(self.wanted(quick))
        assert quick.plane.writes == []

    def test_no_permission_to_write_repositories_is_needed(
        self, quick: Loopback, deployer: Deployer, demo: Artifact
    ) -> None:
        self.hold(quick, demo)
        quick.hub.scopes[TOKEN] = {USER: [MANAGE, INFER]}
        assert apply(deployer, self.wanted(quick)).status == "ready"
        with pytest.raises(AccessError, match=r"repo\.write"):
            deployer.plan(spec(name="copy"))

    def test_a_commit_that_nobody_knows_is_asked_for(
        self, quick: Loopback, deployer: Deployer, demo: Artifact
    ) -> None:
        self.hold(quick, demo)
        with pytest.raises(UsageError, match="at which commit"):
            deployer.plan(self.wanted(quick, revision=None))
