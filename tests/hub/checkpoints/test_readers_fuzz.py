"""Every reader of weights and tokenizers against thousands of changed files.

Each case is read to its last byte in a process that may use 5 seconds and 512 MiB. It is read, or
refused with one of our errors (exit 5, or 6 where nothing is left to read); never anything else.
Thousands of cases: -m slow.
"""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llama_hub.hub.checkpoints.safetensors import read_header
from llama_hub.hub.conversion.convert import convert
from tests.support.limited import Limited, limited
from tests.support.make_checkpoint import GROUPED, make_checkpoint
from tests.support.reader_mutations import MUTATIONS

FEW, MANY = 40, 3000  # cases of each kind
SOUND = (0, 5, 6)


@pytest.fixture(scope="module")
def reader() -> Iterator[Limited]:
    with limited() as running:
        yield running


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each kind of file, which holds the sound one."""
    at = tmp_path_factory.mktemp("readers")
    meta = make_checkpoint(at / "meta", GROUPED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA_HUB_HOME", str(at / "home"))
        for fmt in ("hf", "gguf"):
            convert(meta, at / fmt, to=fmt, license="llama-hub-demo")  # type: ignore[arg-type]
    (at / "gguf" / next((at / "gguf").glob("*.gguf")).name).rename(at / "gguf" / "model.gguf")
    folders = {
        "consolidated.00.pth": meta,
        "model.safetensors": at / "hf",
        "model.gguf": at / "gguf",
        "tokenizer.model": meta,
        "pytorch_model.bin": _bin(at / "hf", at / "bin"),
    }
    for name, folder in folders.items():
        assert (folder / name).is_file()
    return folders


def _bin(hf: Path, folder: Path) -> Path:
    """The same model as transformers saved it before safetensors."""
    from safetensors.torch import load_file

    assert read_header(hf / "model.safetensors")
    shutil.copytree(hf, folder, ignore=shutil.ignore_patterns("*.safetensors", "llama-hub.json"))
    made = io.BytesIO()
    torch.save(load_file(hf / "model.safetensors"), made)
    (folder / "pytorch_model.bin").write_bytes(made.getvalue())
    return folder


def _cases(
    reader: Limited, sound: dict[str, Path], at: Path, kind: str, seeds: range
) -> dict[int, int]:
    """How often each exit code came; any other is a failure that names its seed."""
    good = (sound[kind] / kind).read_bytes()
    folder = at / "case"
    shutil.copytree(sound[kind], folder)
    path = folder / kind
    what, subject = ("tokenizer", path) if kind == "tokenizer.model" else ("read", folder)
    codes: dict[int, int] = {}
    for seed in seeds:
        path.write_bytes(MUTATIONS[kind](random.Random(f"{kind} {seed}"), good))
        ending = reader.run(what, subject)
        assert ending.code in SOUND, f"{kind} {seed}: {ending}"
        codes[ending.code] = codes.get(ending.code, 0) + 1
    return codes


@pytest.mark.parametrize("kind", MUTATIONS)
def test_the_sound_file_is_read(reader: Limited, sound: dict[str, Path], kind: str) -> None:
    path = sound[kind]
    ending = reader.run(
        *(("tokenizer", path / kind) if kind == "tokenizer.model" else ("read", path))
    )
    assert ending.code == 0, ending


@pytest.mark.parametrize("kind", MUTATIONS)
def test_changed_files_are_read_or_refused(
    reader: Limited, sound: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    codes = _cases(reader, sound, tmp_path, kind, range(FEW))
    assert codes.get(5, 0) > FEW // 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", MUTATIONS)
def test_thousands_of_changed_files_are_read_or_refused(
    reader: Limited, sound: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    _cases(reader, sound, tmp_path, kind, range(FEW, MANY))
