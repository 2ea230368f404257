"""The layout's rules: every package is listed, linked, checked; imports point one way."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from textwrap import indent

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("licenses", "hub", "inference", "evaluation", "deploy", "backends", "cli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@cache
def parsed(module: Path) -> ast.Module:
    """Each module once for all rules; it is only looked at."""
    return ast.parse(module.read_text(encoding="utf-8"))


def packages_on_disk() -> set[str]:
    found = {"llama_hub"}
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add("llama_hub." + ".".join(init.parent.relative_to(ROOT).parts))
    return found


def test_every_package_on_disk_is_in_the_wheel() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_on_disk()


def test_every_python_file_lies_in_a_package() -> None:
    for folder in FOLDERS:
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), module


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_is_mapped_linked_checked_and_banned(folder: str) -> None:
    tools = PROJECT["tool"]
    assert tools["setuptools"]["package-dir"][f"llama_hub.{folder}"] == folder
    link = ROOT / "llama_hub" / folder
    assert link.resolve() == ROOT / folder
    if link.is_symlink():  # where git has no links it is a text file
        assert str(link.readlink()) == f"../{folder}"
    assert f"llama_hub/{folder}" in tools["ruff"]["extend-exclude"]
    assert folder in tools["coverage"]["run"]["source"]
    assert folder in tools["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]


@cache
def imports_of(module: Path) -> set[str]:
    """Names below ``llama_hub`` that a module imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("llama_hub.")}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_one_way(folder: str) -> None:
    above = FOLDERS[FOLDERS.index(folder) + 1 :]
    wrong = [
        f"{module.relative_to(ROOT)} imports {name}"
        for module in (ROOT / folder).rglob("*.py")
        for name in imports_of(module)
        if name.split(".")[1] in above
    ]
    assert wrong == []


DOORS = ("__main__.py", "__init__.py", "api.py")  # the command and the public API: above all rooms


def modules() -> dict[str, Path]:
    """Every module of the product by its name, less the package root and the public API on top."""
    found = {f"llama_hub.{path.stem}": path for path in (ROOT / "llama_hub").glob("*.py")}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            name = ".".join(("llama_hub", *path.relative_to(ROOT).with_suffix("").parts))
            found[name.removesuffix(".__init__")] = path
    for top in ("__init__", "__main__", "api"):
        found.pop(f"llama_hub.{top}", None)
    return found


def imported_modules(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules that ``path`` imports, for types alone and inside of functions as well."""
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & set(known)) or {node.module}
    return found & set(known)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """What remains when modules that import nothing, or that nobody imports, are taken away."""
    left = dict(graph)
    while True:
        needed = {name for name in left if any(name in others for others in left.values())}
        kept = {name: left[name] & needed for name in needed if left[name] & set(left)}
        if kept == left:
            return sorted([name, *sorted(others)] for name, others in left.items())
        left = kept


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    assert circles({name: imported_modules(path, known) for name, path in known.items()}) == []


def test_a_circle_is_found() -> None:
    line = {"a": {"b"}, "b": {"c"}, "c": set()}
    assert circles(line) == []
    assert circles(line | {"c": {"b"}}) == [["b", "c"], ["c", "b"]]


def test_root_modules_import_nothing_above_them() -> None:
    for module in (ROOT / "llama_hub").glob("*.py"):
        if module.name in DOORS:
            continue
        for name in imports_of(module):
            assert name.split(".")[1] not in FOLDERS, (module.name, name)


def test_no_room_imports_the_public_api() -> None:
    for folder in FOLDERS:
        for module in (ROOT / folder).rglob("*.py"):
            assert "llama_hub.api" not in imports_of(module), module


def test_optional_packages_are_never_imported_at_the_top_of_the_light_folders() -> None:
    heavy = {"torch", "numpy", "safetensors", "sentencepiece", "boto3", "botocore", "azure"}
    heavy |= {"huggingface_hub", "fastapi", "uvicorn", "transformers", "gguf"}
    for folder in ("licenses", "cli"):
        for module in (ROOT / folder).rglob("*.py"):
            for node in parsed(module).body:
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else []
                )
                assert not heavy & {name.split(".")[0] for name in names}, module


# An abstract method and a contradiction in our own code are no errors that a caller handles.
NO_ERRORS = {"NotImplementedError", "AssertionError", "Exit"}


def raised_by(function: ast.AST) -> set[str]:
    """Names of the errors that a function's own body raises, not those of functions within it."""
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    nodes, names = list(ast.iter_child_nodes(function)), set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, inner):
            continue
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            names |= {ast.unparse(error).rpartition(".")[2]}
        nodes.extend(ast.iter_child_nodes(node))
    return {name for name in names if name[:1].isupper()} - NO_ERRORS


def unnamed_errors(body: list[ast.stmt]) -> list[str]:
    """Public functions and methods whose docstring does not name an error that they raise."""
    wrong: list[str] = []
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            wrong += unnamed_errors(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            missing = raised_by(node) - set(re.findall(r"\w+", ast.get_docstring(node) or ""))
            if missing and not node.name.startswith("_"):
                wrong.append(f"{node.name} does not name {', '.join(sorted(missing))}")
    return wrong


def is_command(statement: ast.stmt) -> bool:
    """Whether this is a command's own function, whose docstring is its help."""
    decorators = getattr(statement, "decorator_list", [])
    return any(".command(" in ast.unparse(decorator) for decorator in decorators)


def test_a_public_function_names_the_errors_that_it_raises() -> None:
    wrong = [
        f"{name}: {line}"
        for name, path in modules().items()
        for line in unnamed_errors([each for each in parsed(path).body if not is_command(each)])
    ]
    assert wrong == []


def test_an_error_that_is_not_named_is_found() -> None:
    silent = "def look(x):\n  'Looks.'\n  if x:\n    raise errors.NotFoundError(x)\n"
    assert unnamed_errors(ast.parse(silent).body) == ["look does not name NotFoundError"]
    assert unnamed_errors(ast.parse(f"class Room:\n{indent(silent, '  ')}").body) != []
    named = silent.replace("Looks.", "``NotFoundError`` if it is not there.")
    assert unnamed_errors(ast.parse(named).body) == []
    assert unnamed_errors(ast.parse(silent.replace("look", "_look")).body) == []


NO_NOUNS = {"What", "How", "Whether", "Which", "From", "Where", "When", "Is", "Who", "For", "To"}


def test_a_module_says_at_once_which_thing_it_is() -> None:
    """Its docstring starts with a noun; ``Mends`` and ``Reads`` tell of somebody else's deed."""
    wrong = {
        name: first
        for name, path in modules().items()
        if (first := (ast.get_docstring(parsed(path)) or "none").split()[0]) in NO_NOUNS
        or re.fullmatch(r"(Read|Mend|Take|Find|Render|Show|Make|Write)s?", first)
        or first == "none"
    }
    assert wrong == {}
