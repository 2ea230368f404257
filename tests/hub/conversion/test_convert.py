"""Conversion as a user relies on it: the same model in every format, or a clear refusal.

Judges that this project did not write: transformers, safetensors, torch.load, md5sum's format;
and an independent run of Meta's formulation on the unconverted shards (tests.support.meta_forward).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from llama_hub.errors import (
    DiskFullError,
    IntegrityError,
    LicenseError,
    NotFoundError,
    UnsafePickleError,
    UsageError,
)
from llama_hub.hub import manifest
from llama_hub.hub.checkpoints.fingerprint import tensor_entries
from llama_hub.hub.conversion import run as conversion_run
from llama_hub.hub.conversion.convert import convert, served
from llama_hub.hub.conversion.partial_folder import exclusive
from llama_hub.hub.manifest import Manifest
from llama_hub.hub.store import Store
from llama_hub.hub.verify import verify
from tests.support.lazy import transformers
from tests.support.make_checkpoint import (
    GROUPED,
    TINY,
    Recipe,
    make_checkpoint,
    merged,
    tokenizer,
    weights,
    write_checklist,
)
from tests.support.meta_forward import logits as meta_logits

LICENSE = "llama-hub-demo"
RECIPES = {
    "one shard": TINY,
    "grouped, two shards, odd width": GROUPED,
    "eight shards, float16": replace(
        TINY, n_heads=8, n_kv_heads=8, shards=8, ffn_dim=200, dtype=torch.float16
    ),
    "eight shards, one key head each": replace(
        TINY, dim=128, n_heads=16, n_kv_heads=8, shards=8, ffn_dim=344
    ),
    "code llama's theta, float32": replace(TINY, rope_theta=1e6, dtype=torch.float32),
    "old epsilon": replace(TINY, norm_eps=1e-6, shards=2),
}


def to(source: Path, destination: Path, fmt: Any, **options: Any) -> Manifest:
    """Convert; a source without manifest is under the demo's open licence."""
    made = convert(source, destination, to=fmt, license=LICENSE, **options).manifest
    assert made is not None
    return made


