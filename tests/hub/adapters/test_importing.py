"""The import of adapters: what is taken, what is recorded, what is refused and by which key."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llama_hub.errors import ExitCode, IntegrityError, LlamaHubError, UsageError
from llama_hub.hub.adapters import manifest
from llama_hub.hub.adapters.bases import check_base
from llama_hub.hub.adapters.importing import Request, architecture_of, import_adapter
from llama_hub.hub.adapters.lora_config import LoraConfig, parse
from llama_hub.hub.adapters.store import AdapterStore, StoredAdapter, check_files
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.store import Store, StoredModel
from llama_hub.licenses.gate import Gate
from llama_hub.licenses.ledger import Ledger
from tests.support.adapters import make_adapter
from tests.support.command import run
from tests.support.demo_model import CHAT, demo_folder

STEM = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    demo_folder(folder)
    return folder


@pytest.fixture(scope="module")
def base(place: Path) -> StoredModel:
    return Store(place).find(CHAT)


@pytest.fixture(scope="module")
def architecture(base: StoredModel) -> Architecture:
    return architecture_of(base)


def taken(
    folder: Path, base: StoredModel, place: Path, adapters: Path, **more: Any
) -> StoredAdapter:
    gate = Gate(Ledger(place / "licenses" / "ledger.jsonl"))
    request = Request(str(folder), base, gate=gate, **more)
    return import_adapter(request, Store(place), AdapterStore(adapters))[0]


def test_what_is_recorded(
    tmp_path: Path, place: Path, base: StoredModel, architecture: Architecture
) -> None:
    folder = make_adapter(tmp_path / "mine", architecture, rank=4, alpha=8)
    (folder / "optimizer.pt").write_bytes(b"x")
    (folder / "README.md").write_text("# Mine\n")
    stored = taken(folder, base, place, tmp_path)
    found = manifest.read(stored.path)
    assert (found.id, found.base.model, found.base.manifest) == (
        "mine", CHAT, base.manifest.digest,
    )  # fmt: skip
    assert (found.license, found.rank, found.alpha) == (base.manifest.license, 4, 8.0)
    assert found.receipt
    assert sorted(path.name for path in stored.path.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "llama-hub-adapter.json",
    ]  # fmt: skip
    assert len(found.tensors) == 2 * 7 * architecture.n_layers
    check_files(stored)


def test_the_old_bin_has_the_same_content(
    tmp_path: Path, place: Path, base: StoredModel, architecture: Architecture
) -> None:
    new = taken(make_adapter(tmp_path / "new", architecture), base, place, tmp_path)
    old = taken(make_adapter(tmp_path / "old", architecture, binary=True), base, place, tmp_path)
    assert old.manifest.content == new.manifest.content
    assert old.manifest.digest != new.manifest.digest


def _drop(key: str) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda config, tensors: [tensors.pop(k) for k in list(tensors) if key in k] and None


def _set(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda config, tensors: config.update({key: value})


def _add(key: str, *shape: int) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda config, tensors: tensors.update({key: torch.ones(*shape)})


def _zero(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for key in tensors:
        if "lora_B" in key:
            tensors[key].zero_().neg_()  # -0.0 does nothing either


def _nan(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors[f"{STEM}.lora_A.weight"][0, 3] = torch.nan


def _reshape(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors[f"{STEM}.lora_B.weight"] = torch.ones(96, 8)


def _prefix(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for key in list(tensors):
        tensors[key.removeprefix("base_model.model.")] = tensors.pop(key)


REFUSED = {
    "DoRA": (_set("use_dora", True), "use_dora"),
    "DoRA by its tensors": (_add(f"{STEM}.lora_magnitude_vector", 128), "lora_magnitude_vector"),
    "heads": (_set("modules_to_save", ["score"]), "modules_to_save"),
    "a head by its tensors": (_add("base_model.model.score.weight", 1, 128), "score.weight"),
    "resized": (_add("base_model.model.lm_head.weight", 1281, 128), "lm_head.weight"),
    "biases": (_set("bias", "all"), "bias"),
    "another method": (_set("peft_type", "IA3"), "peft_type"),
    "an unknown key": (_set("use_quantum", {"a": 1}), "use_quantum"),
    "a changed base": (_set("init_lora_weights", "pissa_niter_16"), "init_lora_weights"),
    "a slow pattern": (_set("rank_pattern", {"(a|a)*b": 4}), "rank_pattern"),
    "no rank": (_set("r", 0), "r: "),
    "another rank": (_set("r", 16), "says rank 16"),
    "a missing B": (_drop(f"{STEM}.lora_B"), f"{STEM}.lora_B.weight is missing"),
    "a missing module": (_drop(f"{STEM}."), f"{STEM}.lora_A.weight is missing"),
    "other prefixes": (_prefix, "model.layers.0"),
    "another shape": (_reshape, f"{STEM}.lora_B.weight"),
    "a stray tensor": (_add("base_model.model.model.layers.0.mlp.w9.weight", 2, 2), "mlp.w9"),
    "zero": (_zero, "does nothing"),
    "NaN": (_nan, "layers.1.attention.wq.lora_a"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(
    case: str, tmp_path: Path, place: Path, base: StoredModel, architecture: Architecture
) -> None:
    change, named = REFUSED[case]
    folder = make_adapter(tmp_path / "bad", architecture, change=change)
    with pytest.raises(LlamaHubError) as refusal:
        taken(folder, base, place, tmp_path)
    assert refusal.value.exit_code in (ExitCode.INTEGRITY, ExitCode.USAGE)
    assert named in refusal.value.message
    assert str(tmp_path) not in refusal.value.message or "bad" in refusal.value.message
    assert not (tmp_path / "adapters").exists()


def test_a_pickle_that_would_run_is_not_run(
    tmp_path: Path, place: Path, base: StoredModel, architecture: Architecture
) -> None:
    folder = make_adapter(tmp_path / "bad", architecture, binary=True)

    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({f"{STEM}.lora_A.weight": Bomb()}, folder / "adapter_model.bin")
    with pytest.raises(IntegrityError):
        taken(folder, base, place, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_pipe_is_not_waited_for(
    tmp_path: Path, place: Path, base: StoredModel, architecture: Architecture
) -> None:
    folder = make_adapter(tmp_path / "bad", architecture)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(IntegrityError):
            taken(folder, base, place, tmp_path)


def test_a_link_in_the_store_is_left_alone(
    tmp_path: Path, place: Path, base: StoredModel, architecture: Architecture
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "mine").symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match="is a link"):
        taken(make_adapter(tmp_path / "mine", architecture), base, place, tmp_path)
    assert not list(elsewhere.iterdir())


def test_a_name_is_not_taken_by_another_adapter(
    tmp_path: Path, place: Path, base: StoredModel, architecture: Architecture
) -> None:
    taken(make_adapter(tmp_path / "mine", architecture), base, place, tmp_path)
    with pytest.raises(UsageError, match="another adapter"):
        taken(make_adapter(tmp_path / "mine", architecture, seed=1), base, place, tmp_path)


def test_a_flipped_byte_is_found(
    tmp_path: Path, place: Path, base: StoredModel, architecture: Architecture
) -> None:
    stored = taken(make_adapter(tmp_path / "mine", architecture), base, place, tmp_path)
    path = stored.path / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors: its SHA-256"):
        check_files(stored)


def test_the_base_and_what_is_made_of_it_but_no_other(
    tmp_path: Path, place: Path, base: StoredModel, architecture: Architecture
) -> None:
    stored = taken(make_adapter(tmp_path / "mine", architecture), base, place, tmp_path)
    store = Store(place)
    converted = store.find(CHAT, "hf")
    assert converted.manifest.parent == base.manifest.digest
    check_base(stored.manifest, CHAT, converted.manifest, store)
    other = replace(base.manifest, files=base.manifest.files[1:])
    with pytest.raises(IntegrityError, match="is for another base"):
        check_base(stored.manifest, CHAT, other, store)


def test_a_base_of_the_catalogue_that_is_named_is_the_one(
    tmp_path: Path, place: Path, base: StoredModel, architecture: Architecture
) -> None:
    named = _set("base_model_name_or_path", "meta-llama/Llama-2-7b-hf")
    folder = make_adapter(tmp_path / "mine", architecture, change=named)
    with pytest.raises(IntegrityError, match="trained on llama-2-7b "):
        taken(folder, base, place, tmp_path)
    taken(folder, base, place, tmp_path, other_base=True)


def config(**changes: Any) -> LoraConfig:
    return parse({"peft_type": "LORA", "r": 8, "lora_alpha": 16} | changes, "test")


def test_scales_by_pattern_and_of_rslora() -> None:
    patterns = config(
        rank_pattern={"self_attn.q_proj": 4, r"^model\.layers\.1\.mlp\.up_proj": 2},
        alpha_pattern={"model.layers.0.self_attn.q_proj": 1},
    )
    assert patterns.scale("model.layers.0.self_attn.q_proj") == 0.25
    assert patterns.scale("model.layers.1.self_attn.q_proj") == 4
    assert patterns.scale("model.layers.1.mlp.up_proj") == 8
    assert patterns.scale("model.layers.11.mlp.up_proj") == 2
    assert config(use_rslora=True, r=16, lora_alpha=8).scale("any") == 2


def test_the_commands(
    place: Path, tmp_path: Path, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_adapter(tmp_path / "mine", architecture)
    monkeypatch.setenv("LLAMA_HUB_HOME", str(place))
    made = run("adapter", "import", str(folder), "--base", CHAT, "--json")
    assert made.code == 0, made.stderr
    listed = run("adapter", "list", "--json").json["adapters"]
    assert [one["id"] for one in listed] == ["mine"]
    assert {"base", "base_manifest", "rank", "alpha", "manifest", "license"} <= listed[0].keys()
    shown = run("adapter", "show", "mine", "--json").json
    assert shown["content"].startswith("sha256:")
    assert run("adapter", "remove", "mine").code == ExitCode.USAGE  # no --yes
    assert run("adapter", "remove", "mine", "--yes").code == 0
    assert run("adapter", "show", "mine").code == ExitCode.NOT_FOUND
