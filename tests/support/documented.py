"""Command lines, blocks and links that our pages and hints print, and what is wrong with each.

A command is parsed by the command tree itself, never run: its name, options, choices and needed
arguments must exist. In running text (`` `llama-hub ps` ``) and in hints the arguments may be cut
short; the command and each option must exist all the same.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llama_hub.backends import registry
from llama_hub.cli.main import COMMANDS, load
from llama_hub.deploy import spec
from llama_hub.hub import catalog

ROOT = Path(__file__).parents[2]
FOLDERS = ("licenses", "hub", "inference", "evaluation", "deploy", "backends", "cli")
GENERATED = {"docs/cli.md"}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(llama-hub [^`\n]+)`")
_HINTED = re.compile(r"llama-hub [a-z]+\b[^\n;,()`:]*?(?=  |[\n;,()`:]|$)")
_EXTRA = re.compile(r"llama2-hub\[([\w,-]+)\]|'\.\[([\w,-]+)\]'")


class Block(NamedTuple):
    """A fenced block: where it stands, its language, its text."""

    page: str
    language: str
    text: str


class Line(NamedTuple):
    """A command line. ``whole``: it can be pasted into a shell, so nothing may be missing."""

    where: str
    text: str
    whole: bool


def pages() -> list[Path]:
    """Every page that a person reads."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return top + sorted((ROOT / "docs").rglob("*.md"))


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks() -> Iterator[Block]:
    for page in pages():
        for language, text in _FENCE.findall(page.read_text(encoding="utf-8")):
            yield Block(name_of(page), language, text)


def page_lines() -> Iterator[Line]:
    """The command lines of all pages but the generated reference."""
    for page in pages():
        name = name_of(page)
        if name in GENERATED:
            continue
        text = page.read_text(encoding="utf-8")
        shells = [body for language, body in _FENCE.findall(text) if language in SHELLS]
        prose = _FENCE.sub("", text)
        shells += [line[4:] for line in prose.splitlines() if line.startswith("    ")]
        for body in shells:
            for line in body.replace("\\\n", " ").splitlines():
                for part in _parts(line):
                    yield Line(name, part, True)
        for inline in _INLINE.findall(prose):
            yield Line(name, inline, False)


SHELLS = {"sh", "console", "bash"}


def _parts(line: str) -> Iterator[str]:
    line = re.sub(r"(^|\s)#.*", "", line).strip().removeprefix("$ ")
    for part in re.split(r"&&|\|\||\s\|\s|;", line):
        at = re.match(r"\s*(?:[A-Z_]+=\S+\s+)*(?:\S*/)?llama-hub\s", part + " ")
        if at:
            yield "llama-hub " + part[at.end() :].strip()


def hint_lines() -> Iterator[Line]:
    """The commands that the product's strings name: hints, tables of rules, printed lines."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for text in _strings(ast.parse(path.read_text(encoding="utf-8"))):
                for found in re.findall(
                    r"llama-hub (?:[a-z]+\b)[^\n;,()`:]*?(?=  |[\n;,()`:]|$)", text
                ):
                    if found.split()[1] in COMMANDS or " --" in found:
                        yield Line(name_of(path), found, False)


def _strings(tree: ast.AST) -> Iterator[str]:
    inside: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside.update(node.values)
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield node.value


def problem(line: Line) -> str:
    """What is wrong with a command line; empty when nothing is."""
    try:
        words = shlex.split(line.text.replace("[", "").replace("]", ""))[1:]
    except ValueError:  # an apostrophe of the sentence around it
        words = line.text.replace("[", "").replace("]", "").split()[1:]
    if not words or words[0].startswith("-"):
        return ""
    if words[0] not in COMMANDS:
        return "" if not line.whole and not _is_option(words) else f"no command {words[0]!r}"
    command, rest = _descend(load(words[0]), words[1:])
    if not line.whole:
        return _options(command, rest) or _named(words)
    return _parsed(command, rest) or _backend(words) or _named(words)


def _is_option(words: list[str]) -> bool:
    return any(word.startswith("--") for word in words)


def _descend(command: Any, words: list[str]) -> tuple[Any, list[str]]:
    while words and words[0] in (getattr(command, "commands", None) or {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def _parsed(command: Any, words: list[str]) -> str:
    if "…" in words:
        return _options(command, words)
    try:
        command.make_context("llama-hub", list(words))
    except Exception as error:  # whatever the parser has to say about it
        return f"{type(error).__name__}: {error}"
    return ""


def _options(command: Any, words: list[str]) -> str:
    known = {"--help"}
    for parameter in command.params:
        known |= {*parameter.opts, *parameter.secondary_opts}
    for child in (getattr(command, "commands", None) or {}).values():
        known |= {option for parameter in child.params for option in parameter.opts}
    stated = [re.split(r"[=.\"']", word)[0] for word in words if word.startswith("--")]
    missing = [word for word in stated if len(word) > 2 and word not in known]
    return f"no option {', '.join(missing)}" if missing else ""


def _backend(words: list[str]) -> str:
    if words[0] == "deploy" and words[1][0] not in "-…" and words[1] not in registry.names():
        return "" if words[1].isupper() else f"no backend {words[1]!r}"
    return ""


def _named(words: list[str]) -> str:
    """Models and keys of ``--set`` that do not exist."""
    for word in words[1:]:
        if re.fullmatch(r"(code)?llama-[\w.-]+", word) and not word.startswith("llama-2-community"):
            if catalog.listed(word) is None:
                return f"no model {word!r}"
    return _assigned(words)


def _assigned(words: list[str]) -> str:
    for option, value in zip(words, words[1:], strict=False):
        if option != "--set" or "=" not in value:
            continue
        key, *inner = value.partition("=")[0].split(".")
        if key not in spec.KEYS:
            return f"no key {key!r} of a spec"
        if key == "options" and inner and not any(inner[0] in o for o in option_keys().values()):
            return f"no backend has an option {inner[0]!r}"
    return ""


def option_keys() -> dict[str, set[str]]:
    """Backend → the keys of its options."""
    found = {}
    for name in ("local", "azure", "sagemaker", "huggingface"):
        model = registry.backend_class(name).options_model
        found[name] = set(model.model_fields) if model else set()
    return found


def extras() -> set[str]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return set(document["project"]["optional-dependencies"])


def stated_extras() -> Iterator[tuple[str, str]]:
    """Where, and each extra that a page or a string names."""
    sources = [*pages(), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))]
    for path in sources:
        for match in _EXTRA.finditer(path.read_text(encoding="utf-8")):
            for extra in (match[1] or match[2]).split(","):
                yield name_of(path), extra


def links() -> Iterator[tuple[Path, str]]:
    """Each page, and each link on it that stays in the repository."""
    for page in pages():
        prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if not re.match(r"[a-z]+:", target):
                yield page, target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs and GitHub make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    made = set(re.findall(r'<a id="([^"]+)"', text))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        made.add(re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()))
    return made
