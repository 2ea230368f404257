"""Sizes that no model has are refused before anything is made of them."""

from __future__ import annotations

import pytest

from llama_hub.errors import IntegrityError
from llama_hub.hub.architecture import Architecture


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"n_layers": 2**31}, "no model's"),  # each would be listed with its tensors, in memory
        ({"n_layers": 0}, "not positive"),
        ({"n_kv_heads": 3}, "do not divide"),
    ],
)
def test_impossible_sizes_are_refused(changed: dict[str, int], why: str) -> None:
    sizes = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "ffn_dim": 96}
    with pytest.raises(IntegrityError, match=why):
        Architecture(**{**sizes, "vocab_size": 32, **changed})
