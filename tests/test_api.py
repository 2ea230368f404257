"""The public API: what ``import llama_hub`` names, what that costs, and its example."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llama_hub
from llama_hub import api, errors

pytest.importorskip("torch")

from tests.support import models
from tests.support.fake_hub import FakeHub

MODEL = "llama-demo-chat"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, llama_hub; print(*(m for m in sys.modules if m.startswith('llama_hub')))"
    assert set(run(code).split()) - {"llama_hub", "llama_hub._version"} == set()
    heavy = "{'torch', 'httpx', 'pydantic', 'yaml', 'numpy'} & set(sys.modules)"
    assert run(f"import sys, llama_hub; dir(llama_hub); print({heavy})").strip() == "set()"


def test_every_public_name_is_there_and_documented() -> None:
    for name in llama_hub.__all__:
        value = getattr(llama_hub, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError, match="'found'"):
        llama_hub.found  # noqa: B018


def test_deploy_is_a_package_and_a_function() -> None:
    code = "import llama_hub.deploy.spec, llama_hub; print(callable(llama_hub.deploy))"
    assert run(code).strip() == "True"
    code = "import llama_hub; print(callable(llama_hub.deploy), llama_hub.deploy.__name__)"
    assert run(code).split() == ["True", "llama_hub.deploy"]


def test_the_example_of_the_documentation_runs() -> None:
    example = re.search(r"::\n\n(    import llama_hub\n.*?)\n\n\S", str(api.__doc__), re.DOTALL)
    assert example is not None
    code = re.sub(r"^    ", "", example[1], flags=re.MULTILINE)
    try:
        url, served = run(code).splitlines()
    finally:
        deleted = [sys.executable, "-m", "llama_hub", "delete", "chat", "--yes", "--json"]
        subprocess.run(deleted, capture_output=True, check=True)
    assert url.startswith("http://127.0.0.1:")
    assert served.split()[1] == "True"


def test_errors_carry_message_hint_and_code(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFoundError) as raised:
        llama_hub.verify("llama-demo")
    assert raised.value.exit_code == 6
    assert raised.value.hint
    with pytest.raises(errors.LicenseError):
        llama_hub.download("llama-2-7b", source="mirror", url=str(_mirror(tmp_path)))


def _mirror(folder: Path) -> Path:
    """A mirror that has the licence and nothing else, which is all that is read before the gate."""
    (folder / "LICENSE").write_text("a licence", encoding="utf-8")
    return folder


def test_a_repository_may_have_a_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with FakeHub("acme/tuned", models.hf_files(size=32_000), gated=False) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        done = llama_hub.download("acme/tuned", license="other-open", name="ours")
    assert done.manifest.model == "ours"
    with pytest.raises(errors.UsageError, match="for repositories"):
        llama_hub.download(MODEL, name="ours")


def test_convert_writes_a_folder_or_the_store(tmp_path: Path) -> None:
    llama_hub.download(MODEL)
    stored = llama_hub.convert(MODEL)
    assert json.loads((stored.path / "llama-hub.json").read_text())["format"] == "hf"
    made = llama_hub.convert(MODEL, tmp_path / "small", to="hf", quantize="int8")
    assert llama_hub.verify(made.path, deep=True).ok
