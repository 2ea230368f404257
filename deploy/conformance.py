"""The test that every backend passes: what a deployment must do, on any platform.

From a shell: ``llama-hub backends test NAME``. With pytest, in anybody's project::

    class TestFly(BackendContract):
        @pytest.fixture
        def subject(self, tmp_path):
            return Subject(lambda: FlyBackend(), spec, artifacts, tmp_path)

One scenario, step by step, since creating something may take minutes; a line
that fails ends it, and what it made is removed. It deploys two things, so it
costs what two deployments cost for as long as it runs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llama_hub.deploy.conformance_scenario import Scenario
from llama_hub.deploy.conformance_tools import SkipError, Subject

__all__ = ["BackendContract", "Line", "Report", "Subject", "run"]


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    what: str
    ok: bool
    evidence: str
    seconds: float
    skipped: bool = False


@dataclass(frozen=True)
class Report:
    """Every line, in the order of the scenario."""

    backend: str
    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed and the scenario came to its end."""
        return all(line.ok for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """The document of ``backends test``."""
        lines = [dataclasses.asdict(line) for line in self.lines]
        return {"backend": self.backend, "ok": self.ok, "checks": lines}

    def text(self) -> str:
        """One line each, as a person reads it."""
        marks = {True: "ok  ", False: "FAIL"}
        rows = [
            f"{'skip' if line.skipped else marks[line.ok]}  {line.what}: {line.evidence} "
            f"({line.seconds:.1f} s)"
            for line in self.lines
        ]
        verdict = "conforms" if self.ok else "does not conform"
        return "\n".join([*rows, f"{self.backend} {verdict}"])


class BackendContract:
    """Base class of a pytest test: give it a fixture ``subject`` that returns a ``Subject``."""

    def test_conforms(self, subject: Subject) -> None:
        """The whole scenario."""
        report = run(subject)
        assert report.ok, report.text()


def run(subject: Subject, tell: Callable[[str], None] = lambda line: None) -> Report:
    """Play the scenario; ``tell`` hears the name of each part as it begins."""
    scenario = Scenario(subject)
    lines = []
    try:
        for what, part in scenario.parts():
            tell(what)
            lines.append(_line(what, part))
            if not lines[-1].ok:
                break
    finally:
        lines.append(_line("nothing of it is left behind", scenario.clean_up))
    return Report(scenario.backend.name, tuple(lines))


def _line(what: str, part: Callable[[], str]) -> Line:
    begun = time.monotonic()
    try:
        evidence, ok, skipped = part(), True, False
    except SkipError as reason:
        evidence, ok, skipped = str(reason), True, True
    except Exception as error:
        evidence, ok, skipped = f"{type(error).__name__}: {error}", False, False
    return Line(what, ok, evidence, round(time.monotonic() - begun, 3), skipped)
