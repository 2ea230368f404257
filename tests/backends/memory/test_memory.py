"""The memory backend passes the conformance suite, which itself notices broken backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.memory.backend import MemoryBackend
from llama_hub.backends.memory.platform import Platform
from llama_hub.deploy.backend import Backend
from llama_hub.deploy.conformance import BackendContract, Subject, run
from tests.support.deployments import PROMPT, artifact, echo, make_folder, spec
from tests.support.tiers import exhaustive


def subject_of(make: Callable[[], Backend], root: Path, everywhere: bool = True) -> Subject:
    folder = make_folder(root / "model")
    return Subject(
        make,
        spec("x"),
        lambda wanted: artifact(folder),
        root / "journals",
        options=PROMPT,
        crash_everywhere=everywhere,
    )


class TestMemory(BackendContract):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        platform = Platform()
        return subject_of(lambda: MemoryBackend(platform, answer=echo), tmp_path)


@pytest.mark.sized
class TestMemoryThatListsLate(BackendContract):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        platform = Platform(file=tmp_path / "world.json", lag=4)
        return subject_of(lambda: MemoryBackend(platform, answer=echo), tmp_path, exhaustive())


class Leaky(MemoryBackend):
    """Deletes the endpoint only, as a tool of the field does."""

    def plan_delete(self, name: str, observed: Any) -> Any:
        return [one for one in super().plan_delete(name, observed) if one.kind == "endpoint"]


class Greedy(MemoryBackend):
    """Deletes whatever begins with the name."""

    def execute(self, step: Any, context: Any) -> Mapping[str, Any]:
        done = super().execute(step, context)
        if step.action == "delete" and step.kind == "endpoint":
            for key in [key for key in self.platform.records if key.startswith(step.id)]:
                del self.platform.records[key]
        return done


class Restless(MemoryBackend):
    """Finds something to change every time."""

    def plan(self, target: Any, observed: Any) -> Any:
        import dataclasses

        steps = list(super().plan(target, observed))
        return [dataclasses.replace(steps[0], action="update"), *steps[1:]]


class Swallowing(MemoryBackend):
    """Says of everything that it is well."""

    def status(self, name: str) -> Any:
        from llama_hub.deploy.backend import Deployed
        from llama_hub.errors import NotFoundError

        try:
            return super().status(name)
        except NotFoundError:
            return Deployed(name, "memory", "stopped", None, None, None, None)


class Untagged(MemoryBackend):
    """Forgets the tags of uploads."""

    def execute(self, step: Any, context: Any) -> Mapping[str, Any]:
        done = super().execute(step, context)
        if step.kind == "model" and step.id in self.platform.records:
            del self.platform.records[step.id]["tags"]["llama-hub:license"]
        return done


class Stuttering(MemoryBackend):
    """Streams another text than it answers."""

    def invoke(self, name: str, body: Any, *, stream: bool) -> Any:
        yield from super().invoke(name, body, stream=stream)
        if stream:
            yield b'data: {"choices": [{"delta": {"content": "again"}}]}\n\n'


class Duplicating(MemoryBackend):
    """Makes another endpoint when a step is done again after a crash."""

    def execute(self, step: Any, context: Any) -> Mapping[str, Any]:
        if step.kind == "revision" and step.action == "create" and step.id in self.platform.records:
            self.platform.records[f"{step.id}-again"] = {
                **self.platform.records[step.id], "name": f"{step.name}-again"
            }  # fmt: skip
        return super().execute(step, context)


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        (Leaky, "delete removes all of it"),
        (Greedy, "delete removes all of it"),
        (Restless, "create leads to ready"),
        (Swallowing, "what is absent"),
        (Untagged, "tags"),
        (Stuttering, "streams"),
        (Duplicating, "a crash anywhere"),
    ],
)
def test_the_suite_finds_what_is_broken(
    broken: type[MemoryBackend], where: str, tmp_path: Path
) -> None:
    platform = Platform(lag=3 if broken is Duplicating else 0)
    report = run(subject_of(lambda: broken(platform, answer=echo), tmp_path))
    assert not report.ok
    failed = [line.what for line in report.lines if not line.ok]
    assert where in failed[0], report.text()
    assert report.to_json()["ok"] is False


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"\xff", b'{"revision/x": {}}', b'{"endpoint/x": 1}', b"[" * 9000],
    ids=lambda content: repr(content)[:30],
)
def test_a_damaged_memory_is_put_aside_and_deploying_works_again(
    content: bytes, home: Path
) -> None:
    file = home / "deployments" / "memory.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert list(MemoryBackend().list()) == []
    assert not file.exists()
    assert file.with_suffix(".damaged").read_bytes() == content
