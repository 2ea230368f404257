"""From a model's name to the served folder, with the real demo model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_hub.deploy import artifact
from llama_hub.errors import IntegrityError, LicenseError, NotFoundError
from tests.support import gguf_files
from tests.support.demo_model import CHAT
from tests.support.deployments import make_folder, spec
from tests.support.gguf_files import File


@pytest.fixture
def downloaded(home: Path) -> Path:
    """The demo model as it comes from its source, not converted."""
    from llama_hub.hub import catalog
    from llama_hub.hub.download import Job, download
    from llama_hub.hub.sources.builtin import builtin
    from llama_hub.hub.store import Store
    from llama_hub.licenses.gate import Gate

    model = catalog.load().get(CHAT)
    return download(Job(model, builtin(), "meta", store=Store(), gate=Gate())).path


def test_find_makes_nothing_and_says_what_would(downloaded: Path, home: Path) -> None:
    with pytest.raises(NotFoundError):
        artifact.find(spec(model=CHAT))
    assert not (home / "models" / CHAT / "hf").exists()


def test_prepare_converts_once(downloaded: Path) -> None:
    made = artifact.prepare(spec(model=CHAT))
    assert made.manifest.format == "hf"
    assert made.receipt.startswith("r-")
    again = artifact.prepare(spec(model=CHAT))
    assert again == made == artifact.find(spec(model=CHAT))
    architecture, dtype = artifact.dimensions(made)
    assert architecture.n_layers > 0
    assert dtype in ("float32", "bfloat16", "float16")


def test_prepare_quantises_into_a_place_of_its_own(downloaded: Path) -> None:
    plain = artifact.prepare(spec(model=CHAT))
    with pytest.raises(NotFoundError, match="not quantised"):
        artifact.find(spec(model=CHAT, quantization="int8"))
    made = artifact.prepare(spec(model=CHAT, quantization="int8"))
    assert made.manifest.quantization == "int8"
    assert made.folder != plain.folder
    assert made.manifest.digest != plain.manifest.digest
    assert artifact.find(spec(model=CHAT, quantization="int8")) == made
    assert artifact.find(spec(model=CHAT)) == plain
    by_path = artifact.find(spec(model=str(made.folder), quantization="int8"))
    assert by_path.manifest == made.manifest


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_what_is_expected_is_what_conversion_makes(downloaded: Path, quantization: Any) -> None:
    wanted = spec(model=CHAT, quantization=quantization)
    foreseen = artifact.expected(wanted, NotFoundError("not there"))
    assert [step.kind for step in foreseen.steps] == ["conversion"]
    made = artifact.prepare(wanted)
    assert artifact.dimensions(foreseen) == artifact.dimensions(made)
    assert foreseen.receipt == made.receipt
    assert foreseen.manifest.quantization == made.manifest.quantization
    weights = sum(one.size for one in made.manifest.files if one.path.endswith(".safetensors"))
    assert foreseen.manifest.bytes == pytest.approx(weights, rel=0.2)  # headers count in a toy


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("kind", ["F16", "Q4_K", "Q4_0"])
def test_a_gguf_file_is_planned_as_what_is_made_of_it(
    home: Path, tmp_path: Path, kind: str, quantization: Any
) -> None:
    path = tmp_path / "m.gguf"
    gguf_files.write(path, File(kind=kind, keys={"llama_hub.license": "llama-hub-demo"}))
    wanted = spec(model=str(path), quantization=quantization)
    foreseen = artifact.expected(wanted, NotFoundError("not there"))
    made = artifact.prepare(wanted)
    assert artifact.dimensions(foreseen) == artifact.dimensions(made)
    assert artifact.dimensions(made)[1] == "float16"
    assert made.manifest.quantization == quantization
    weights = sum(one.size for one in made.manifest.files if one.path.endswith(".safetensors"))
    assert foreseen.manifest.bytes == pytest.approx(weights, rel=0.1)
    assert artifact.find(wanted) == made


def test_a_model_of_the_catalogue_is_planned_without_a_byte_of_it(home: Path) -> None:
    foreseen = artifact.expected(spec(model="llama-2-7b"), NotFoundError("not there"))
    download, conversion = foreseen.steps
    assert (download.id, download.body["bytes"]) == ("download/llama-2-7b", 13476925163)
    assert "licence llama-2-community" in download.note
    assert conversion.after == (download.id,)
    assert foreseen.manifest.bytes == pytest.approx(13476925163, rel=1e-3)
    assert foreseen.receipt == ""
    assert not home.exists()


def test_what_no_catalogue_lists_cannot_be_planned(home: Path) -> None:
    missing = NotFoundError("nothing of that name")
    with pytest.raises(NotFoundError) as raised:
        artifact.expected(spec(model="acme-9b"), missing)
    assert raised.value is missing


def test_a_folder_is_served_by_its_path(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    assert artifact.find(spec(model=str(folder))).folder == folder


def test_a_gated_model_needs_a_receipt(tmp_path: Path) -> None:
    import dataclasses

    from llama_hub.hub.manifest import read

    folder = make_folder(tmp_path / "mine")
    dataclasses.replace(read(folder), license="llama-2-community").write(folder)
    for get in (artifact.find, artifact.prepare):
        with pytest.raises(LicenseError):
            get(spec(model=str(folder)))


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    found = artifact.find(spec(model=str(folder)))
    (folder / "config.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"config\.json"):
        artifact.dimensions(found)
