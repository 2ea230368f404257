"""The README beside the weights: of each of the seven items, whether it is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_hub.hub import release_items
from llama_hub.hub.catalog import load
from llama_hub.hub.manifest import FileEntry, Manifest, read
from llama_hub.hub.store import Store
from llama_hub.hub.verify import verify
from tests.support.command import run
from tests.support.demo_model import demo_folder

SEVEN = [
    "model code", "weights", "user guide", "responsible-use guide", "use policy", "model card",
    "licence",
]  # fmt: skip


def manifest(*paths: str, license: str = "llama-2-community") -> Manifest:
    files = tuple(FileEntry(path, 10, "0" * 64) for path in paths)
    return Manifest("llama-2-7b", "meta", license, files)


def test_all_seven_are_answered() -> None:
    whole = manifest(
        "consolidated.00.pth", "LICENSE", "USE_POLICY.md", "MODEL_CARD.md",
        "Responsible-Use-Guide.pdf",
    )  # fmt: skip
    found = {each.name: each for each in release_items.items(whole)}
    assert list(found) == SEVEN
    assert [found[name].state for name in SEVEN] == [
        "elsewhere",
        "here",
        "elsewhere",
        *["here"] * 4,
    ]
    bare = {each.name: each for each in release_items.items(manifest("consolidated.00.pth"))}
    assert bare["responsible-use guide"].state == "elsewhere"
    assert {bare[n].state for n in ("use policy", "model card", "licence")} == {"lacking"}
    assert "ai.meta.com" in bare["use policy"].where
    other = {e.name: e for e in release_items.items(manifest("a.gguf", license="acme-license"))}
    assert other["responsible-use guide"].state == "lacking"
    assert "facebookresearch" not in other["model code"].where
    assert release_items.items(manifest("LICENSE"))[1].state == "lacking"


def test_it_lies_beside_every_download_and_conversion(home: Path) -> None:
    converted = demo_folder(home)
    original = Store(home).complete("llama-demo-chat", "meta")
    assert original is not None
    for stored, name in ((original, "README.md"), (converted, "README.llama-hub.md")):
        text = (stored.path / name).read_text()
        assert stored.manifest.digest in text
        assert all(f"| {item} |" in text for item in SEVEN)
        checked = verify(stored.path)
        assert checked.ok
        assert [each.path for each in checked.files if each.status == "extra"] == []
    (converted.path / "other.txt").write_text("x")
    assert [e.path for e in verify(converted.path).files if e.status == "extra"] == ["other.txt"]


def test_it_is_no_model_card_and_changes_no_manifest(home: Path, tmp_path: Path) -> None:
    demo_folder(home)
    folder = Store(home).find("llama-demo-chat", "meta").path
    before = read(folder).digest
    done = run("convert", str(folder), str(tmp_path / "with"), "--to", "hf", "--json")
    assert done.code == 0, done.stdout
    (folder / "README.md").unlink()
    assert run("convert", str(folder), str(tmp_path / "without"), "--to", "hf").code == 0
    assert read(folder).digest == before
    assert read(tmp_path / "with").digest == read(tmp_path / "without").digest
    assert release_items.MARK not in (tmp_path / "with" / "README.md").read_text()


@pytest.mark.parametrize("name", ["llama-demo", "llama-demo-chat"])
def test_the_demo_lacks_only_a_guide_of_meta_s(home: Path, name: str) -> None:
    found = {
        each.name: each.state for each in release_items.items(demo_folder(home, name).manifest)
    }
    assert [item for item, state in found.items() if state == "lacking"] == [
        "responsible-use guide"
    ]
    assert load().get(name).license == "llama-hub-demo"
