"""Hostile input: mutated real checkpoints never crash the process, run code or write elsewhere.

Each case changes a sound folder (bits flipped, runs overwritten, cut, doubled, zeroed, sizes made
huge) and converts it. It must convert, to tensors that are whole, or be refused with one of our
errors and leave nothing but the source. An audit hook watches that nothing is executed and no
file is opened for writing outside the destination. Thousands of cases: -m slow.
"""

from __future__ import annotations

import codecs
import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import LlamaHubError
from llama_hub.hub.conversion.convert import convert
from tests.support.make_checkpoint import GROUPED, make_checkpoint

FORMATS = ("meta", "hf", "gguf")
FEW, MANY = 100, 3000  # cases of each format
_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "exec",
    "compile",
    "import",
)
_watch: dict[str, Any] = {"allowed": None, "seen": []}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    allowed = _watch["allowed"]
    if allowed is None:
        return
    if event in _FORBIDDEN:
        _watch["seen"].append((event, str(arguments)[:200]))
    elif (
        event == "open"
        and not isinstance(arguments[0], int)
        and isinstance(arguments[2], int)
        and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        if not str(arguments[0]).startswith(allowed):
            _watch["seen"].append((event, str(arguments)[:200]))


@pytest.fixture(scope="module", autouse=True)
def _hook() -> None:
    sys.addaudithook(_audit)


@contextmanager
def watched(*allowed: Path) -> Iterator[None]:
    """Note every execution, and every write outside ``allowed``."""
    _watch["allowed"], _watch["seen"] = tuple(map(str, allowed)), []
    try:
        yield
    finally:
        _watch["allowed"] = None
    assert _watch["seen"] == []


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every format."""
    at = tmp_path_factory.mktemp("fuzz")
    os.environ["LLAMA_HUB_HOME"] = str(at / "home")  # this fixture outlives the tests' own home
    folders = {"meta": make_checkpoint(at / "meta", GROUPED)}
    for fmt in ("hf", "gguf"):
        folders[fmt] = at / fmt
        convert(folders["meta"], folders[fmt], to=fmt, license="llama-hub-demo")  # type: ignore[arg-type]
        (folders[fmt] / "llama-hub.json").unlink()
    return folders


def mutate(data: bytearray, rng: random.Random) -> bytearray:
    """One change, mostly near the head or the tail, where formats keep their sizes."""
    size = len(data)
    at = rng.choice(
        [rng.randrange(size), rng.randrange(min(size, 3000)), -1 - rng.randrange(min(size, 3000))]
    )
    at %= size
    kind = rng.randrange(8)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        length = rng.randrange(1, 64)
        data[at : at + length] = rng.randbytes(length)
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at : at + rng.randrange(1, 200)]
    elif kind == 4:
        data[at:at] = data[at : at + rng.randrange(1, 200)]
    elif kind == 5:
        data[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), (1 << 62).to_bytes(8, "little")])
    elif kind == 6:
        data[at : at + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\1\0\0\0"])
    else:
        word = rng.choice([b"0", b"-1", b"99999999999999999999", b"null", b"[", b"}", b'"'])
        data[at : at + len(word)] = word
    return data


def weight_files(folder: Path) -> list[Path]:
    endings = (".pth", ".safetensors", ".gguf", ".json", ".model")
    return sorted(path for path in folder.iterdir() if path.suffix in endings)


def one_case(sound: dict[str, Path], fmt: str, seed: int, at: Path) -> str:
    rng = random.Random(f"{fmt}-{seed}")
    source = at / "in"
    shutil.copytree(sound[fmt], source)
    files = weight_files(source)
    heavy = [path for path in files if path.suffix not in (".json", ".model")]
    target = rng.choice(heavy if rng.random() < 0.8 else files)
    data = bytearray(target.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        data = mutate(data, rng) if data else data
    target.write_bytes(data)
    wanted = rng.choice([other for other in FORMATS if other != fmt])
    try:
        with watched(at, sound["meta"].parent / "home"):
            convert(source, at / "out", to=wanted, license="llama-hub-demo", verify=True)  # type: ignore[arg-type]
    except LlamaHubError:
        assert not (at / "out").exists()
        assert {path.name for path in at.iterdir()} <= {"in", ".out.partial"}
        return "refused"
    return "converted"


def run_cases(sound: dict[str, Path], fmt: str, cases: range, at: Path) -> None:
    seen = []
    for seed in cases:
        folder = at / str(seed)
        folder.mkdir()
        seen.append(one_case(sound, fmt, seed, folder))
        shutil.rmtree(folder)
    assert seen.count("refused") > len(seen) // 20


@pytest.fixture(scope="module", autouse=True)
def _warm(sound: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Everything that is imported lazily, before imports are watched."""
    codecs.lookup("cp437")  # of old zip member names
    for fmt in FORMATS:
        for wanted in FORMATS:
            if wanted != fmt:
                out = tmp_path_factory.mktemp("warm") / "out"
                convert(sound[fmt], out, to=wanted, license="llama-hub-demo", verify=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("fmt", FORMATS)
def test_mutated_checkpoints_are_converted_or_refused(
    sound: dict[str, Path], fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_HUB_HOME", str(sound["meta"].parent / "home"))
    run_cases(sound, fmt, range(FEW), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fmt", FORMATS)
def test_thousands_of_mutated_checkpoints(
    sound: dict[str, Path], fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_HUB_HOME", str(sound["meta"].parent / "home"))
    run_cases(sound, fmt, range(FEW, FEW + MANY), tmp_path)
