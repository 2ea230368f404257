"""Memory arithmetic, and the machine that is chosen by it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_hub.deploy.offer import Offer
from llama_hub.deploy.sizing import choose, fits, need
from llama_hub.errors import NotEnoughError, QuotaError, UsageError
from llama_hub.hub.architecture import Architecture
from llama_hub.inference import memory
from llama_hub.inference.config import GPU_STEP_TOKENS, PAGE, EngineOptions
from tests.support.deployments import spec

GIB = 1 << 30
L7B = Architecture(
    dim=4096, n_layers=32, n_heads=32, n_kv_heads=32, ffn_dim=11008, vocab_size=32000
)
L70B = Architecture(
    dim=8192, n_layers=80, n_heads=64, n_kv_heads=8, ffn_dim=28672, vocab_size=32000
)


def offer(name: str, gib: float, price: float | None = 1.0, **more: Any) -> Offer:
    known: dict[str, Any] = {"region": "here", "accelerators": 1, "price_per_hour": price}
    return Offer(instance=name, memory_bytes=int(gib * GIB), **{**known, **more})


def test_7b_at_one_full_context_needs_what_everybody_says() -> None:
    found = need(L7B, spec(context=4096, concurrency=1), "float16")
    assert found.weights_bytes == 6_738_415_616 * 2  # 12.55 GiB, as the checkpoint's size
    assert found.kv_bytes == 2 * GIB  # 0.5 MiB per token
    assert 12.5 < found.weights_bytes / GIB < 12.6


def test_grouped_query_attention_is_counted() -> None:
    found = need(L70B, spec(context=4096, concurrency=1), "float16")
    assert found.kv_bytes == 2 * 80 * 8 * 128 * 2 * 4096  # 1.25 GiB, not 10


def test_quantised_weights_keep_embeddings_and_pay_for_scales() -> None:
    full, int8, int4 = (
        need(L7B, spec(quantization=each), "float16").weights_bytes
        for each in (None, "int8", "int4")
    )
    kept = 2 * 32000 * 4096 * 2
    assert full / 2 < int8 < full / 2 + kept
    assert full / 4 < int4 < full / 4 + kept * 2
    assert int4 < int8 < full


@pytest.mark.parametrize("model", [L7B, L70B])
@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_planning_and_serving_count_alike(
    model: Architecture, quantization: Any, devices: int
) -> None:
    """The service that ``serve --plan`` describes is the one that a deployment was sized for."""
    wanted = need(model, spec(context=4096, concurrency=3, quantization=quantization))
    served = memory.plan(
        model, "bfloat16", quantization, 4096, 3, None,
        step_tokens=GPU_STEP_TOKENS, devices=devices, overhead=memory.PROCESS,
    )  # fmt: skip
    assert wanted.share(devices).total_bytes == served.total_bytes
    if devices == 1:
        assert wanted.total_bytes == served.total_bytes
        assert wanted.weights_bytes == served.weights_bytes


def test_int4_70b_is_one_number() -> None:
    """It was 33.9 GiB in planning and 36.6 in serving."""
    assert need(L70B, spec(quantization="int4")).weights_bytes / GIB == pytest.approx(36.6, abs=0.1)


def test_what_fits_a_card_is_served_on_it() -> None:
    """The share of a card that planning counts on is the one that the service takes."""
    for gib in range(8, 81, 4):
        wanted = need(L7B, spec(context=2048, concurrency=2))
        served = memory.plan(
            L7B, "bfloat16", None, 2048, 2, int(gib * GIB * EngineOptions().gpu_memory_utilization),
            step_tokens=2048, overhead=memory.PROCESS,
        )  # fmt: skip
        assert not fits(offer("card", gib), wanted) or served.fits


@given(st.integers(1, 8192), st.integers(1, 64), st.sampled_from([None, "int8", "int4"]))
def test_more_context_or_concurrency_never_needs_less(
    context: int, concurrency: int, quantization: Any
) -> None:
    def total(**changes: Any) -> int:
        known = {"context": context, "concurrency": concurrency, "quantization": quantization}
        return need(L7B, spec(**{**known, **changes}), "bfloat16").total_bytes

    assert total(context=context + PAGE) > total()
    assert total(context=context + 1) >= total()
    assert total(concurrency=concurrency + 1) > total()


def test_auto_takes_the_cheapest_that_fits() -> None:
    wanted = need(L7B, spec(context=2048, concurrency=2), "float16")
    offers = [offer("big", 80, 4.0), offer("small", 16, 0.5), offer("right", 24, 1.2)]
    assert choose(offers, spec(), wanted).instance == "right"
    assert choose(offers, spec(instance="big"), wanted).instance == "big"


def test_auto_keeps_the_machine_that_runs_while_it_fits() -> None:
    wanted = need(L7B, spec(context=2048, concurrency=2), "float16")
    offers = [offer("right", 24, 1.2), offer("dearer", 40, 2.0), offer("small", 8, 0.1)]
    assert choose(offers, spec(), wanted, current="dearer").instance == "dearer"
    assert choose(offers, spec(), wanted, current="small").instance == "right"


def test_a_spec_that_does_not_fit_is_refused_with_the_arithmetic_and_a_way_out() -> None:
    wanted = need(L7B, spec(context=4096, concurrency=8), "float16")
    with pytest.raises(NotEnoughError) as caught:
        choose([offer("a10g", 24)], spec(concurrency=8), wanted)
    for part in ("weights 12.6 GiB", "KV cache 16.0 GiB", "8 x 4096 tokens", "a10g", "24.0 GiB"):
        assert part in caught.value.message
    assert "concurrency 4" in caught.value.hint
    smaller = need(L7B, spec(context=4096, concurrency=4), "float16")
    assert choose([offer("a10g", 24)], spec(), smaller).instance == "a10g"  # the advice was right


def test_the_advice_to_quantise_is_right() -> None:
    wanted = need(L7B, spec(context=1024, concurrency=1), "float16")
    with pytest.raises(NotEnoughError) as caught:
        choose([offer("t4", 12)], spec(), wanted)
    assert "quantization int8" in caught.value.hint
    assert fits(offer("t4", 12), dataclasses.replace(wanted, quantization="int8"))


def test_several_accelerators_share_a_replica_only_if_the_heads_divide() -> None:
    wanted = need(L70B, spec(context=4096, concurrency=4), "float16")
    assert not fits(offer("one", 80), wanted)
    assert fits(offer("eight", 24, accelerators=8), wanted)
    assert not fits(offer("seven", 80, accelerators=7), wanted)


def test_quota_is_told_apart_from_size() -> None:
    wanted = need(L7B, spec(context=512, concurrency=1), "float16")
    offers = [offer("right", 24, quota_left=1)]
    assert choose(offers, spec(), wanted).instance == "right"
    with pytest.raises(QuotaError, match="quota leaves 1 and 3 are asked for"):
        choose(offers, spec(replicas_max=3), wanted)
    dearer = [*offers, offer("other", 40, 2.0, quota_left=5)]
    assert choose(dearer, spec(replicas_max=3), wanted).instance == "other"


def test_an_unknown_instance_names_the_known() -> None:
    wanted = need(L7B, spec(), "float16")
    with pytest.raises(NotEnoughError, match="offered are: right"):
        choose([offer("right", 24)], spec(instance="wrong"), wanted)


def test_a_smaller_share_of_the_card_is_planned_for() -> None:
    half = spec(context=2048, environment={"LLAMA_HUB_GPU_MEMORY_UTILIZATION": "0.5"})
    assert fits(offer("card", 24), need(L7B, spec(context=2048, concurrency=1)))
    assert not fits(offer("card", 24), need(L7B, half))
    assert fits(offer("card", 80), need(L7B, half))
    for wrong in ("2", "0", "much", "nan"):
        with pytest.raises(UsageError, match="GPU_MEMORY_UTILIZATION"):
            need(L7B, spec(environment={"LLAMA_HUB_GPU_MEMORY_UTILIZATION": wrong}))
