"""Tools of the conformance scenario: expectations, faults, comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.backend import Backend, Context, Step
from llama_hub.deploy.deployer import Artifacts
from llama_hub.deploy.plan import Plan, identity
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import LlamaHubError, NotFoundError

Reference = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Subject:
    """What is tested, and with what."""

    make: Callable[[], Backend]  # a new object on the same platform, as a new process makes it
    spec: DeploymentSpec  # small; its name is the scenario's own
    artifacts: Artifacts
    root: Path  # for the journals
    reference: Reference | None = None  # the local core's greedy answer to a chat body
    options: ApplyOptions = field(default_factory=ApplyOptions)
    crash_everywhere: bool = True  # False: at one place only, where creating takes long


class SkipError(Exception):
    """The platform cannot do this, and says so itself."""


class CrashError(BaseException):
    """As if the process were killed: nothing of ours may catch it."""


def expect(condition: object, message: str) -> None:
    """``AssertionError`` with ``message`` unless ``condition``; works under ``python -O``."""
    if not condition:
        raise AssertionError(message)


class Faulty:
    """A backend that fails or crashes at its ``place``-th step, before or after doing it."""

    def __init__(self, backend: Backend, place: int, after: bool, error: BaseException) -> None:
        self._backend = backend
        self._left = place
        self._after = after
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def execute(self, step: Step, context: Context) -> Mapping[str, Any]:
        """Do the step, unless it is its turn to fail."""
        self._left -= 1
        if self._left == -1 and not self._after:
            raise self._error
        facts = self._backend.execute(step, context)
        if self._left == -1:
            raise self._error
        return facts


def same(one: Plan, two: Plan) -> bool:
    """Whether two plans would do the same."""
    return [identity(step) for step in one.steps] == [identity(step) for step in two.steps]


def words(steps: Sequence[Step]) -> str:
    """Steps for an error message."""
    return ", ".join(f"{step.action} {step.id} ({step.why})" for step in steps)


def expect_not_found(call: Callable[[], object]) -> None:
    """``AssertionError`` unless ``call`` raises ``NotFoundError``."""
    try:
        call()
    except NotFoundError:
        return
    except LlamaHubError as error:
        raise AssertionError(f"{type(error).__name__} instead of NotFoundError: {error}") from error
    raise AssertionError("no NotFoundError for what is absent")
