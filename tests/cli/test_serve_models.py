"""``llama-hub serve A B`` with real models: each under its name, loaded when asked for."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import ExitCode
from llama_hub.hub.manifest import read
from tests.cli.test_serve import get, post, served
from tests.support.command import run
from tests.support.demo_model import CHAT, demo_folder
from tests.support.local import until

BASE = "llama-demo"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with both demo models in it, converted."""
    home = tmp_path_factory.mktemp("filled")
    for name in (CHAT, BASE):
        demo_folder(home, name)
    return home


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in tasks for child in path.read_text().split()]


def test_both_are_offered_and_end_with_their_front(filled: Path) -> None:
    arguments = (CHAT, BASE, "--port", "0", "--context", "128", "--idle-unload", "1h")
    with served(filled, *arguments) as (process, ready):
        url = ready["url"]
        assert {"url", "model", "manifest", "engine", "device", "dtype", "models"} == set(ready)
        assert [(each["model"], each["state"]) for each in ready["models"]] == [
            (CHAT, "ready"),
            (BASE, "unloaded"),
        ]
        listed = get(url + "/v1/models").json()["data"]
        manifests = [read(filled / "models" / name / "hf").digest for name in (CHAT, BASE)]
        assert [each["manifest"] for each in listed] == manifests
        question: dict[str, Any] = {"messages": [{"role": "user", "content": "Who are you?"}]}
        answer = post(url + "/v1/chat/completions", question | {"model": CHAT, "max_tokens": 4})
        assert answer.json()["model"] == CHAT
        body = {"prompt": "Once upon", "max_tokens": 4, "model": BASE}
        answer = post(url + "/v1/completions", body)
        assert (answer.status_code, answer.json()["model"]) == (200, BASE)
        refused = post(url + "/v1/chat/completions", question | {"model": BASE})
        assert refused.json()["error"]["code"] == "base_model", "the process's own words"
        stated = get(url + "/manifest").json()
        assert stated["manifest"] == manifests[0]
        assert [each["manifest"] for each in stated["models"]] == manifests
        text = get(url + "/metrics").text
        for name in (CHAT, BASE):
            assert f'vllm:generation_tokens_total{{model_name="{name}"}} 4' in text
        assert text.count("# TYPE vllm:generation_tokens_total") == 1
        own = children(process.pid)
        assert len(own) == 2
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        until(lambda: not any(_is_running(pid) for pid in own))


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((CHAT, CHAT), ExitCode.USAGE, "named twice"),
        ((CHAT, BASE, "--served-name", "x"), ExitCode.USAGE, "for one model"),
        ((CHAT, BASE, "--idle-unload", "0"), ExitCode.USAGE, "is no time"),
        ((CHAT, BASE, "--idle-unload", "soon"), ExitCode.USAGE, "not a duration"),
        ((CHAT, "llama-nine"), ExitCode.NOT_FOUND, "llama-nine"),
    ],
)
def test_wrong_calls_are_named(
    filled: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: ExitCode,
    said: str,
) -> None:
    monkeypatch.setenv("LLAMA_HUB_HOME", str(filled))
    done = run("serve", *arguments, "--json")
    assert done.code == code
    assert said in done.json["error"]["message"]


@pytest.mark.exhaustive
def test_plan_shows_each_and_the_sum(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_HUB_HOME", str(filled))
    done = run("serve", CHAT, BASE, "--plan", "--json", "--max-batch", "2")
    assert done.code == 0
    assert [each["model"] for each in done.json["models"]] == [CHAT, BASE]
    assert {each["max_batch"] for each in done.json["models"]} == {2}
    assert done.json["least_bytes"] == sum(each["least_bytes"] for each in done.json["models"])
