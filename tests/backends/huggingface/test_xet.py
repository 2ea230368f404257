"""Uploads through Xet, the library's default, against a content store that takes what is sent."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from llama_hub.backends.huggingface.storage import Upload
from llama_hub.deploy.backend import Artifact
from llama_hub.progress import NO_PROGRESS
from tests.backends.huggingface.conftest import Loopback


def test_weights_go_through_xet_and_are_compared_afterwards(
    loopback: Loopback, demo: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    loopback.hub.xet_source.append(demo.folder)
    name = "acme/llama-hub-chat-0"
    client = loopback.backend().inventory.client
    Upload(client, name, demo, NO_PROGRESS).run({"state": "ready"}, {})
    assert loopback.hub.objects == {}, "nothing went through LFS"
    assert any("xet-write-token" in path for _, path in loopback.hub.requests)
    assert loopback.hub.xorbs > 0
    files = loopback.hub.repositories[name]
    for entry in demo.manifest.files:
        assert files[entry.path] == (demo.folder / entry.path).read_bytes()
