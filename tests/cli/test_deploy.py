"""deploy, ps, status, logs, invoke, attest, rollback, delete, gc, backends, doctor: as typed."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.local import backend as local
from llama_hub.backends.local.processes import identity
from llama_hub.backends.local.state import Folder
from llama_hub.backends.memory import backend as memory
from llama_hub.licenses import terms
from llama_hub.licenses.gate import Gate, Texts
from tests.support.command import Outcome, run
from tests.support.deployments import echo, make_folder

STANDIN = Path(__file__).parents[1] / "support" / "standin.py"


@pytest.fixture(autouse=True)
def model(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model in the store, and no cloud of the person who runs the tests."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "none"))
    monkeypatch.setattr(memory, "_core", lambda: echo)
    return make_folder(home / "models" / "llama-demo" / "hf")


def deploy(*words: str) -> Outcome:
    return run("deploy", "memory", "llama-demo", "--name", "x", "--context", "256", *words)


def done(*words: str) -> Any:
    outcome = run(*words, "--json")
    assert outcome.code == 0, outcome.stderr
    return outcome.json


def test_plan_exits_9_then_0_and_changes_nothing(home: Path) -> None:
    first = deploy("--plan", "--json")
    assert first.code == 9
    assert first.json["changes"] == 4
    assert {"action", "resource", "why"} <= set(first.json["plan"][0])
    assert done("ps", "--backend", "memory")["deployments"] == []
    assert deploy("--yes").code == 0
    assert deploy("--plan").code == 0


@pytest.mark.parametrize("backend", ["memory", "local"])
def test_a_plan_needs_nothing_but_the_catalogue(home: Path, backend: str) -> None:
    words = ["deploy", backend, "llama-2-7b", "--context", "256", "--concurrency", "1"]
    words += ["--quantize", "int4"]
    planned = run(*words, "--plan", "--json")
    assert planned.code == 9, planned.stderr
    assert (planned.json["manifest"], planned.json["license"]) == (None, "llama-2-community")
    kinds = [step["resource"].partition("/")[0] for step in planned.json["plan"]]
    assert kinds[:2] == ["download", "conversion"]
    assert len(kinds) > 3
    assert planned.json["plan"][0]["body"]["bytes"] == 13476925163
    shown = run(*words, "--plan").stdout
    assert "llama-hub download llama-2-7b --source" in shown
    assert not (home / "deployments" / backend / "llama-2-7b").exists()
    for more in (["--yes"], ["--out", str(home / "plan.json")]):  # both need the model itself
        refused = run(*words, *more)
        assert (refused.code, "llama-hub download" in refused.stderr) == (6, True)


def test_what_a_cloud_refuses_is_refused_before_a_conversion(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_hub.deploy import artifact
    from tests.support.demo_model import CHAT

    assert run("download", CHAT, "--source", "builtin", "--accept-license").code == 0
    monkeypatch.setattr(artifact, "prepare", lambda *_: pytest.fail("it was converted"))
    refused = run("deploy", "memory", CHAT, "--instance", "huge", "--yes")
    assert (refused.code, "offered are" in refused.stderr) == (7, True)


def test_the_text_of_a_plan_names_what_a_person_wants_to_know() -> None:
    shown = deploy("--plan").stdout
    for part in ("create", "endpoint/x", "tiny-cpu", "weights", "sha256:", "receipt", "$0.05"):
        assert part in shown
    assert not [line for line in shown.splitlines() if line != line.rstrip()]


def test_twice_then_delete_as_a_new_user_would() -> None:
    first = done("deploy", "memory", "llama-demo", "--name", "x", "--context", "256", "--yes")
    assert (first["name"], first["backend"], first["status"]) == ("x", "memory", "ready")
    assert first["url"]
    assert first["manifest"].startswith("sha256:")
    assert first["receipt"].startswith("r-")
    second = done("deploy", "memory", "llama-demo", "--name", "x", "--context", "256", "--yes")
    assert {step["action"] for step in second["plan"]} == {"noop"}
    gone = done("delete", "x", "--yes")
    assert gone["status"] == "absent"
    again = run("delete", "x", "--json", "--yes")
    assert (again.code, again.json["error"]["code"]) == (6, 6)
    assert done("ps")["deployments"] == []


def test_money_is_not_spent_without_a_yes() -> None:
    refused = deploy("--json")
    assert refused.code == 2
    assert refused.json["error"]["hint"] == "give --yes"
    assert done("ps")["deployments"] == []


def test_without_the_licence_nothing_is_deployed(home: Path) -> None:
    import dataclasses

    from llama_hub.hub.manifest import read

    folder = home / "models" / "llama-demo" / "hf"
    dataclasses.replace(read(folder), license="llama-2-community").write(folder)
    assert deploy("--plan").code == 3
    assert deploy("--yes").code == 3


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["deploy"], 2, "which backend"),
        (["deploy", "memory"], 2, "which model"),
        (["deploy", "memry", "llama-demo"], 6, "did you mean memory"),
        (["deploy", "memory", "llama-dmo"], 6, "llama-hub download"),
        (["deploy", "memory", "llama-demo", "--set", "contxt=1"], 2, "did you mean 'context'"),
        (["deploy", "memory", "llama-demo", "--set", "options.a=1"], 2, "has no options"),
        (["deploy", "memory", "llama-demo", "--replicas", "many"], 2, "neither a number"),
        (["deploy", "memory", "llama-demo", "--context", "99999", "--plan"], 2, "trained for"),
        (["deploy", "memory", "llama-demo", "--instance", "huge", "--plan"], 7, "offered are"),
        (["deploy", "--apply", "none.json"], 2, "it does not exist"),
        (["deploy", "memory", "--apply", "none.json"], 2, "give no spec"),
        (["deploy", "memory", "llama-demo", "--on-failure", "shrug"], 2, "neither remove"),
        (["status", "nobody"], 6, "no deployment 'nobody'"),
        (["logs", "nobody"], 6, "no deployment"),
        (["logs", "x", "--follow", "--json"], 2, "no end"),
        (["invoke", "x"], 2, "a message or --body"),
        (["invoke", "x", "--body", "{"], 2, "not valid JSON"),
        (["backends", "test", "memry"], 6, "did you mean memory"),
    ],
)
def test_mistakes_have_their_code_and_say_what_mends_them(
    words: list[str], code: int, part: str
) -> None:
    outcome = run(*words)
    assert outcome.code == code, outcome.stderr
    assert part in outcome.stderr
    assert outcome.stdout == "" or "--json" in words


def test_what_fits_no_machine_says_what_needs_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(memory.OFFERS[0], memory_bytes=1 << 20)
    monkeypatch.setattr(memory, "OFFERS", (small,))
    outcome = run("deploy", "memory", "llama-demo", "--plan")
    assert outcome.code == 7
    assert "KV cache" in outcome.stderr


def test_a_spec_file_with_flags_and_assignments_over_it(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("name: y\nbackend: memory\nmodel: llama-demo\ncontext: 128\ntags: {a: b}\n")
    (home / "config.toml").write_text("[deploy]\nconcurrency = 3\n")
    words = ["deploy", "-f", str(path), "--context", "256", "--set", "tags.c=d", "--plan"]
    planned = run(*words, "--json").json["spec"]
    assert (planned["name"], planned["context"], planned["concurrency"]) == ("y", 256, 3)
    assert planned["tags"] == {"a": "b", "c": "d"}


def test_a_saved_plan_from_out_to_apply(tmp_path: Path) -> None:
    saved = str(tmp_path / "plan.json")
    assert deploy("--out", saved).code == 0  # what was asked for is done
    assert deploy("--out", saved, "--plan").code == 9
    assert run("deploy", "--apply", saved, "--json").code == 2  # it costs: --yes is needed
    assert done("deploy", "--apply", saved, "--yes")["status"] == "ready"
    assert deploy("--set", "environment.A=1", "--yes").code == 0
    changed = run("deploy", "--apply", saved, "--yes", "--json")
    assert (changed.code, changed.json["error"]["type"]) == (8, "StalePlanError")


def test_the_life_of_a_deployment() -> None:
    assert deploy("--yes", "--ttl", "12h").code == 0
    listed = done("ps")["deployments"]
    assert [(one["name"], one["backend"], one["model"]) for one in listed] == [
        ("x", "memory", "llama-demo")
    ]
    assert done("status", "x")["drift"] == []
    assert done("logs", "x")["lines"][-1].endswith("ready")
    answer = done("invoke", "x", "Hello there")
    assert answer["choices"][0]["message"]["content"] == "Hello there"
    assert run("invoke", "x", "Hello there", "--stream").stdout.strip() == "Hello there"
    proof = done("attest", "x")
    assert proof["ok"]
    assert proof["expected"] == proof["served"]
    assert deploy("--yes", "--set", "environment.A=2").code == 0
    assert run("rollback", "x", "--plan").code == 9
    refused = run("rollback", "x", "--json")
    assert refused.code == 2  # nobody can be asked here
    assert "--yes" in refused.json["error"]["hint"]
    back = done("rollback", "x", "--yes")
    assert back["generation"] == done("status", "x")["generation"]
    assert run("delete", "x", "--plan").code == 9
    assert run("delete", "x").code == 2
    assert run("status", "x").code == 0
    done("delete", "x", "--yes")
    assert done("gc")["leftovers"] == []


def test_attest_exits_5_when_something_else_is_served(home: Path) -> None:
    assert deploy("--yes").code == 0
    world = home / "deployments" / "memory.json"
    records = json.loads(world.read_text())
    for one in records.values():
        one["served"] = "sha256:" + "0" * 64
    world.write_text(json.dumps(records))
    outcome = run("attest", "x", "--json")
    assert (outcome.code, outcome.json["ok"]) == (5, False)


def test_deployment_and_attest_record_the_ledger_that_they_saw(home: Path) -> None:
    assert deploy("--yes").code == 0
    head = done("license", "log")["head"]
    journal = (home / "deployments/memory/x/journal.jsonl").read_text().splitlines()
    assert json.loads(journal[0])["ledger_head"] == head
    proof = done("attest", "x")
    assert proof["ledger_head"] == head
    assert {"what": "ledger", "ok": True, "evidence": f"head {head}"} in proof["checks"]
    for name in ("ledger.jsonl", "ledger.head"):
        (home / "licenses" / name).unlink()
    Gate().ensure(terms.load("llama-hub-demo"), Texts("another text"), None)  # a forged chain
    outcome = run("attest", "x", "--json")
    assert outcome.code == 5
    (ledger,) = [one for one in outcome.json["checks"] if one["what"] == "ledger"]
    assert "rewritten" in ledger["evidence"]


def test_status_shows_drift(home: Path) -> None:
    assert deploy("--yes").code == 0
    world = home / "deployments" / "memory.json"
    records = json.loads(world.read_text())
    next(one for key, one in records.items() if key.startswith("revision/"))["state"] = "failed"
    world.write_text(json.dumps(records))
    found = done("status", "x")
    assert [one["action"] for one in found["drift"]] == ["replace"]
    assert "drifted" in run("status", "x").stdout


def test_gc_shows_first_and_removes_with_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_HUB_MEMORY_FAIL", "revision/*")
    failed = deploy("--yes", "--json")
    assert (failed.code, failed.json["error"]["type"]) == (8, "ProvisioningError")
    monkeypatch.delenv("LLAMA_HUB_MEMORY_FAIL")
    shown = run("gc", "--json")
    assert (shown.code, [one["reason"] for one in shown.json["leftovers"]]) == (9, ["orphan"])
    assert done("gc", "--yes")["removed"]
    assert done("gc")["leftovers"] == []


def test_what_can_no_longer_be_asked_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_hub.errors import AccessError

    def refuse(self: Any, name: str) -> Any:
        raise AccessError("the account is closed")

    assert deploy("--yes").code == 0
    monkeypatch.setattr(memory.MemoryBackend, "observe", refuse)
    assert run("delete", "x", "--yes").code == 4
    assert run("delete", "x", "--forget").code == 2  # asked for, and nobody answers
    gone = done("delete", "x", "--forget", "--yes")
    assert (gone["status"], gone["deleted"]) == ("forgotten", [])
    assert "endpoint/x" in gone["standing"]
    again = run("delete", "x", "--forget", "--yes")
    assert again.code == 6
    assert "journals of this machine" in again.stderr


def test_one_name_in_two_backends_asks_which(local_command: None) -> None:
    assert deploy("--yes").code == 0
    done("deploy", "local", "llama-demo", "--name", "x", "--context", "256")
    outcome = run("status", "x")
    assert outcome.code == 2
    assert "--backend" in outcome.stderr
    assert done("status", "x", "--backend", "memory")["backend"] == "memory"
    done("delete", "x", "--backend", "local", "--yes")
    assert done("status", "x")["backend"] == "memory"


@pytest.fixture
def local_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local backend with the stand-in for the service; ends what a test leaves running."""
    command = (sys.executable, str(STANDIN))
    monkeypatch.setattr(
        local.LocalBackend.__init__, "__kwdefaults__", {"root": "", "command": command}
    )
    yield
    for path in (home / "deployments" / "local").glob("*/service"):
        folder = Folder(path)
        state = folder.state()
        run("delete", path.parent.name, "--backend", "local", "--yes")
        assert state is None or identity(state.pid) != state.identity


