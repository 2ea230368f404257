"""The chain: every change by other means is found, and no crash is mistaken for one."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.licenses.chain import GENESIS, MAX_LINE, Chain
from tests.support.tiers import examples

LINES = 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chain of four entries."""
    folder = tmp_path_factory.mktemp("whole")
    chain = Chain(folder / "ledger.jsonl")
    for number in range(1, LINES + 1):
        chain.append({"who": f"licensee {number}", "umlaut": "ü"})
    return folder


def copy(whole: Path) -> Chain:
    """The chain again, in a folder of its own, to be spoilt."""
    folder = Path(tempfile.mkdtemp(dir=whole.parent))
    for name in ("ledger.jsonl", "ledger.head"):
        shutil.copy(whole / name, folder / name)
    return Chain(folder / "ledger.jsonl")


def test_what_was_appended_is_read(whole: Path) -> None:
    content = Chain(whole / "ledger.jsonl").read()
    assert [entry["who"] for entry in content.entries] == [f"licensee {n}" for n in range(1, 5)]
    assert content.head == content.digests[-1]
    assert (content.torn, content.unsealed, content.repaired) == (0, False, ())


def test_no_file_is_an_empty_chain_and_reading_makes_none(tmp_path: Path) -> None:
    assert Chain(tmp_path / "none" / "ledger.jsonl").read().head == GENESIS
    assert not (tmp_path / "none").exists()


@settings(max_examples=examples(30, 1000), deadline=None)
@given(data=st.data())
def test_any_change_of_any_byte_is_found(whole: Path, data: st.DataObject) -> None:
    chain = copy(whole)
    before = chain.path.read_bytes()
    at = data.draw(st.integers(0, len(before)))
    cut = data.draw(st.integers(0, 3))
    put = data.draw(st.binary(max_size=3))
    after = before[:at] + put + before[at + cut :]
    chain.path.write_bytes(after)
    if after == before:
        assert len(chain.read().entries) == LINES
    else:
        with pytest.raises(IntegrityError, match=r"lines? \d"):
            chain.read()


def _delete(lines: list[bytes], i: int, _: int) -> list[bytes]:
    return lines[:i] + lines[i + 1 :]


def _swap(lines: list[bytes], i: int, j: int) -> list[bytes]:
    changed = list(lines)
    changed[i], changed[j] = changed[j], changed[i]
    return changed


def _double(lines: list[bytes], i: int, j: int) -> list[bytes]:
    return lines[:j] + [lines[i]] + lines[j:]


def _truncate(lines: list[bytes], i: int, _: int) -> list[bytes]:
    return lines[:i]


def _overwrite(lines: list[bytes], i: int, j: int) -> list[bytes]:
    return lines[:i] + [lines[j]] + lines[i + 1 :]


CHANGES = (_delete, _swap, _double, _truncate, _overwrite)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
@pytest.mark.parametrize("i", range(LINES))
@pytest.mark.parametrize("j", range(LINES))
def test_any_change_of_whole_lines_is_found(
    whole: Path, change: Callable[[list[bytes], int, int], list[bytes]], i: int, j: int
) -> None:
    chain = copy(whole)
    lines = chain.path.read_bytes().splitlines(keepends=True)
    changed = change(lines, i, j)
    if changed == lines:
        return
    chain.path.write_bytes(b"".join(changed))
    with pytest.raises(IntegrityError, match=r"lines? \d") as found:
        chain.read()
    assert found.value.exit_code == 5
    assert found.value.hint


@pytest.mark.parametrize("line", range(1, LINES + 1))
def test_an_edited_entry_is_named(whole: Path, line: int) -> None:
    chain = copy(whole)
    text = chain.path.read_text(encoding="utf-8")
    chain.path.write_text(text.replace(f"licensee {line}", "somebody else"), encoding="utf-8")
    with pytest.raises(IntegrityError, match=f"line {line}, "):
        chain.read()


@pytest.mark.parametrize("line", range(1, LINES))
def test_a_removed_line_is_named(whole: Path, line: int) -> None:
    chain = copy(whole)
    lines = chain.path.read_bytes().splitlines(keepends=True)
    chain.path.write_bytes(b"".join(_delete(lines, line - 1, 0)))
    with pytest.raises(IntegrityError, match=f"line {line} was removed"):
        chain.read()


def test_missing_last_lines_are_named(whole: Path) -> None:
    chain = copy(whole)
    lines = chain.path.read_bytes().splitlines(keepends=True)
    chain.path.write_bytes(b"".join(lines[:2]))
    with pytest.raises(IntegrityError, match="lines 3 to 4 are missing"):
        chain.read()


def test_a_forged_line_that_continues_the_chain_is_found(whole: Path) -> None:
    chain = copy(whole)
    forged = {"entry": {"who": "forger"}, "number": LINES + 1, "previous": chain.read().head}
    with chain.path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(forged) + "\n")
    with pytest.raises(IntegrityError, match="line 5 was not written by llama-hub"):
        chain.read()


@pytest.mark.parametrize("name", ["ledger.jsonl", "ledger.head"])
def test_a_removed_file_is_found(whole: Path, name: str) -> None:
    chain = copy(whole)
    (chain.path.parent / name).unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        chain.read()


@pytest.mark.parametrize("count", [0, 1, LINES - 1, LINES + 1, -1, True, "4", 4.5, None])
def test_an_edited_head_is_found(whole: Path, count: object) -> None:
    chain = copy(whole)
    path = chain.path.with_suffix(".head")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"count": count}))
    with pytest.raises(IntegrityError):
        chain.read()


