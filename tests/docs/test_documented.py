"""What README, pages and hints print exists: commands, options, extras, names, links, blocks."""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib
from pathlib import Path

import yaml

from llama_hub import errors
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
                _check_yaml(text)
            elif language == "python":
                _check_imports(text)
        except Exception as error:
            raise AssertionError(f"{page}: {error}\n{text}") from error


def _check_yaml(text: str) -> None:
    """A job's steps use the action's own inputs; anything else is a deployment."""
    document = yaml.safe_load(text)
    if "steps" in document:
        action = yaml.safe_load((documented.ROOT / "action.yml").read_text())
        (used,) = [step for step in document["steps"] if "llama-hub@" in step["uses"]]
        assert used["with"].keys() <= action["inputs"].keys()
        return
    made = spec.build(document)
    check_options(made, registry.at(made.backend, {}))


def _check_imports(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "llama_hub":
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


def test_each_error_has_its_section_with_its_exit_code() -> None:
    text = (documented.ROOT / "docs/troubleshooting.md").read_text()
    stated = dict(re.findall(r"^## (\w+)\n\nExit code (\d+)\.", text, re.MULTILINE))
    classes = {
        name: str(int(one.exit_code))
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, errors.LlamaHubError)
    }
    assert stated == classes


def test_each_metric_of_the_dashboard_is_one_of_the_service() -> None:
    dashboard = (documented.ROOT / "docs/grafana.json").read_text()
    named = set(re.findall(r"(?:vllm:|llama_hub_)\w+", dashboard))
    source = (documented.ROOT / "inference/service/metrics.py").read_text()
    served = set(re.findall(r'"((?:vllm:|llama_hub_)\w+)"', source))
    assert len(named) > 10
    assert {name.removesuffix("_bucket") for name in named} <= served


def test_each_page_is_in_the_table_of_contents() -> None:
    listed = (documented.ROOT / "mkdocs.yml").read_text()
    assert not [
        page.name for page in (documented.ROOT / "docs").glob("*.md") if page.name not in listed
    ]


def test_the_security_page_is_the_file_that_github_shows() -> None:
    (named,) = re.findall(
        r'^--8<-- "(.+)"$', (documented.ROOT / "docs/security.md").read_text(), re.MULTILINE
    )
    assert (documented.ROOT / named).read_text().startswith("# Security\n")
