"""A catalogue that somebody wrote: every wrong value is exit 2 with its key, all at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import InvalidFileError, UsageError
from llama_hub.hub import catalog
from tests.support.command import run

MD5 = "md5:" + "0" * 32
LEAST = {"id": "acme-7b", "license": "llama-2-community", "sources": ["mirror"]}


def toml(value: Any) -> str:
    """A value as TOML; JSON's form is TOML's but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {toml(inner)}' for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return value if isinstance(value, str) and value[:1] == "!" else json.dumps(value)


def write(home: Path, changes: Mapping[str, Any] = LEAST) -> Path:
    path = home / "catalogue.toml"
    lines = [f"{key} = {toml(value)}" for key, value in {**LEAST, **changes}.items()]
    path.write_text("[[model]]\n" + "\n".join(lines).replace('"!', "").replace('!"', "") + "\n")
    return path


def test_our_own_entries_pass_the_strict_reader() -> None:
    assert catalog.read(catalog.BUILT_IN) == list(catalog.load())


def test_the_least_entry(tmp_path: Path) -> None:
    (made,) = catalog.read(write(tmp_path))
    assert (made.folder, made.shards, made.context, made.family) == ("acme-7b", 1, 4096, "llama-2")


SIZES = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "ffn_dim": 96, "vocab_size": 128}
BAD: list[dict[str, Any]] = [
    *({"id": value} for value in (1, "", "A", "../x", "x" * 500, [], {})),
    *({"family": value} for value in (1, "gpt", [])),
    *({"variant": value} for value in (1, "instruct", {})),
    *({"folder": value} for value in (1, "", "../x", "/etc", "a//b", "a" * 5000, [])),
    *({"shards": value} for value in (0, -1, 65, 2**62, 1.0, True, "1", [])),
    *({"license": value} for value in (1, "", [], "x" * 5000)),
    *({"sources": value} for value in ([], "mirror", ["ftp"], [1], 1, {})),
    *({"size": value} for value in (7, [], "x" * 500)),
    *({"context": value} for value in (0, -1, 2**62, 4096.0, "4096", True)),
    *({"layout": value} for value in (1, "gguf")),
    *({"huggingface": value} for value in (1, "", "a/b/c", "../x", [])),
    *({"bytes": value} for value in (-1, 1.5, "1", True)),
    *({"digests": value} for value in (1, [], {"a": "md5:x"}, {"a": 1}, {"../a": MD5})),
    *({"sizes": value} for value in (1, {"a": -1}, {"a": "1"}, {"a": 1.5})),
    *({"architecture": value} for value in (1, [], {}, {"dim": 1}, {**SIZES, "heads": 1})),
    *({"architecture": {**SIZES, key: value}} for key in SIZES for value in (0, -1, 2**62, "4")),
    {"architecture": {**SIZES, "n_kv_heads": 3}},
    {"architecture": {**SIZES, "norm_eps": 0.0}},
    {"architecture": {**SIZES, "context": True}},
    {"shard": 1},
]


@pytest.mark.parametrize("changes", BAD, ids=lambda value: repr(value)[:60])
def test_a_wrong_value_is_named_with_its_key(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        catalog.load(write(tmp_path, changes))
    assert isinstance(caught.value, InvalidFileError)
    key = next(iter(changes))
    assert key in caught.value.message
    assert "entry 1" in caught.value.message


def test_numbers_that_json_has_not(tmp_path: Path) -> None:
    path = write(tmp_path)
    for value in ("nan", "inf", "9223372036854775808", "2020-01-01", "1e308"):
        path.write_text(f'[[model]]\nid="a"\nlicense="x"\nsources=["mirror"]\ncontext = {value}\n')
        with pytest.raises(InvalidFileError, match="context"):
            catalog.load(path)


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[[model]]\nshards = 1\n")
    done = run("models", "--catalog", str(path), "--json")
    assert done.code == 2
    message = done.json["error"]["message"]
    assert all(f"{key}: is missing" in message for key in ("id", "folder", "license", "sources"))


@pytest.mark.parametrize("text", ["model = 1", "[model]\nid = 'x'", "modell = []", "model = [1]"])
def test_a_file_of_another_shape_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    assert run("models", "--catalog", str(path)).code == 2


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() * 2)
    with pytest.raises(InvalidFileError, match="entry 2: id: 'acme-7b' is another entry's too"):
        catalog.load(path)


def test_a_folder_or_nothing_in_its_place_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path, tmp_path / "none.toml"):
        monkeypatch.setenv("LLAMA_HUB_CATALOG", str(path))
        assert run("models").code == 2


def test_the_catalogue_is_shown_without_pydantic() -> None:
    import subprocess
    import sys

    code = "import sys; from llama_hub.cli.main import run; run(['models']); run(['--help']); "
    code += "run(['license', 'list']); sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