def test_local_from_the_command_line(local_command: None) -> None:
    words = ["deploy", "local", "llama-demo", "--name", "x", "--context", "256"]
    first = done(*words)
    assert first["url"].startswith("http://127.0.0.1:")
    assert done(*words)["changes"] == 0
    assert done("attest", "x")["ok"]
    assert run("invoke", "x", "?").stdout.strip() == "one"
    assert done("delete", "x", "--yes")["deleted"][-1] == "service/x"


def test_ps_shows_the_others_when_one_backend_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llama_hub.errors import AccessError

    assert deploy("--yes").code == 0

    def refuse(self: Any) -> Any:
        raise AccessError("the token has expired")

    monkeypatch.setattr(local.LocalBackend, "list", refuse)
    outcome = run("ps", "--json")
    assert outcome.code == 4
    assert [one["name"] for one in outcome.json["deployments"]] == ["x"]
    (error,) = [one for one in outcome.json["errors"] if one["backend"] == "local"]
    assert (error["message"], error["code"]) == ("the token has expired", 4)
    assert "the token has expired" in run("ps").stderr


def test_schema_for_editors_is_a_document() -> None:
    found = done("backends", "schema", "local")
    assert found["properties"]["options"]["properties"]["port"]["maximum"] == 65535


def test_the_conformance_suite_runs_from_the_command_line() -> None:
    report = run("backends", "test", "memory", "--model", "llama-demo", "--quick", "--json")
    failed = [line["what"] for line in report.json["checks"] if not line["ok"]]
    # The stand-in for the core echoes, so that both sides of the comparison are the echo.
    assert failed in ([], ["greedy answers equal the local core's"])


