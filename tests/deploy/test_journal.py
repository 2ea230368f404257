"""A journal that was torn, damaged or replaced stops no command and loses nothing that it has."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends import lookup
from llama_hub.deploy import gc
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.journal import Journal, journals
from llama_hub.errors import DiskFullError, ProvisioningError
from tests.support.deployments import PROMPT, Bench, spec


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def journal(bench: Bench) -> Journal:
    return bench.deployer.journal("x")


def runs(bench: Bench) -> int:
    return len(journal(bench).history().runs)


def test_a_torn_last_line_is_forgotten(bench: Bench) -> None:
    bench.deploy()
    path = journal(bench).path
    path.write_bytes(path.read_bytes() + b'{"at": "2026')
    assert (runs(bench), journal(bench).history().damaged) == (1, False)
    bench.deploy(environment={"A": "1"})
    assert runs(bench) == 2
    assert not path.with_name("journal.jsonl.damaged").exists()


def line(**changes: Any) -> bytes:
    """A line of a run that is not there, or with something wrong in it."""
    document = {"at": "2026", "run": "r", "event": "end", "result": "done"}
    return json.dumps(document | changes).encode()


DAMAGED_LINES = {
    "empty": b"",
    "cut": b'{"at": "2026',
    "not UTF-8": b'{"at": "\xff"}',
    "NUL": b'{"a": "\0"}',
    "null": b"null",
    "list": b"[]",
    "number": b"1e999",
    "no event": b"{}",
    "unknown event": line(event="maybe"),
    "event of a wrong type": line(event=["end"]),
    "unknown run": line(run="nobody"),
    "run of a wrong type": line(run={}),
    "unknown result": line(result="perhaps"),
    "begin without a spec's place": line(event="begin", kind="deploy"),
    "begin of a wrong kind": line(
        event="begin", kind="explode", asked="", location={}, before=[], spec=None
    ),
    "location of a wrong type": line(
        event="begin", kind="deploy", asked="", location=[], before=[], spec=None
    ),
    "intent without a name": line(event="intent", id="a/b", action="create", kind="a"),
    "deep": b"[" * 100_000,
    "long": line(result="x" * (2 << 20)),
}


@pytest.mark.parametrize("name", DAMAGED_LINES)
def test_a_damaged_line_is_passed_over_and_kept_aside(name: str, bench: Bench) -> None:
    bench.deploy()
    path = journal(bench).path
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], DAMAGED_LINES[name], *lines[3:]]))
    assert journal(bench).history().damaged
    assert len(journal(bench).history().good) == 1
    damaged = path.read_bytes()
    check_every_command(bench)
    assert path.with_name("journal.jsonl.damaged").read_bytes() == damaged
    assert not journal(bench).history().damaged


@pytest.mark.parametrize("where", ["before", "behind"])
def test_damage_between_two_lines_of_one_run_is_seen(where: str, bench: Bench) -> None:
    """In what the journal has read already as in what came after it."""
    plan = bench.deployer.plan(spec())
    mine = journal(bench)
    with mine.locked():
        mine.begin(plan, [], "")
        mine.intent(plan.steps[0])
        mine.outcome(plan.steps[0], {})  # has read the two lines before it
        data = mine.path.read_bytes()
        begin, intent, rest = data.split(b"\n", 2)
        broken = (
            b"\n".join([begin, b"x" * len(intent), rest]) if where == "before" else data + b"{}\n"
        )
        mine.path.write_bytes(broken)
        mine.end("done")
    assert mine.path.with_name("journal.jsonl.damaged").read_bytes() == broken
    assert not mine.history().damaged


def check_every_command(bench: Bench) -> None:
    """Reading commands first, which write nothing; then those that do."""
    assert gc.find(bench.backend, root=bench.root / "journals") == []
    assert [one.name for one in bench.backend.list()] == ["x"]
    assert bench.deployer.plan_delete("x").changes
    assert bench.deploy().status == "ready"
    assert bench.deploy(environment={"A": "1"}).status == "ready"
    assert bench.deployer.drift("x") == ()
    bench.deployer.apply(bench.deployer.plan_delete("x"), PROMPT)
    assert list(bench.backend.list()) == []
    assert bench.deploy().status == "ready"


def as_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere/at/all")


def as_link_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def as_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def as_huge(path: Path) -> None:
    os.truncate(path, 1 << 40)


def as_noise(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(1 << 16))


def as_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


REPLACED = [
    as_folder, as_fifo, as_link_to_nothing, as_link_to_a_device, as_link_to_itself, as_huge,
    as_noise, as_zeros,
]  # fmt: skip


@pytest.mark.parametrize("replace", REPLACED)
def test_what_is_no_journal_is_set_aside_and_begun_again(
    replace: Callable[[Path], None], bench: Bench
) -> None:
    bench.deploy()
    replace(journal(bench).path)
    assert bench.deploy(environment={"A": "1"}).status == "ready"
    assert (runs(bench), journal(bench).history().damaged) == (1, False)
    check_every_command(bench)


@pytest.mark.parametrize("name", ["lock", "."])
@pytest.mark.parametrize("replace", [as_folder, as_fifo, as_link_to_nothing])
def test_what_stands_in_the_place_of_lock_or_folder_is_set_aside(
    replace: Callable[[Path], None], name: str, bench: Bench
) -> None:
    path = journal(bench).folder / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    replace(path)
    assert bench.deploy().status == "ready"


def test_a_lost_end_does_not_make_a_deployment_a_leftover(bench: Bench) -> None:
    bench.deploy()
    path = journal(bench).path
    *lines, end, _ = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines, end[:-9], b""]))
    assert journal(bench).history().open is not None
    assert gc.find(bench.backend, root=bench.root / "journals") == []
    assert journal(bench).history().exists


def test_a_spec_of_another_version_hides_nothing_else(bench: Bench) -> None:
    bench.deploy()
    path = journal(bench).path
    path.write_bytes(path.read_bytes().replace(b'"context"', b'"windows"'))
    history = journal(bench).history()
    assert (history.good, history.exists) == ((), True)
    check_every_command(bench)


def test_every_journal_is_listed_whatever_it_is(
    bench: Bench, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, replace in enumerate(REPLACED):
        made = Journal("memory", f"d{number}")
        made.folder.mkdir(parents=True)
        made.path.write_bytes(b"")
        replace(made.path)
    assert len(journals()) == len(REPLACED)
    here = {"file": str(home / "deployments" / "memory.json")}
    assert {"backend": "memory", "location": here} in [
        {"backend": one.backend, "location": one.location} for one in lookup.places("memory")
    ]
    assert lookup.every("memory") == ([], [])


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_on_a_full_disk_deploy_says_so_and_nothing_is_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_hub.deploy.journal.write_at", full)
    with pytest.raises(OSError, match="No space"):
        bench.deploy()
    assert bench.ids() == set()
    assert runs(bench) == 0


def test_on_a_full_disk_a_deployment_can_be_deleted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.deploy()
    with monkeypatch.context() as patch:
        patch.setattr("llama_hub.deploy.journal.write_at", full)
        bench.deployer.apply(bench.deployer.plan_delete("x"), PROMPT)
    assert bench.ids() == set()
    bench.deployer.apply(bench.deployer.plan_delete("x"), PROMPT)  # and that it is, once it can be
    assert not journal(bench).history().exists


def test_a_disk_that_fills_up_on_the_way_leaves_nothing_half_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_hub.files import write_at

    for count in range(1, 8):
        left = count

        def until_full(descriptor: int, data: bytes, offset: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.pwrite(descriptor, data[:10], offset)
                full()
            write_at(descriptor, data, offset)

        with monkeypatch.context() as patch:
            patch.setattr("llama_hub.deploy.journal.write_at", until_full)
            with pytest.raises((DiskFullError, OSError)):
                bench.deploy()
        assert not journal(bench).history().damaged
        assert bench.deploy().status == "ready"
        bench.deployer.apply(bench.deployer.plan_delete("x"), PROMPT)
        assert {one.split("/")[0] for one in bench.ids()} <= {"model"}


def test_the_log_of_a_failure_is_not_worth_another_failure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_hub.backends.memory.platform import Fault

    bench.platform.faults.append(Fault("revision/*", ProvisioningError("boom"), "after"))
    monkeypatch.setattr("llama_hub.deploy.journal.write_atomic", full)
    with pytest.raises(ProvisioningError, match="boom"):
        bench.deploy(options=ApplyOptions())
