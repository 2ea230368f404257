"""``config.json``, ``params.json``, the index and added tokens: every wrong value is exit 5."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import DamagedFileError, IntegrityError, NotFoundError
from llama_hub.hub.checkpoints import weight_index
from llama_hub.hub.model_config import read_config, read_params

CONFIG: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 128,
}
PARAMS: Mapping[str, Any] = {"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": -1}
EXTREMES: list[Any] = [2**63, -(2**63), 1e308, -1, True, "4", [], {}, 1.5, 10**30]


def config(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def test_a_short_config_has_the_defaults_of_its_format(tmp_path: Path) -> None:
    found = read_config(config(tmp_path)).architecture
    assert (found.norm_eps, found.context, found.rope_theta) == (1e-6, 2048, 10000.0)
    assert found.n_kv_heads == 4


def test_a_stated_config_is_taken(tmp_path: Path) -> None:
    found = read_config(
        config(
            tmp_path,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000},
            torch_dtype="torch.float16",
            eos_token_id=[2, 7],
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
        )
    )
    assert found.architecture.rope_theta == 1e6
    assert found.weight_type == "float16"
    assert found.eos_token_id == [2, 7]


@pytest.mark.parametrize("value", [*EXTREMES, None], ids=repr)
@pytest.mark.parametrize("key", list(CONFIG)[1:])
def test_a_size_that_no_model_has_is_named(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError) as caught:
        read_config(config(tmp_path, **{key: value}))
    assert caught.value.key == key
    assert caught.value.file == str(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rms_norm_eps", 0),
        ("rms_norm_eps", "1e-5"),
        ("rms_norm_eps", 1e308),
        ("rope_theta", 0),
        ("rope_theta", 1e300),
        ("rope_theta", False),
        ("rope_parameters", []),
        ("rope_scaling", 4),
        ("max_position_embeddings", 2**63),
        ("max_position_embeddings", None),
        ("tie_word_embeddings", "yes"),
        ("torch_dtype", 16),
        ("eos_token_id", "</s>"),
        ("eos_token_id", -1),
        ("eos_token_id", [True]),
        ("quantization_config", "int8"),
        ("quantization_config", {"config_groups": []}),
        ("quantization_config", {"config_groups": {"group_0": {"weights": {"num_bits": "4"}}}}),
        ("model_type", None),
        ("model_type", "gpt2"),
    ],
)
def test_a_setting_of_a_wrong_type_is_named(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError) as caught:
        read_config(config(tmp_path, **{key: value}))
    assert caught.value.key.split(".")[0] == key


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": "x"},
        {"rope_theta": True},
        {"rope_theta": 1e300},
        {"rope_type": "linear", "factor": "2"},
        {"rope_type": "linear", "factor": -1},
        {"rope_type": "linear", "factor": 1e308},
        {"rope_type": "linear"},
        {"rope_type": "of-no-kind", "factor": 2},
        {"rope_type": 1},
        {"rope_type": []},
        {"type": ["linear"], "factor": 2},
        {"rope_type": {"a": 1}},
    ],
    ids=repr,
)
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_rope_settings_that_cannot_be_are_refused(
    key: str, rope: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(IntegrityError):
        _ = read_config(config(tmp_path, **{key: rope})).architecture


def test_a_key_that_could_change_the_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="something_else"):
        read_config(config(tmp_path, something_else={"deep": [1]}))


@pytest.mark.parametrize("value", [*EXTREMES, None], ids=repr)
@pytest.mark.parametrize("key", ["dim", "n_layers", "n_heads"])
def test_params_that_no_model_has_are_named(key: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(json.dumps({**PARAMS, key: value}))
    with pytest.raises(DamagedFileError) as caught:
        read_params(tmp_path)
    assert caught.value.key == key


def test_params_without_the_formula_are_taken(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(json.dumps({**PARAMS, "rope_theta": 1e6}))
    found = read_params(tmp_path).architecture(vocab_size=128, ffn_dim=96)
    assert (found.ffn_dim, found.context) == (96, 16384)


def test_a_missing_file_says_what_the_folder_is_not(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no config.json"):
        read_config(tmp_path)
    with pytest.raises(NotFoundError, match="no params.json"):
        read_params(tmp_path)


@pytest.mark.parametrize(
    "weight_map",
    [None, [], {}, {"t": None}, {"t": 1}, {"t": "../x"}, {"t": "a/b"}, {"t": "x" * 300}],
)
def test_an_index_that_names_no_plain_files_is_refused(weight_map: Any, tmp_path: Path) -> None:
    path = tmp_path / weight_index.NAME
    path.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(DamagedFileError) as caught:
        weight_index.read(path)
    assert caught.value.key.startswith("weight_map")