def test_doctor_takes_what_deploy_takes(home: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("backend: memory\nmodel: llama-demo\n")
    assert done("doctor", "-f", str(spec))["checks"]
    assert run("doctor", "--set", "context=256", "--json").code == 2  # of which backend?
    assert run("doctor", "memory", "--set", "contxt=256", "--json").code == 2
    assert run("doctor", "memory", "--set", "options.nothing=1", "--json").code == 2


def test_doctor_looks_at_the_machine_and_a_backend(home: Path) -> None:
    found = done("doctor", "memory")["checks"]
    names = [one["name"] for one in found]
    assert names[:5] == ["python", "distribution", "home", "disk", "ledger"]
    assert names[-1] == "memory: memory"
    assert run("doctor", "--region", "mars").code == 2
    (home / "config.toml").write_text("[depoly]")
    (wrong,) = [one for one in run("doctor", "--json").json["checks"] if not one["ok"]]
    assert (wrong["name"], "did you mean 'deploy'" in wrong["detail"]) == ("settings", True)
    (home / "config.toml").unlink()
    (home / "licenses").mkdir(exist_ok=True)
    (home / "licenses" / "ledger.jsonl").write_text("garbage\n")
    broken = run("doctor", "--json")
    assert broken.code == 1
    ledger = next(one for one in broken.json["checks"] if one["name"] == "ledger")
    assert not ledger["ok"]
    assert ledger["hint"]
