"""Devices of this machine: which are seen, what is taken, which a replica gets.

``nvidia-smi`` is a stand-in that prints what the real one prints (driver 580, MIG included); it
cannot prove that CUDA computes on what is chosen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.local.backend import LocalBackend
from llama_hub.backends.local.documents import DesiredState, Revision
from llama_hub.backends.local.gpus import USABLE, Assignment, Claim, Gpu, claims, gpus, share_of
from llama_hub.backends.local.state import Folder
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.sizing import need
from llama_hub.errors import NotEnoughError, UsageError
from llama_hub.hub.architecture import Architecture
from tests.support.deployments import artifact, make_folder, spec

GIB = 1 << 30
L7B = Architecture(4096, 32, 32, 32, 11008, 32000)
NEED = need(L7B, spec(context=2048, concurrency=1))  # about 15 GiB
UUIDS = [f"GPU-{n}a000000-0000-0000-0000-000000000000" for n in range(4)]
QUERY = "\n".join(
    f"{n}, {UUIDS[n]}, NVIDIA L4, 24576, {used}" for n, used in enumerate((4, 12288, 0))
)
MIG = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-0a000000-0000-0000-0000-000000000000)
  MIG 3g.20gb     Device  0: (UUID: MIG-11111111-aaaa-5bbb-cccc-000000000001)
  MIG 1g.5gb      Device  1: (UUID: MIG-22222222-aaaa-5bbb-cccc-000000000002)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-1a000000-0000-0000-0000-000000000000)
"""

Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """``machine(query, listing)``: what ``nvidia-smi`` prints."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(query: str = QUERY, listing: str = "") -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "query").write_text(query + "\n")
        (folder / "listing").write_text(listing)
        script = folder / "nvidia-smi"
        script.write_text(
            f'#!/bin/sh\n[ "$1" = -L ] && exec cat {folder}/listing\ncat {folder}/query\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return make


def test_the_driver_lists_them(machine: Machine) -> None:
    machine()
    found = gpus()
    assert [(one.number, one.uuid, one.name) for one in found] == [
        (n, UUIDS[n], "NVIDIA L4") for n in range(3)
    ]
    assert found[0].memory_bytes == 24 * GIB
    assert [one.used for one in found] == [0.0, 0.5, 0.0]  # a display's few MiB are nothing


@pytest.mark.parametrize("query", ["", "No devices were found", "1, 2", "a, b, c, d, e"])
def test_nothing_sensible_is_no_device(machine: Machine, query: str) -> None:
    machine(query)
    assert gpus() == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("2,0", [2, 0]),
        ("1", [1]),
        (UUIDS[1], [1]),
        ("GPU-2a,0", [2, 0]),
        ("", []),
        ("-1", []),
        ("0,7,1", [0]),  # as CUDA: nothing after an entry that names no device
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices_is_respected(
    machine: Machine, visible: str, expected: list[int]
) -> None:
    machine()
    assert [one.number for one in gpus({"CUDA_VISIBLE_DEVICES": visible})] == expected


def test_mig_instances_stand_for_their_card(machine: Machine) -> None:
    query = "\n".join(f"{n}, {UUIDS[n]}, NVIDIA A100-SXM4-40GB, 40960, 0" for n in range(2))
    machine(query, MIG)
    found = gpus()
    assert [one.uuid[:8] for one in found] == ["MIG-1111", "MIG-2222", UUIDS[1][:8]]
    assert [one.memory_bytes // 10**9 for one in found] == [20, 5, 42]
    assert [one.uuid[:8] for one in gpus({"CUDA_VISIBLE_DEVICES": "MIG-2222"})] == ["MIG-2222"]
    offers = LocalBackend().offers(spec(), NEED)
    assert [offer.accelerators for offer in offers] == [1]


def cards(count: int, gib: int = 24, used: float = 0.0) -> list[Gpu]:
    return [Gpu(n, UUIDS[n], "NVIDIA L4", gib * GIB, used) for n in range(count)]


def deal(devices: list[Gpu], taken: list[Claim], replicas: int = 1, **more: Any) -> list[str]:
    dealt = Assignment(devices, taken, "x", more.pop("kept", None)).deal(
        replicas, more.pop("count", 1), [NEED], more.pop("named", None)
    )
    return [dealt[str(n)]["CUDA_VISIBLE_DEVICES"] for n in range(replicas)]


def test_several_models_take_the_sum_or_the_largest() -> None:
    alone = share_of([NEED], 1, 80 * GIB)
    assert share_of([NEED, NEED], 1, 80 * GIB) == pytest.approx(2 * alone, abs=0.03)
    assert share_of([NEED, NEED], 1, 80 * GIB, unloads=True) == alone


def test_the_emptiest_devices_are_taken() -> None:
    share = share_of([NEED], 1, 24 * GIB)
    assert 0.6 < share < 0.7
    assert deal(cards(3), []) == [UUIDS[0]]
    assert deal(cards(3), [Claim("a", UUIDS[0], share)]) == [UUIDS[1]]
    assert deal(cards(3), [], replicas=3) == UUIDS[:3]
    pair = deal(cards(4), [Claim("a", UUIDS[0], 0.9)], count=2)
    assert pair == [f"{UUIDS[1]},{UUIDS[2]}"]


def test_small_services_share_a_device() -> None:
    assert deal(cards(1, gib=80), [], replicas=4) == [UUIDS[0]] * 4
    with pytest.raises(NotEnoughError):
        deal(cards(1, gib=80), [], replicas=5)


def test_a_card_that_is_taken_is_refused_with_who_holds_it() -> None:
    with pytest.raises(NotEnoughError) as caught:
        deal(cards(1), [Claim("chat", UUIDS[0], 0.5)])
    assert "0 (NVIDIA L4) is taken to 50% by chat" in caught.value.message
    assert caught.value.exit_code == 7
    with pytest.raises(NotEnoughError, match="80% by other programs"):
        deal(cards(1, used=0.8), [])
    with pytest.raises(NotEnoughError, match="by chat"):
        deal(cards(2), [Claim("chat", UUIDS[1], 0.9)], named=[1])


def test_named_devices_are_used_and_checked() -> None:
    assert deal(cards(3), [], named=[2]) == [UUIDS[2]]
    assert deal(cards(3), [], named=[UUIDS[1]]) == [UUIDS[1]]
    with pytest.raises(UsageError, match="names 7; the devices are 0"):
        deal(cards(1), [], named=[7])
    with pytest.raises(UsageError, match="options.gpus names 1"):
        deal(cards(3), [], named=[0], count=2)


def test_a_revision_keeps_its_devices() -> None:
    kept = {"0": {"CUDA_VISIBLE_DEVICES": UUIDS[2]}}
    own = [Claim("x", UUIDS[2], 0.9)]
    assert deal(cards(3), own, kept=kept) == [UUIDS[2]]
    assert deal(cards(2), own, kept=kept) == [UUIDS[0]]  # its card is gone


def test_claims_count_what_runs() -> None:
    def revision(run: bool, **devices: dict[str, str]) -> Revision:
        return Revision([], {}, devices, "", "gpu-1", 1, 0, run, {})

    two = {"CUDA_VISIBLE_DEVICES": "a,b", "LLAMA_HUB_GPU_MEMORY_UTILIZATION": "0.4"}
    old = {"CUDA_VISIBLE_DEVICES": "c"}  # of a version that recorded no share
    found = claims("x", [revision(True, one=two, two=old), revision(False, one=two)])
    assert found == [Claim("x", "a", 0.4), Claim("x", "b", 0.4), Claim("x", "c", USABLE)]


def test_a_plan_records_devices_and_sees_other_deployments(
    machine: Machine, tmp_path: Path
) -> None:
    machine("\n".join(f"{n}, {UUIDS[n]}, NVIDIA L4, 24576, 0" for n in range(2)))
    model = make_folder(tmp_path / "model")
    backend = LocalBackend(root=str(tmp_path / "local"), command=[sys.executable])
    deployer = Deployer(backend, artifacts=lambda _: artifact(model), root=tmp_path / "journals")
    other = Folder(tmp_path / "local" / "other" / "service")
    other.path.mkdir(parents=True)
    held = {"0": {"CUDA_VISIBLE_DEVICES": UUIDS[0]}}
    revision = Revision([], {}, held, "", "gpu-1", 1, 0, True, {})
    other.write_desired(DesiredState("127.0.0.1", 0, False, revisions={"g": revision}))

    def devices(**options: Any) -> Any:
        plan = deployer.plan(spec("x", backend="local", options=options))
        (step,) = [one for one in plan.steps if one.kind == "revision"]
        return step.body["devices"]["0"]

    assert devices()["CUDA_VISIBLE_DEVICES"] == UUIDS[1]
    assert 0 < float(devices()["LLAMA_HUB_GPU_MEMORY_UTILIZATION"]) <= USABLE
    with pytest.raises(NotEnoughError, match="is taken to 92% by other"):
        devices(gpus=[0])
