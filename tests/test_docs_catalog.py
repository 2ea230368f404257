"""The examples of docs/catalog.md are what the commands take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llama_hub.hub import catalog
from llama_hub.hub.manifest import Format
from llama_hub.hub.repository_id import parse
from llama_hub.hub.sources.resolve import SourceRequest, choose
from llama_hub.licenses import terms
from tests.support.command import run

PAGE = (Path(__file__).parents[1] / "docs" / "catalog.md").read_text()


def test_each_entry_is_read_and_has_a_source(tmp_path: Path) -> None:
    formats: dict[str, Format] = {"acme-support": "hf", "acme-7b": "meta", "acme-private": "hf"}
    examples = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 3
    for number, text in enumerate(examples):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        (model,) = catalog.read(path)
        assert terms.load(model.license)
        request = SourceRequest(source=model.sources[0], url=str(tmp_path))
        source, fmt = choose(model, request)
        source.close()
        assert fmt == formats.pop(model.id)
    assert not formats


def test_each_command_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "HF_HUB_CACHE", "OLLAMA_MODELS"):
        monkeypatch.setenv(name, str(tmp_path))
    shown = [line for line in PAGE.splitlines() if "    llama-hub" in line]
    lines = [line.partition("#")[0].split() for line in shown]
    assert len(lines) == 7
    for _, command, place, *options in lines:
        if command == "download":
            assert parse(place)
        elif command == "import":
            outcome = run(command, place, *options, "--json")
            assert outcome.code == 6, outcome.stdout  # what it names is not on this machine
