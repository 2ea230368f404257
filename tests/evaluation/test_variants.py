"""Variants: the most used comparison is one command."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_hub.cli.eval_variants import Variant, prepared, variants
from llama_hub.cli.output import Output
from llama_hub.errors import LlamaHubError
from llama_hub.hub.gguf_file import manifest_path
from tests.support.demo_model import demo_folder


def test_the_words_of_also(tmp_path: Path) -> None:
    assert variants("m", "int8", [], tmp_path) == [Variant("m", "int8", tmp_path)]
    listed = variants("m", None, ["int4", "q4_k_m", "my-deployment", "http://x/v1"], tmp_path)
    assert [(v.target, v.quantize, v.gguf) for v in listed] == [
        ("m", None, None),
        ("m", "int4", None),
        ("m", None, "Q4_K_M"),
        ("my-deployment", None, None),
        ("http://x/v1", None, None),
    ]
    assert len({v.folder for v in listed}) == 5
    for also in (["int8"] * 12, ["Q8_0"]):
        with pytest.raises(LlamaHubError) as raised:
            variants("http://x", None, also, tmp_path)
        assert raised.value.exit_code == 2


def test_a_gguf_variant_is_made_once(tmp_path: Path, home: Path) -> None:
    demo_folder(home)
    out = Output(quiet=True)
    variant = Variant("llama-demo-chat", None, tmp_path / "1", "Q8_0")
    file = Path(prepared(out, variant))
    assert file.name == "llama-demo-chat.Q8_0.gguf"
    assert manifest_path(file).is_file()
    stamp = file.stat().st_mtime_ns
    assert prepared(out, variant) == str(file)
    assert file.stat().st_mtime_ns == stamp
