"""The whole road as a newcomer walks it, in a process of its own and from an empty home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import spawn

pytest.importorskip("torch")

STAGES = ["download", "verify", "convert", "serve", "chat"]
ANSWER = (
    "With llama-hub you can download Llama 2 models, verify them, convert them, serve them and "
    "deploy them to a cloud."
)


def test_from_an_empty_home_to_a_chat_answer_and_again_reusing_all(home: Path) -> None:
    first = spawn(["quickstart", "--json"])
    assert first.code == 0, first.stderr
    assert first.json["reply"] == ANSWER
    assert [stage["name"] for stage in first.json["stages"]] == STAGES
    assert not any(stage["reused"] for stage in first.json["stages"])

    second = spawn(["quickstart", "--json", "--quiet"])
    assert second.code == 0
    assert second.stderr == ""
    assert second.json["manifest"] == first.json["manifest"]
    reused = {stage["name"]: stage["reused"] for stage in second.json["stages"]}
    assert reused["download"]
    assert reused["convert"]


def test_killed_half_way_the_next_run_shows_each_stage_the_answer_and_what_comes_next(
    home: Path,
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "llama_hub", "quickstart"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert child.stderr is not None
    for line in child.stderr:
        if line.lstrip().startswith("download"):
            break
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    shown = spawn(["quickstart"])
    assert shown.code == 0, shown.stderr
    for stage in STAGES:
        assert f"\n  {stage}" in shown.stderr
    assert ANSWER in shown.stdout
    assert "llama-hub download llama-2-7b-chat" in shown.stdout


def test_a_damaged_model_is_exit_5_and_names_the_mend(home: Path) -> None:
    assert spawn(["download", "llama-demo-chat", "--quiet"]).code == 0
    shard = home / "models" / "llama-demo-chat" / "meta" / "consolidated.00.pth"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    refused = spawn(["quickstart", "--json"])
    assert refused.code == 5
    assert "consolidated.00.pth" in refused.json["error"]["message"]
    assert "--repair" in refused.json["error"]["hint"]
