"""What README, pages and hints print exists: commands, options, extras, names, links, blocks."""

from __future__ import annotations

import ast
import importlib
import json
import tomllib
from pathlib import Path

import yaml

from llama_hub.backends import registry
from llama_hub.deploy import spec
from llama_hub.deploy.options import check_options
from tests.support import documented
from tests.support.documented import Line


def test_each_command_line_of_the_pages_is_understood() -> None:
    lines = list(documented.page_lines())
    assert len(lines) > 50
    wrong = [(*line[:2], found) for line in lines if (found := documented.problem(line))]
    assert not wrong, "\n".join(map(str, wrong))


def test_each_command_that_a_hint_names_exists() -> None:
    lines = list(documented.hint_lines())
    assert len(lines) > 80
    wrong = [(*line[:2], found) for line in lines if (found := documented.problem(line))]
    assert not wrong, "\n".join(map(str, wrong))


def test_what_does_not_exist_is_found() -> None:
    for text in (
        "llama-hub dwnload x",
        "llama-hub download",
        "llama-hub ps --jsn",
        "llama-hub deploy nowhere llama-2-7b-chat",
        "llama-hub serve llama-2-8b-chat",
        "llama-hub deploy local llama-demo --set contxt=1",
        "llama-hub deploy local llama-demo --set options.nothing=1",
    ):
        assert documented.problem(Line("here", text, True)), text


def test_each_extra_exists() -> None:
    stated = list(documented.stated_extras())
    assert {extra for _, extra in stated} >= {"serve", "azure", "sagemaker"}
    assert not [one for one in stated if one[1] not in documented.extras()]


def test_each_block_parses() -> None:
    for page, language, text in documented.blocks():
        try:
            if language == "toml":
                tomllib.loads(text)
            elif language == "json":
                json.loads(text)
            elif language == "yaml":
                _check_spec(text)
            elif language == "python":
                _check_imports(text)
        except Exception as error:
            raise AssertionError(f"{page}: {error}\n{text}") from error


def _check_spec(text: str) -> None:
    document = yaml.safe_load(text)
    made = spec.build(document)
    check_options(made, registry.at(made.backend, {}))


def _check_imports(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llama_hub"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module}.{name.name}"


def test_each_link_leads_somewhere() -> None:
    for page, target in documented.links():
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{documented.name_of(page)}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor in documented.anchors(there), f"{documented.name_of(page)}: {target}"


def test_a_link_that_leads_nowhere_is_found() -> None:
    assert "the-home-folder" in documented.anchors(Path(documented.ROOT / "docs/files.md"))
    assert "the-home" not in documented.anchors(Path(documented.ROOT / "docs/files.md"))