def test_nothing_is_appended_to_a_broken_chain(whole: Path) -> None:
    chain = copy(whole)
    chain.path.write_bytes(chain.path.read_bytes()[:-2] + b"!\n")
    spoilt = chain.path.read_bytes()
    with pytest.raises(IntegrityError):
        chain.append({"who": "next"})
    assert chain.path.read_bytes() == spoilt


@settings(max_examples=examples(25, 500), deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text().map(str.encode)))
@example(b"[" * 60_000 + b"\n")
@example(b'{"number":' + b"9" * 5000 + b"}\n")
@example(b"\n")
@example(b"null\n")
@example(b'{"entry": [], "number": 1}\n')
@example(b"\xff\xfe\x00\n")
@example(b"x" * (3 * MAX_LINE))
@example(b"x" * (3 * MAX_LINE) + b"\n")
def test_garbage_is_an_integrity_error_and_never_a_crash(whole: Path, garbage: bytes) -> None:
    chain = copy(whole)
    for path in (chain.path, chain.path.with_suffix(".head")):
        kept = path.read_bytes()
        path.write_bytes(garbage)
        with pytest.raises(IntegrityError):
            chain.read()
        path.write_bytes(kept)


def test_an_entry_that_could_not_be_read_again_is_refused(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "ledger.jsonl")
    with pytest.raises(UsageError):
        chain.append({"who": "x" * MAX_LINE})
    chain.append({"who": "fits"})
    assert len(chain.read().entries) == 1


@pytest.fixture
def interrupted(whole: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Chain]:
    """A chain whose fifth append stopped after so many bytes of its line."""

    def stop_after(size: int) -> Chain:
        chain = copy(whole)

        def write_part(self: Chain, line: bytes, offset: int) -> None:
            with self.path.open("ab") as file:
                file.write((line + b"\n")[:size])
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Chain, "_write_line", write_part)
            with pytest.raises(KeyboardInterrupt):
                chain.append({"who": "licensee 5"})
        return chain

    return stop_after


@pytest.mark.parametrize("size", [1, 2, 50, 100])
def test_an_unfinished_line_is_reported_and_replaced(
    interrupted: Callable[[int], Chain], size: int
) -> None:
    chain = interrupted(size)
    content = chain.read()
    assert (len(content.entries), content.torn) == (LINES, size)
    chain.append({"who": "licensee 6"})
    content = chain.read()
    assert (len(content.entries), content.torn, content.repaired) == (LINES + 1, 0, (LINES + 1,))


def test_a_crash_before_the_line_leaves_nothing(interrupted: Callable[[int], Chain]) -> None:
    content = interrupted(0).read()
    assert (len(content.entries), content.torn) == (LINES, 0)


def test_a_crash_right_after_the_line_keeps_it(interrupted: Callable[[int], Chain]) -> None:
    chain = interrupted(10_000)
    content = chain.read()
    assert content.entries[-1]["who"] == "licensee 5"
    assert content.unsealed
    chain.append({"who": "licensee 6"})
    assert [entry["who"] for entry in chain.read().entries[-2:]] == ["licensee 5", "licensee 6"]


def test_a_crash_is_no_cover_for_lines_after_it(interrupted: Callable[[int], Chain]) -> None:
    chain = interrupted(10_000)
    with chain.path.open("ab") as file:
        file.write(b"more\n")
    with pytest.raises(IntegrityError, match="line 6"):
        chain.read()


def test_a_crash_may_leave_more_than_the_next_line(interrupted: Callable[[int], Chain]) -> None:
    chain = interrupted(20)
    with chain.path.open("ab") as file:
        file.write(b"\0" * 5000)
    assert chain.read().torn == 5020
    chain.append({"who": "licensee 6"})
    assert chain.read().entries[-1] == {"who": "licensee 6"}


def test_reading_writes_nothing(whole: Path) -> None:
    chain = copy(whole)
    before = {path.name: path.stat().st_mtime_ns for path in chain.path.parent.iterdir()}
    chain.read()
    assert before == {path.name: path.stat().st_mtime_ns for path in chain.path.parent.iterdir()}


APPENDER = """
import sys
from pathlib import Path
from llama_hub.licenses.chain import Chain
chain = Chain(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    chain.append({"who": sys.argv[2], "number": number})
    print(number, flush=True)
"""


def appender(path: Path, who: str, count: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", APPENDER, str(path), who, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, bufsize=0)


def test_processes_that_write_and_read_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    writers = {who: appender(path, who, 20) for who in ("a", "b", "c")}
    seen = 0
    while any(process.poll() is None for process in writers.values()):
        found = len(Chain(path).read().entries)
        assert found >= seen
        seen = found
    for process in writers.values():
        process.communicate(timeout=60)
        assert process.returncode == 0
    entries = Chain(path).read().entries
    for who in writers:
        assert [e["number"] for e in entries if e["who"] == who] == list(range(20))
    assert len(entries) == 60


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "ledger.jsonl")
    chance = random.Random(1)
    before = 0
    for _ in range(8):
        process = appender(chain.path, "killed", 10_000)
        assert process.stdout is not None
        acknowledged = chance.randrange(1, 8)
        for _ in range(acknowledged):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=60)
        acknowledged += rest.count(b"\n")
        after = len(chain.read().entries)
        assert acknowledged <= after - before <= acknowledged + 1
        before = after
    chain.append({"who": "survivor"})
    assert len(chain.read().entries) == before + 1
