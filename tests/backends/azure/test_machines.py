"""Machine types: the reserve of a fifth, prices with a date, the region's own answers."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_hub.backends.azure import machines
from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy import sizing
from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.environment import service_environment
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.hub.architecture import Architecture
from tests.support.azure_plane import Plane
from tests.support.azure_rules import SIZES, reserved
from tests.support.azure_target import make_target

LLAMA_7B = Architecture(4096, 32, 32, 32, 11008, 32000)
LLAMA_13B = Architecture(5120, 40, 40, 40, 13824, 32000)
LLAMA_70B = Architecture(8192, 80, 64, 8, 28672, 32000)


@given(st.sampled_from(machines.table()), st.integers(0, 2000))
def test_instances_within_is_the_most_that_fit(size: machines.Size, cores: int) -> None:
    most = size.instances_within(cores)
    assert size.cores_for(most) <= cores or most == 0
    assert size.cores_for(most + 1) > cores


@given(st.integers(0, 50))
def test_reserve_is_a_fifth_rounded_up(count: int) -> None:
    for size in machines.table():
        factor = math.ceil(1.2 * count) if size.reserve else count
        assert size.cores_for(count) == factor * size.cores


def test_the_table_agrees_with_the_planes_own() -> None:
    for size in machines.table():
        if size.name in SIZES:
            _, cores, exempt = SIZES[size.name][:3]
            assert size.cores_for(3) == reserved(3, cores, exempt)


def test_every_price_has_a_date() -> None:
    for size in machines.table():
        assert "2026-" in size.price_source
        assert size.price is None or size.price > 0


def test_the_regions_own_list_and_prices_win(plane: Plane, backend: AzureBackend) -> None:
    region = machines.in_region(backend.client.sizes("eastus"), "eastus")
    names = {size.name for size in region}
    assert "Standard_NC40ads_H100_v5" not in names  # the region does not have it
    small = next(size for size in region if size.name == "Standard_DS3_v2")
    assert (small.price, small.price_source) == (0.27, "Azure ML in eastus, today")


def test_prices_in_another_currency_are_not_taken_for_dollars() -> None:
    entry = {
        "name": "Standard_DS3_v2",
        "estimatedVMPrices": {
            "billingCurrency": "EUR",
            "unitOfMeasure": "OneHour",
            "values": [{"retailPrice": 9.0, "osType": "Linux", "vmTier": "Standard"}],
        },
    }
    (size,) = machines.in_region([entry], "westeurope")
    assert size.price == 0.229


@pytest.mark.parametrize(
    ("architecture", "quantization", "instance"),
    [
        (LLAMA_7B, "int8", "Standard_NC4as_T4_v3"),
        (LLAMA_7B, None, "Standard_NV36ads_A10_v5"),
        (LLAMA_13B, None, "Standard_NC24ads_A100_v4"),
        (LLAMA_70B, None, "Standard_NC96ads_A100_v4"),
    ],
)
def test_auto_takes_the_cheapest_gpu_that_holds_the_model(
    architecture: Architecture, quantization: str | None, instance: str
) -> None:
    spec = DeploymentSpec(
        name="x1x",
        backend="azure",
        model="m",
        quantization=quantization,
        concurrency=8 if architecture is LLAMA_70B else 1,  # type: ignore[arg-type]
    )
    need = sizing.need(architecture, spec)
    offers = [
        machines.offer(size, "eastus", {})
        for size in machines.table()
        if size.accelerators and size.price
    ]
    assert sizing.choose(offers, spec, need).instance == instance


def test_an_accelerator_without_bfloat16_is_told_to_use_float16(
    plane: Plane, backend: AzureBackend, artifact: Artifact
) -> None:
    target = make_target(backend, artifact, instance="Standard_NC4as_T4_v3")
    assert "LLAMA_HUB_DTYPE" not in service_environment(target, "azureml")  # float32 weights
    need = dataclasses.replace(target.need, dtype="bfloat16")
    told = service_environment(dataclasses.replace(target, need=need), "azureml")
    assert told["LLAMA_HUB_DTYPE"] == "float16"
