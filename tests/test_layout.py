"""The layout's rules: every package is listed, linked, checked; imports point one way."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("licenses", "hub", "inference", "deploy", "backends", "cli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


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


def imports_of(module: Path) -> set[str]:
    """Names below ``llama_hub`` that a module imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
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
            for node in ast.parse(module.read_text(encoding="utf-8")).body:
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else []
                )
                assert not heavy & {name.split(".")[0] for name in names}, module