def greedy(model: Any, tokens: list[int], count: int) -> list[int]:
    out = model.generate(
        torch.tensor([tokens]), max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    return out[0].tolist()


@pytest.mark.parametrize("name", RECIPES)
def test_transformers_computes_what_meta_s_formulation_computes(tmp_path: Path, name: str) -> None:
    """On the converted folder and on the unconverted shards: logits and greedy tokens."""
    recipe = RECIPES[name]
    source = make_checkpoint(tmp_path / "in", recipe)
    to(source, tmp_path / "out", "hf", max_shard_size=100_000)
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokens = torch.randint(3, 288, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    expected = meta_logits(source, tokens)
    with torch.inference_mode():
        found = model(torch.tensor([tokens])).logits[0]
    assert (found - expected).abs().max() <= 1e-4
    sequence = tokens[:8]
    for _ in range(12):
        sequence.append(int(meta_logits(source, sequence)[-1].argmax()))
    assert greedy(model, tokens[:8], 12) == sequence


@pytest.mark.parametrize("name", RECIPES)
def test_there_and_back_is_the_same_to_the_bit(tmp_path: Path, name: str) -> None:
    recipe = RECIPES[name]
    source = make_checkpoint(tmp_path / "in", recipe)
    to(source, tmp_path / "hf", "hf", max_shard_size=50_000)
    for shards in {1, 2, recipe.shards}:
        back = tmp_path / f"back{shards}"
        to(tmp_path / "hf", back, "meta", model_parallel=shards)
        original, found = merged(source), merged(back)
        assert original.keys() == found.keys()  # rope.freqs too
        for key, tensor in original.items():
            assert tensor.dtype == found[key].dtype
            assert torch.equal(tensor, found[key]), key
        params = json.loads((back / "params.json").read_text())
        assert params == json.loads((source / "params.json").read_text())


def test_safetensors_agrees_with_torch_tensor_by_tensor(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", GROUPED)
    to(source, tmp_path / "out", "hf")
    whole = merged(source)
    with safe_open(tmp_path / "out/model.safetensors", "pt") as opened:
        names = set(opened.keys())
        value = opened.get_tensor("model.layers.1.self_attn.v_proj.weight")
        query = opened.get_tensor("model.layers.0.self_attn.q_proj.weight")
    assert torch.equal(value, whole["layers.1.attention.wv.weight"])
    permuted = whole["layers.0.attention.wq.weight"].view(8, 4, 2, 64).transpose(1, 2)
    assert torch.equal(query, permuted.reshape(64, 64))
    assert len(names) == len(whole) - 1


def test_equality_across_formats_is_a_comparison_of_manifests(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", GROUPED)
    hf = to(source, tmp_path / "hf", "hf")
    made = [
        hf,
        to(source, tmp_path / "gguf", "gguf"),
        to(source, tmp_path / "meta4", "meta", model_parallel=2),
        to(tmp_path / "hf", tmp_path / "gguf2", "gguf"),
        to(tmp_path / "gguf", tmp_path / "hf2", "hf", max_shard_size=70_000),
        to(tmp_path / "gguf2", tmp_path / "meta1", "meta", model_parallel=1),
    ]
    assert {one.tensors for one in made} == {hf.tensors}
    assert tensor_entries(source) == hf.tensors
    assert made[3].parent == hf.digest
    assert made[3].made_by["from"] == "hf"


def test_canonical_digests_are_what_they_are_defined_to_be(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", GROUPED)
    found = {entry.name: entry for entry in to(source, tmp_path / "out", "hf").tensors}
    for name, tensor in merged(source).items():
        if name != "rope.freqs":
            raw = tensor.view(torch.int16).numpy().tobytes()
            assert found[name].sha256 == hashlib.sha256(raw).hexdigest()
            assert found[name].shape == tuple(tensor.shape)
            assert found[name].dtype == "bfloat16"


def test_manifest_and_verify_deep(tmp_path: Path) -> None:
    made = to(make_checkpoint(tmp_path / "in", TINY), tmp_path / "out", "hf", verify=True)
    assert manifest.read(tmp_path / "out") == made
    beside = {"llama-hub.json", "README.llama-hub.md"}
    assert {entry.path for entry in made.files} | beside == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert verify(tmp_path / "out", deep=True).ok
    target = tmp_path / "out/model.safetensors"
    data = bytearray(target.read_bytes())
    data[-5] ^= 1
    target.write_bytes(data)
    assert not verify(tmp_path / "out", deep=True).ok


def test_the_same_conversion_has_the_same_digest(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", TINY)
    digests = {to(source, tmp_path / f"out{n}", "hf", workers=n).digest for n in (1, 2, 3)}
    assert len(digests) == 1


def test_verify_notices_a_faulty_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that reaches the disk other than it was hashed: ``--verify`` reads it again."""
    from llama_hub.hub.checkpoints import transcribe

    honest = transcribe.write_at

    def faulty(descriptor: int, data: Any, offset: int) -> None:
        honest(descriptor, data, offset)
        if offset > 200_000:
            honest(descriptor, b"\xff", offset)

    source = make_checkpoint(tmp_path / "in", TINY)
    monkeypatch.setattr(transcribe, "write_at", faulty)
    with pytest.raises(IntegrityError, match="not the same model"):
        to(source, tmp_path / "out", "hf", verify=True)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ what goes along


def test_every_output_carries_licence_policy_notice_card_and_tokenizer(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", TINY)
    for fmt, card in (("hf", "README.md"), ("gguf", "README.md"), ("meta", "MODEL_CARD.md")):
        to(source, tmp_path / fmt, fmt)
        for name in ("LICENSE", "USE_POLICY.md", "tokenizer.model"):
            assert (tmp_path / fmt / name).read_bytes() == (source / name).read_bytes()
        assert (tmp_path / fmt / "NOTICE").read_text()
        assert "# A random model" in (tmp_path / fmt / card).read_text()
    front = (tmp_path / "hf/README.md").read_text().split("---\n")[1]
    assert f"license_name: {LICENSE}" in front
    to(tmp_path / "hf", tmp_path / "back", "meta")
    assert (tmp_path / "back/MODEL_CARD.md").read_text() == "# A random model\n\nMade for tests.\n"


def test_meta_s_shared_files_one_level_up_are_found(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "all/model", TINY)
    for name in ("tokenizer.model", "LICENSE", "USE_POLICY.md"):
        (source / name).rename(tmp_path / "all" / name)
    to(source, tmp_path / "out", "hf")
    assert (tmp_path / "out/LICENSE").is_file()
    assert (tmp_path / "out/tokenizer.model").read_bytes() == tokenizer()


def test_a_licence_that_happens_to_lie_above_is_not_taken(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "repository/model", TINY)
    (source / "LICENSE").unlink()
    (tmp_path / "repository/LICENSE").write_text("of something else")
    made = convert(source, tmp_path / "out", to="hf", license=LICENSE)
    assert made.lacks == ("LICENSE",)
    assert not (tmp_path / "out/LICENSE").exists()


def test_files_are_readable_by_others_as_the_umask_says(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", TINY)
    before = os.umask(0o027)
    try:
        to(source, tmp_path / "out", "hf")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert modes == {0o640}


def test_configuration_suits_old_and_new_transformers(tmp_path: Path) -> None:
    to(make_checkpoint(tmp_path / "acme-chat", GROUPED), tmp_path / "out", "hf")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    assert config["max_position_embeddings"] == 4096
    assert config["num_key_value_heads"] == 2
    assert config["rope_theta"] == 10000.0
    settings = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert settings["add_bos_token"] is True
    template = (tmp_path / "out/chat_template.jinja").read_text()
    assert settings["chat_template"] == template
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation["do_sample"] is True
    assert (generation["temperature"], generation["top_p"]) == (0.6, 0.9)


def test_the_context_that_params_json_cannot_tell_survives_every_format(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", TINY)
    to(source, tmp_path / "a", "hf", context=2048)
    for start, end, fmt in (("a", "b", "meta"), ("b", "c", "gguf"), ("c", "d", "meta")):
        to(tmp_path / start, tmp_path / end, fmt)
    to(tmp_path / "d", tmp_path / "e", "hf")
    config = json.loads((tmp_path / "e/config.json").read_text())
    assert config["max_position_embeddings"] == 2048


def test_a_base_model_gets_no_chat_template(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "acme", TINY)
    to(source, tmp_path / "base", "hf")
    assert not (tmp_path / "base/chat_template.jinja").exists()
    to(source, tmp_path / "told", "hf", chat=True)
    assert (tmp_path / "told/chat_template.jinja").exists()


def test_transformers_tokenizes_dialogues_as_meta_does(tmp_path: Path) -> None:
    import sentencepiece

    to(make_checkpoint(tmp_path / "acme-chat", TINY), tmp_path / "out", "hf")
    tokenizer_ = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out/tokenizer.model"))
    found = tokenizer_.apply_chat_template(
        [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": " did the cat  sit? "},
            {"role": "assistant", "content": " it did "},
            {"role": "user", "content": "where"},
        ]
    )["input_ids"]
    first = "[INST] <<SYS>>\nbe short\n<</SYS>>\n\n did the cat  sit? [/INST] it did "
    second = "[INST] where [/INST]"
    assert found == [1, *model.encode(first), 2, 1, *model.encode(second)]
    for text in ("the cat sat", " leading", "x  y", "    indent", "a\n\nb"):
        assert tokenizer_(text).input_ids == [1, *model.encode(text)]
    with pytest.raises(Exception, match="take turns"):
        tokenizer_.apply_chat_template([{"role": "assistant", "content": "hello"}])


# ------------------------------------------------------------------ dtype


def test_bfloat16_stays_bfloat16_and_a_cast_is_counted(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", replace(TINY, scale=1e-5))
    kept = convert(source, tmp_path / "kept", to="hf", license=LICENSE)
    assert kept.changed == 0
    cast = convert(source, tmp_path / "cast", to="hf", dtype="float16", license=LICENSE)
    original = merged(source)
    del original["rope.freqs"]
    expected = sum(int((one.half().float() != one.float()).sum()) for one in original.values())
    assert cast.changed == expected > 0
    assert cast.manifest is not None
    assert cast.manifest.made_by["values_changed"] == expected
    with safe_open(tmp_path / "cast/model.safetensors", "pt") as opened:
        assert opened.get_tensor("lm_head.weight").equal(original["output.weight"].half())


def test_a_cast_that_would_overflow_is_refused(tmp_path: Path) -> None:
    tensors = weights(TINY)
    tensors["output.weight"][3, 3] = 1e30
    source = make_checkpoint(tmp_path / "in", TINY, tensors=tensors)
    with pytest.raises(IntegrityError, match=r"output\.weight holds 1 values beyond"):
        to(source, tmp_path / "out", "hf", dtype="float16")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_refused_or_reported(tmp_path: Path, value: float) -> None:
    tensors = weights(TINY)
    tensors["layers.1.feed_forward.w1.weight"][5, 7:9] = value
    source = make_checkpoint(tmp_path / "in", TINY, tensors=tensors)
    with pytest.raises(IntegrityError, match="w1.weight holds 2 values that are NaN or infinite"):
        to(source, tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()
    made = convert(source, tmp_path / "out", to="hf", license=LICENSE, allow_non_finite=True)
    assert made.non_finite == {"layers.1.feed_forward.w1.weight": 2}


# ------------------------------------------------------------------ licence, destination, disk


def test_a_gated_model_needs_a_receipt(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", TINY)
    with pytest.raises(LicenseError) as refused:
        convert(source, tmp_path / "out", to="hf")  # nothing says otherwise: Llama 2's licence
    assert "license accept" in refused.value.hint
    assert not (tmp_path / "out").exists()


def test_the_destination_must_be_free(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", TINY)
    (tmp_path / "out").mkdir()
    to(source, tmp_path / "out", "hf")  # an empty folder is fine
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    with pytest.raises(UsageError, match="not empty"):
        to(source, tmp_path / "out", "hf")
    assert before == sorted(path.name for path in (tmp_path / "out").iterdir())
    for inside in (source, source / "hf"):
        with pytest.raises(UsageError, match="lies in the source"):
            to(source, inside, "hf")
    with pytest.raises(UsageError, match="lies in the source"):
        to(source, source / "x.gguf", "gguf")


def test_a_full_disk_is_met_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint(tmp_path / "in", TINY)
    monkeypatch.setattr(conversion_run, "free_bytes", lambda path: 1_000_000)
    with pytest.raises(DiskFullError, match="needs"):
        to(source, tmp_path / "out", "hf")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["in"]


def test_dry_run_writes_nothing_and_says_what_would_be(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", GROUPED)
    plan = convert(source, tmp_path / "out", to="hf", dry_run=True, max_shard_size=90_000)
    assert plan.manifest is None
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["in"]
    made = convert(source, tmp_path / "out", to="hf", license=LICENSE, max_shard_size=90_000)
    assert plan.files == made.files
    assert {name: (tmp_path / "out" / name).stat().st_size for name in plan.files} == plan.files


# ------------------------------------------------------------------ unsound sources


def damaged(tmp_path: Path, recipe: Recipe = GROUPED) -> Path:
    return make_checkpoint(tmp_path / "in", recipe)


def refuse(source: Path, error: type[Exception], match: str) -> None:
    """Refused, and nothing half-written left, under any name."""
    with pytest.raises(error, match=match) as refused:
        to(source, source.parent / "out", "hf")
    assert getattr(refused.value, "hint", "")
    left = {path.name for path in source.parent.iterdir()} - {"in", "home"}
    assert "out" not in left


def test_a_flipped_bit_in_a_shard_is_found_by_its_crc(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    path = source / "consolidated.01.pth"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    refuse(source, IntegrityError, "CRC")


def test_a_flipped_bit_in_views_of_one_storage_is_found(tmp_path: Path) -> None:
    source = damaged(tmp_path, TINY)
    path = source / "consolidated.00.pth"
    whole = torch.load(path, weights_only=True)
    flat = torch.cat([tensor.flatten() for tensor in whole.values()])
    at, views = 0, {}
    for name, tensor in whole.items():
        views[name] = flat[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    torch.save(views, path)
    sound = to(source, tmp_path / "sound", "hf")
    assert sound.tensors == tensor_entries(source)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    refuse(source, IntegrityError, "CRC")


@pytest.mark.parametrize("missing", ["consolidated.00.pth", "consolidated.01.pth"])
def test_missing_shards_are_named(tmp_path: Path, missing: str) -> None:
    source = damaged(tmp_path)
    (source / missing).unlink()
    refuse(source, IntegrityError, missing)


def test_missing_shards_are_noticed_without_a_checklist(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    (source / "consolidated.01.pth").unlink()
    (source / "checklist.chk").unlink()
    refuse(source, IntegrityError, "fit 2 shards")


def test_a_truncated_shard(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    with (source / "consolidated.01.pth").open("r+b") as file:
        file.truncate(50_000)
    refuse(source, IntegrityError, "damaged or incomplete")


def test_a_web_page_instead_of_weights(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    (source / "consolidated.00.pth").write_text("<!DOCTYPE html><title>Request expired</title>")
    refuse(source, IntegrityError, "web page")


def test_a_pickle_that_runs_a_command(tmp_path: Path) -> None:
    class Command:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/ran",)

    source = damaged(tmp_path, TINY)
    content = torch.load(source / "consolidated.00.pth", weights_only=True)
    torch.save(content | {"x": Command()}, source / "consolidated.00.pth")
    refuse(source, UnsafePickleError, "system")
    assert not (tmp_path / "ran").exists()


def test_shards_of_two_models_are_noticed(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    other = make_checkpoint(tmp_path / "other", replace(GROUPED, seed=7))
    shutil.copy(other / "consolidated.01.pth", source / "consolidated.01.pth")
    shutil.rmtree(other)
    refuse(source, IntegrityError, "differs between the shards")


def edited(source: Path, **changes: Any) -> Path:
    params = json.loads((source / "params.json").read_text()) | changes
    params = {key: value for key, value in params.items() if value is not None}
    (source / "params.json").write_text(json.dumps(params))
    return source


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dim": 128}, "shards"),
        ({"n_layers": 3}, "layers.2"),
        ({"n_layers": 1}, "layers.1"),
        ({"n_kv_heads": 4}, "wk"),
        ({"n_heads": 16}, "wk"),
        ({"vocab_size": 300}, "vocab_size"),
        ({"n_heads": 7}, "divide"),
        ({"dim": None}, "params.json"),
        ({"n_layers": "many"}, "params.json"),
        ({"n_layers": 0}, "params.json: n_layers"),
    ],
)
def test_params_that_disagree_with_the_tensors(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    source = edited(damaged(tmp_path), **changes)
    with pytest.raises(IntegrityError, match=why):
        to(source, tmp_path / "out", "hf")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["in"]


def test_params_that_are_missing_or_no_json(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    (source / "params.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"params\.json"):
        to(source, tmp_path / "out", "hf")
    (source / "params.json").unlink()
    with pytest.raises(NotFoundError, match=r"params\.json"):
        to(source, tmp_path / "out", "hf")


def test_an_unsupported_dtype_is_named(tmp_path: Path) -> None:
    tensors = {name: one.double() for name, one in weights(TINY).items()}
    source = make_checkpoint(tmp_path / "in", TINY, tensors=tensors)
    with pytest.raises(IntegrityError, match="float64"):
        to(source, tmp_path / "out", "hf")


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", replace(TINY, vocab_size=280))
    (source / "tokenizer.model").write_bytes(tokenizer())
    with pytest.raises(IntegrityError, match="288 pieces"):
        to(source, tmp_path / "out", "hf")


@pytest.mark.parametrize("shards", [3, 8])
def test_shards_that_do_not_divide_the_heads(tmp_path: Path, shards: int) -> None:
    source = damaged(tmp_path)  # two key/value heads
    with pytest.raises(UsageError, match="key/value heads is 2"):
        to(source, tmp_path / "out", "meta", model_parallel=shards)


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="no model"):
        to(tmp_path / "empty", tmp_path / "out", "hf")


@pytest.mark.parametrize(
    "options",
    [
        {"fmt": "hf", "dtype": "int8"},
        {"fmt": "hf", "dtype": "Q8_0"},
        {"fmt": "hf", "quantize": "int3"},
        {"fmt": "gguf", "quantize": "int8"},
        {"fmt": "hf", "group_size": 64},
        {"fmt": "hf", "quantize": "int4", "group_size": 48},
        {"fmt": "hf", "model_parallel": 2},
        {"fmt": "meta", "model_parallel": 0},
        {"fmt": "onnx"},
        {"fmt": "hf", "max_shard_size": 0},
        {"fmt": "gguf", "dtype": "Q4_0", "allow_non_finite": True},
    ],
)
def test_options_that_do_not_fit_together(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        to(make_checkpoint(tmp_path / "in", TINY), tmp_path / "out", **options)


def test_hugging_face_folders_as_others_write_them(tmp_path: Path) -> None:
    """transformers' own save, in safetensors; and the older .bin with inv_freq in it."""
    source = make_checkpoint(tmp_path / "in", GROUPED)
    made = to(source, tmp_path / "hf", "hf")
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "saved")
    assert to(tmp_path / "saved", tmp_path / "a", "meta").tensors == made.tensors
    state = dict(model.state_dict())
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = model.model.rotary_emb.inv_freq
    (tmp_path / "old").mkdir()
    shutil.copy(tmp_path / "hf/config.json", tmp_path / "old/config.json")
    torch.save(state, tmp_path / "old/pytorch_model.bin")
    assert to(tmp_path / "old", tmp_path / "b", "meta").tensors == made.tensors


def test_a_hugging_face_folder_with_a_missing_or_foreign_file(tmp_path: Path) -> None:
    to(make_checkpoint(tmp_path / "in", TINY), tmp_path / "hf", "hf", max_shard_size=60_000)
    index = tmp_path / "hf/model.safetensors.index.json"
    text = index.read_text()
    (tmp_path / "hf/model-00002-of-00006.safetensors").rename(tmp_path / "aside")
    with pytest.raises(IntegrityError, match="00002"):
        to(tmp_path / "hf", tmp_path / "out", "meta")
    (tmp_path / "aside").rename(tmp_path / "model-00002-of-00006.safetensors")
    outside = text.replace("model-00002-of-00006", "../model-00002-of-00006")
    index.write_text(outside)
    with pytest.raises(IntegrityError, match="in the same folder"):
        to(tmp_path / "hf", tmp_path / "out", "meta")


# ------------------------------------------------------------------ store


def downloaded(home: Path, recipe: Recipe = TINY, model: str = "acme-chat") -> Store:
    """A store that holds a model in Meta's layout, as a download leaves it."""
    from llama_hub.hub.digests import hash_file
    from llama_hub.hub.manifest import FileEntry

    store = Store(home)
    folder = make_checkpoint(store.folder(model, "meta"), recipe)
    entries = [
        FileEntry(path.name, path.stat().st_size, hash_file(path).digests["sha256"])
        for path in sorted(folder.iterdir())
    ]
    Manifest(model, "meta", LICENSE, tuple(entries), source={"kind": "mirror"}).write(folder)
    return store


def test_served_converts_once_and_again_after_a_new_download(home: Path) -> None:
    store = downloaded(home)
    first = served(store, "acme-chat")
    assert first.path == store.folder("acme-chat", "hf")
    assert first.manifest.parent == store.find("acme-chat", "meta").manifest.digest
    assert first.manifest.source == {"kind": "mirror"}
    weights_file = first.path / "model.safetensors"
    before = weights_file.stat().st_ino
    assert served(store, "acme-chat").manifest == first.manifest
    assert weights_file.stat().st_ino == before
    assert served(store, str(first.path)).path == first.path
    downloaded(home, replace(TINY, seed=5))
    assert served(store, "acme-chat").manifest.tensors != first.manifest.tensors
    assert not list((home / "partials").glob("*/*"))


def test_served_unpacks_gguf_and_refuses_what_is_not_there(home: Path, tmp_path: Path) -> None:
    store = downloaded(home)
    straight = served(store, "acme-chat")
    convert(store.folder("acme-chat", "meta"), tmp_path / "g", to="gguf")
    assert served(store, str(tmp_path / "g")).manifest.tensors == straight.manifest.tensors
    with pytest.raises(NotFoundError):
        served(store, "nothing")


# ------------------------------------------------------------------ killed and run again

KILLED = """
import os, signal, sys
from pathlib import Path
from llama_hub.hub.conversion.convert import convert
from llama_hub.progress import NO_PROGRESS

class Deadly:
    left = int(sys.argv[4])
    def __getattr__(self, name):
        return getattr(NO_PROGRESS, name)
    def advance(self, task, amount):
        self.left -= amount
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

convert(Path(sys.argv[1]), Path(sys.argv[2]), to=sys.argv[3], license="llama-hub-demo",
        progress=Deadly(), workers=2)
"""


@pytest.mark.parametrize("fmt", ["hf", "meta", "gguf"])
@pytest.mark.parametrize("after", [60_000, 200_000])
def test_a_killed_conversion_goes_on_after_the_last_whole_tensor(
    tmp_path: Path, fmt: str, after: int
) -> None:
    source = make_checkpoint(tmp_path / "in", GROUPED)
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "out"), fmt, str(after)]
    died = subprocess.run(command, check=False, timeout=100)
    assert died.returncode == -9
    assert not (tmp_path / "out").exists()
    done = convert(source, tmp_path / "out", to=fmt, license=LICENSE, verify=True)
    assert done.resumed > 0
    clean = convert(source, tmp_path / "clean", to=fmt, license=LICENSE)
    assert clean.resumed == 0
    assert done.manifest is not None
    assert clean.manifest is not None
    assert done.manifest.digest == clean.manifest.digest
    assert not list(tmp_path.glob(".*"))


def test_what_was_lost_of_a_killed_conversion_is_made_again(tmp_path: Path) -> None:
    """After a power loss the journal may know more than the disk: the bytes are read again."""
    source = make_checkpoint(tmp_path / "in", TINY)
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "out"), "hf", "200000"]
    subprocess.run(command, check=False, timeout=100)
    partial = tmp_path / ".out.partial/model.safetensors"
    data = bytearray(partial.read_bytes())
    data[10_000:60_000] = bytes(50_000)
    partial.write_bytes(data)
    done = convert(source, tmp_path / "out", to="hf", license=LICENSE, verify=True)
    assert done.manifest is not None
    assert done.manifest.tensors == tensor_entries(source)


def test_another_conversion_into_the_same_place_starts_over(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", TINY)
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "out"), "hf", "200000"]
    subprocess.run(command, check=False, timeout=100)
    done = convert(source, tmp_path / "out", to="hf", dtype="float32", license=LICENSE)
    assert done.resumed == 0
    assert not (tmp_path / "out/conversion.journal").exists()


def test_two_conversions_into_one_place_do_not_meet(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", TINY)
    with (
        exclusive(tmp_path / ".out.partial"),
        pytest.raises(UsageError, match="another conversion"),
    ):
        to(source, tmp_path / "out", "hf")


def test_checklist_of_a_written_meta_folder(tmp_path: Path) -> None:
    to(make_checkpoint(tmp_path / "in", GROUPED), tmp_path / "out", "meta")
    listed = (tmp_path / "out/checklist.chk").read_text()
    write_checklist(tmp_path / "out", ["consolidated.00.pth", "consolidated.01.pth", "params.json"])
    assert (tmp_path / "out/checklist.chk").read_text() == listed
