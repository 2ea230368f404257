"""Steps on CUDA: their arithmetic, order and structure on the CPU; more where there is a GPU."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llama_hub.errors import NotEnoughError
from llama_hub.hub.model_config import read_config
from llama_hub.inference.batch import Piece, build
from llama_hub.inference.collective import Alone, Collective
from llama_hub.inference.config import PAGE, EngineOptions
from llama_hub.inference.cuda.checks import agree
from llama_hub.inference.cuda.forward import CudaForward
from llama_hub.inference.cuda.graphs import Recording, sizes
from llama_hub.inference.cuda.inputs import DecodeInputs
from llama_hub.inference.cuda.operations import TorchOperations
from llama_hub.inference.executor import LocalExecutor
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.loading import load_shard, make_plan
from llama_hub.inference.model import Llama
from llama_hub.inference.partition import Partition
from llama_hub.inference.quantization import for_kernels
from llama_hub.inference.rope import Rope
from llama_hub.inference.weights import Loader, Target, TensorFiles, heads_of
from tests.inference.conftest import Serving
from tests.support.hf_models import Shape, ask, judged_greedy, prompt, save
from tests.support.recording import PlacedOperations, Rerun, replay_on_cpu
from tests.support.tiers import family

Model = Callable[..., Path]
CPU = torch.device("cpu")
CONTEXT = 256
PAGES = 40


def loaded(
    folder: Path, bits: int | None = None, collective: Collective | None = None, rank: int = 0
) -> tuple[Llama, KVCache]:
    """The plain model in float32, with dense or plainly quantised weights, and its cache."""
    architecture = read_config(folder).architecture
    partition = Partition(architecture, rank, collective.size if collective else 1, grain=64)
    heads = heads_of(partition)
    target = Target(torch.float32, CPU, for_kernels, bits)
    with TensorFiles(folder) as files:
        weights = Loader(files, partition, target, None).load()
    rope = Rope(heads.width, CONTEXT, architecture.rope_theta, CPU)
    cache = KVCache(architecture.n_layers, PAGES, heads.keys, heads.width, torch.float32, CPU)
    return Llama(architecture, heads, weights, rope, collective or Alone()), cache


def forward_of(model: Llama, cache: KVCache, **options: Any) -> CudaForward:
    return CudaForward(model, cache, CONTEXT, 5, recorder=Rerun, **options)


@pytest.mark.parametrize("bits", [None, 8, 4])
@torch.inference_mode()
def test_replayed_and_mixed_steps_equal_the_plain_model(model: Model, bits: int | None) -> None:
    """Sequences of different lengths on scattered pages, rows that nobody uses, prompts between."""
    llama, cache = loaded(model("grouped"), bits)
    forward = forward_of(llama, cache)
    forward.prepare()
    assert set(forward.modes) == {"decode 1", "decode 2", "decode 4", "decode 5", "mixed"}
    pages = [(3, 9, 1), (7,), (20, 2, 30, 11)]
    lengths = (40, 5, 63)
    for own, length in zip(pages, lengths, strict=True):
        tokens = prompt(length, length)
        llama.forward(build([Piece(tokens, 0, own, prompt=length)]), cache)
    decodes = [Piece((9 + n,), lengths[n], own) for n, own in enumerate(pages)]
    prompts = [Piece(prompt(20), 0, (12, 13), prompt=20), Piece(prompt(30), 0, (4, 5), 3, 30)]
    for pieces in (decodes, [prompts[0], *decodes, prompts[1]]):
        batch = build(pieces)
        before = cache.data.clone()
        expected = llama.forward(batch, cache)
        filled = cache.data.clone()
        cache.data.copy_(before)
        assert (forward(batch) - expected).abs().max() <= 1e-4
        spare = (PAGES - 1) * PAGE
        assert torch.allclose(cache.data[:, :, :spare], filled[:, :, :spare], atol=1e-4)
        cache.data.copy_(before)


def steps_with_prompts() -> list[list[Piece]]:
    """Batches that fit recorded steps, and some that do not: too many runs, rows or wanted rows."""
    cached = [Piece((9 + n,), 20 + n, (n, 20 + n)) for n in range(4)]
    return [
        [Piece(prompt(7), 0, (30,), prompt=7)],
        [Piece(prompt(12), 0, (30,), prompt=12), *cached],
        [*cached, Piece(prompt(30), 0, (31, 32), prompt=30), Piece((4, 5), 20, (5, 6), prompt=2)],
        [*cached[:2], Piece(prompt(100), 0, tuple(range(30, 37)), 0, 100), cached[2]],
        [Piece((3, 4, 5), 20, (7, 8), wanted=1, prompt=2), *cached],  # two spans of one sequence
        [Piece(prompt(60), 0, (30, 31, 32, 33), wanted=60, prompt=60), *cached],
        [Piece((2, 3), 4, (9 + n,), prompt=2) for n in range(9)],
    ]


@pytest.mark.parametrize("number", range(7))
@torch.inference_mode()
def test_steps_with_prompts_are_replayed_where_they_fit(model: Model, number: int) -> None:
    llama, cache = loaded(model("grouped"))
    forward = forward_of(llama, cache, operations=[PlacedOperations()])
    forward.prepare()
    torch.nn.init.normal_(cache.data, std=0.1)
    batch = build(steps_with_prompts()[number])
    before = cache.data.clone()
    expected = llama.forward(batch, cache)
    filled = cache.data.clone()
    for _ in range(2):
        cache.data.copy_(before)
        assert (forward(batch) - expected).abs().max() <= 1e-4
        spare = (PAGES - 1) * PAGE
        assert torch.allclose(cache.data[:, :, :spare], filled[:, :, :spare], atol=1e-4)
    cache.data.copy_(before)
    assert (forward._replay(batch) is None) == (number in (5, 6))


@torch.inference_mode()
def test_a_replayed_step_with_prompts_is_one_copy_and_no_wait(model: Model) -> None:
    llama, cache = loaded(model())
    forward = CudaForward(
        llama, cache, CONTEXT, 5, operations=[PlacedOperations()], recorder=Nothing
    )
    forward._check_recordings = lambda: None  # type: ignore[method-assign]
    forward.prepare()
    for pieces in steps_with_prompts()[:5]:
        batch = build(pieces)
        with Counted() as counted:
            forward(batch)
        assert counted.copies == ["copy_"]
        assert counted.waits == []
        assert counted.launches == 2  # beside the replay: the copy, and the logits that are kept


def test_rows_that_were_used_before_are_emptied() -> None:
    inputs = DecodeInputs(3, 16, 99 * PAGE, CPU)
    inputs.fill(build([Piece((4,), 17, (5, 6)), Piece((3,), 2, (7,))]))
    inputs.fill(build([Piece((8,), 3, (1,))]))
    rows = inputs.rows(3)
    assert rows.slots.tolist() == [PAGE + 3, 99 * PAGE, 99 * PAGE]
    assert rows.lengths.tolist() == [4, 1, 1]
    assert rows.table[0, 0] == 1


def test_a_sequence_that_grows_or_moves_finds_its_pages() -> None:
    """Only what differs from the last step is written; nothing of another sequence stays."""
    inputs = DecodeInputs(2, 16, 99 * PAGE, CPU)
    grown, other = (5, 6, 8), (7, 1)
    for first, second in [((5,), other), ((5, 6), other), (grown, other), (other, grown)]:
        pieces = [Piece((4,), len(own) * PAGE - 1, own) for own in (first, second)]
        inputs.fill(build(pieces))
        table = inputs.rows(2).table
        assert tuple(table[0, : len(first)].tolist()) == first
        assert tuple(table[1, : len(second)].tolist()) == second


@pytest.mark.parametrize("limit", [*range(1, 20), 31, 48, 63, 64, 100, 128, 256])
def test_few_sizes_are_recorded_and_none_is_much_too_large(limit: int) -> None:
    found = sizes(limit)
    assert found == sorted(set(found))
    assert found[-1] == limit
    assert len(found) <= 13
    for rows in range(1, limit + 1):
        size = next(size for size in found if size >= rows)
        assert size <= max(2 * rows, rows + 8)


class Swapped(Rerun):
    """Replays that answer with two rows exchanged, as a graph over wrong addresses might."""

    def record(self, step: Callable[[], Tensor]) -> Recording:
        right = super().record(step)
        if len(right.logits) < 2:
            return right

        def replay() -> None:
            right.replay()
            right.logits[:2] = right.logits[:2].flip(0)

        return Recording(replay, right.logits)


class Stuck(Rerun):
    """Replays that always answer what was recorded."""

    def record(self, step: Callable[[], Tensor]) -> Recording:
        return Recording(lambda: None, super().record(step).logits)


class Broken(TorchOperations):
    """Operations that a machine cannot compile."""

    name = "broken"

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        raise RuntimeError("no compiler")


class Wrong(TorchOperations):
    """Operations that compile and compute something else."""

    name = "wrong"

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return super().norm(x, weight, eps).flip(0)


@pytest.mark.parametrize("recorder", [Swapped, Stuck])
@torch.inference_mode()
def test_replays_that_answer_wrongly_are_never_used(model: Model, recorder: Any) -> None:
    llama, cache = loaded(model())
    forward = CudaForward(llama, cache, CONTEXT, 5, recorder=recorder)
    forward.prepare()
    assert set(forward.modes.values()) == {"plain"}
    batch = build([Piece((7,), 0, (0,)), Piece((9,), 0, (1,), prompt=1)])
    assert torch.equal(forward(batch), llama.forward(batch, cache))


@torch.inference_mode()
def test_hidden_states_are_those_of_the_plain_model(model: Model) -> None:
    llama, cache = loaded(model())
    forward = forward_of(llama, cache)
    forward.prepare()
    tokens = (1, 9, 7, 5)
    batch = build([Piece(tokens, 0, (0,), wanted=4, prompt=4)])
    hidden = forward.hidden(batch)
    assert hidden.shape == (4, llama.architecture.dim)
    expected = llama.forward(batch, cache)
    assert torch.equal(llama.weights.head(hidden), expected)


@pytest.mark.parametrize("first", [Broken(), Wrong()])
@torch.inference_mode()
def test_the_next_operations_take_over(model: Model, first: Any) -> None:
    llama, cache = loaded(model())
    forward = forward_of(llama, cache, operations=[first, TorchOperations()])
    forward.prepare()
    assert forward.modes["mixed"] == "torch"
    assert forward.modes["decode 5"] == "graph, torch"


def test_rounding_of_a_deep_model_agrees_and_a_wrong_row_does_not() -> None:
    """bfloat16 through 32 layers moves single logits by 0.1 of their spread (seen on an H200)."""
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(16, 32000, generator=generator)
    noise = 0.03 * torch.randn(16, 32000, generator=generator)
    assert noise.abs().max() > 0.1
    agree(expected + noise, expected, "noise")
    swapped = expected.clone()
    swapped[3:5] = swapped[3:5].flip(0)
    unwritten = expected.clone()
    unwritten[7] = 0
    halved = expected.clone()
    halved[2] /= 2
    broken = expected.clone()
    broken[9, 5] = torch.nan
    for wrong in (swapped, unwritten, halved, broken, expected + 0.3, expected[:8]):
        with pytest.raises(RuntimeError):
            agree(wrong, expected, "a wrong row")


class Together:
    """Two processes as two threads: what one says waits for the other."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=20)
        self.said: dict[int, Any] = {}

    def exchange(self, rank: int, mine: Any) -> list[Any]:
        self.said[rank] = mine
        self.barrier.wait()
        found = [self.said[0], self.said[1]]
        self.barrier.wait()
        return found

    def member(self, rank: int) -> Collective:
        together = self

        class Member:
            size = 2

            def sum(self, partial: Tensor) -> Tensor:
                return torch.stack(together.exchange(rank, partial.clone())).sum(0)

            def gather(self, part: Tensor) -> Tensor:
                return torch.cat(together.exchange(rank, part.clone()), dim=-1)

            def least(self, number: int) -> int:
                return int(min(together.exchange(rank, number)))

        return Member()

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """What ``work`` gives for both ranks."""
        found: dict[int, Any] = {}

        def one(rank: int) -> None:
            with torch.inference_mode():
                found[rank] = work(rank)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [found[0], found[1]]


def test_one_process_that_cannot_compile_takes_the_others_along(model: Model) -> None:
    """Otherwise one replays graphs and the other waits in sums that never come."""
    together = Together()

    def work(rank: int) -> dict[str, str]:
        llama, cache = loaded(model(), None, together.member(rank), rank)
        first = Broken() if rank else TorchOperations()
        forward = forward_of(llama, cache, operations=[first, TorchOperations()])
        first.name = "first"
        forward.prepare()
        return forward.modes

    found = together.run(work)
    assert found[0] == found[1]
    assert found[0]["mixed"] == "torch"


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_two_processes_replay_what_one_computes(model: Model, bits: int | None) -> None:
    """Sums and gathers are part of the recorded step; quantised weights take it too."""
    together = Together()
    batches = [
        build([Piece(prompt(30), 0, (0, 1), prompt=30), Piece(prompt(17, 2), 0, (2, 3), 1, 17)]),
        build([Piece((9,), 30, (0, 1)), Piece((11,), 17, (2, 3), prompt=1)]),
        build([Piece((12,), 31, (0, 1)), Piece(prompt(7, 3), 0, (4,), 2, 7)]),
    ]
    alone, cache = loaded(model("grouped"), bits)
    with torch.inference_mode():
        expected = [alone.forward(batch, cache) for batch in batches]

    def work(rank: int) -> tuple[dict[str, str], list[Tensor]]:
        llama, own = loaded(model("grouped"), bits, together.member(rank), rank)
        forward = forward_of(llama, own)
        forward.prepare()
        return forward.modes, [forward(batch) for batch in batches]

    for modes, answers in together.run(work):
        assert modes["decode 2"] == "graph, torch"
        for answer, right in zip(answers, expected, strict=True):
            difference = (answer - right).square().mean().sqrt()
            assert difference <= (1e-4 if bits is None else 0.15) * right.std()


class Counted(TorchDispatchMode):
    """Counts what crosses between host and device, and what waits for the device.

    On a CPU nothing does either; but the operations are the same. A tensor made of Python
    numbers is a copy to the device, a number read from a tensor waits for it, and so does an
    operation whose shape depends on values.
    """

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")
    COPIES = ("lift_fresh", "_to_copy", "copy_")

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.copies: list[str] = []
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put_") and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        if name in self.WAITS or masked:
            self.waits.append(name)
        same_type = name == "_to_copy" and (kwargs or {}).get("device") is None
        if name in self.COPIES and not same_type:
            self.copies.append(name)
        self.launches += not func.is_view
        return func(*args, **(kwargs or {}))


class Nothing(Rerun):
    """Replays cost one launch whatever they hold."""

    def record(self, step: Callable[[], Tensor]) -> Recording:
        logits = step().clone()
        return Recording(lambda: None, logits)


@torch.inference_mode()
def test_a_decode_step_is_one_copy_one_replay_and_no_wait(model: Model) -> None:
    llama, cache = loaded(model())
    forward = CudaForward(llama, cache, CONTEXT, 5, recorder=Nothing)
    forward._check_recordings = lambda: None  # type: ignore[method-assign]
    forward.prepare()
    batches = [
        build([Piece((7 + row,), at, (row, row + 8)) for row in range(4)]) for at in (15, 16, 17)
    ]
    for batch in batches:
        with Counted() as counted:
            forward(batch)
        assert counted.copies == ["copy_"]
        assert counted.waits == []
        assert counted.launches == 2  # beside the replay: the copy and the wanted rows


@torch.inference_mode()
def test_a_step_with_prompts_is_one_copy_and_no_wait_whatever_is_in_it(model: Model) -> None:
    llama, cache = loaded(model())
    forward = forward_of(llama, cache)
    forward.prepare()
    launches = []
    for decodes in (1, 4):
        pieces = [Piece(prompt(30), 0, (0, 1), prompt=30)]
        pieces += [Piece((9,), 20, (2 + n, 8 + n)) for n in range(decodes)]
        batch = build(pieces)
        with Counted() as counted:
            forward(batch)
        # Beside the one copy: attention writes its rows into their place, once a layer and kind.
        layers = llama.architecture.n_layers
        assert counted.copies.count("lift_fresh") == 0
        assert counted.copies.count("copy_") <= 1 + 2 * layers
        assert counted.waits == []
        launches.append(counted.launches)
    assert launches[0] == launches[1]  # decodes share one launch


def test_the_current_device_is_the_engines_own(
    model: Model, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread begins on device 0: what computes has to say which device it means."""
    current: dict[int, list[torch.device]] = {}
    seen: list[torch.device] = []

    class Scope:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            current.setdefault(threading.get_ident(), []).append(self.device)

        def __exit__(self, *_: object) -> None:
            current[threading.get_ident()].pop()

    third = torch.device("cuda:2")
    monkeypatch.setattr("torch.cuda.device", Scope)
    monkeypatch.setattr("llama_hub.inference.loading.device_scope", lambda _: Scope(third))
    monkeypatch.setattr(LocalExecutor, "device_scope", lambda _: Scope(third))

    def note(*_: Any) -> None:
        seen.append(current[threading.get_ident()][-1])

    class Noting(TorchOperations):
        def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
            note()
            return super().norm(x, weight, eps)

    replay_on_cpu(monkeypatch)
    from llama_hub.inference import worker

    choose = worker.choose
    monkeypatch.setattr(worker, "choose", lambda *a: (note(), choose(*a))[1])
    monkeypatch.setattr("llama_hub.inference.cuda.forward.available", lambda *_: [Noting()])

    async def run() -> None:
        async with serving(model(), kernels="off", max_batch=2) as engine:
            await ask(engine, prompt(9))

    asyncio.run(run())
    assert set(seen) == {third}
    assert len(seen) > 20


class TestSizing:
    """How many pages the cache gets."""

    OPTIONS: dict[str, Any] = {
        "dtype": "float32", "kernels": "off", "max_batch": 4, "context": 64, "threads": 1,
    }  # fmt: skip

    def pages(
        self, folder: Path, patch: pytest.MonkeyPatch, total: int, beside: int, **more: Any
    ) -> int:
        replay_on_cpu(patch, total=total, beside=beside)
        plan = make_plan(folder, EngineOptions(**self.OPTIONS, **more))
        shard = load_shard(plan)
        shard.executor.close()
        return shard.pages

    def test_the_cache_gets_what_the_largest_step_leaves(
        self, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = make_plan(model(), EngineOptions(**self.OPTIONS))
        page, mib = plan.fit.page_bytes, 1 << 20
        beside = 200 * mib
        roomy = self.pages(model(), monkeypatch, 1 << 40, beside)
        assert roomy == 4 * 4  # four sequences of 64 tokens
        total = int((beside + 64 * mib + 7.5 * page) / 0.5)
        tight = self.pages(model(), monkeypatch, total, beside, gpu_memory_utilization=0.5)
        assert tight == 7
        with pytest.raises(NotEnoughError, match="context of 64 tokens needs") as caught:
            self.pages(model(), monkeypatch, total, beside + 4 * page, gpu_memory_utilization=0.5)
        assert caught.value.exit_code == 7

    def test_a_neighbour_that_takes_memory_meanwhile_costs_pages_and_not_the_service(
        self, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, refused = KVCache.__init__, []

        def limited(cache: KVCache, layers: int, pages: int, *rest: Any) -> None:
            if pages == 17:  # the whole cache with its spare page
                refused.append(pages)
                raise torch.OutOfMemoryError("CUDA out of memory")
            real(cache, layers, pages, *rest)

        monkeypatch.setattr(KVCache, "__init__", limited)
        options = EngineOptions(**self.OPTIONS | {"max_batch": 4}, step_tokens=32)
        replay_on_cpu(monkeypatch)
        monkeypatch.setattr("llama_hub.inference.cuda.loading.SHRINK", 8)
        shard = load_shard(make_plan(model(), options))
        assert refused
        assert 4 <= shard.pages < 16

    def test_the_largest_step_has_every_row_at_the_end_of_its_context(
        self, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Any] = []
        real = CudaForward.__call__

        def noting(forward: CudaForward, batch: Any) -> Tensor:
            seen.append(batch)
            return real(forward, batch)

        monkeypatch.setattr(CudaForward, "__call__", noting)
        self.pages(model(), monkeypatch, 1 << 40, 0, step_tokens=100)
        largest = max(seen, key=lambda batch: len(batch.tokens))
        assert len(largest.tokens) == len(largest.wanted) == 100
        assert max(span.length for span in largest.spans) == 64


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnCuda:
    """What only a GPU can show."""

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_greedy_tokens(self, model: Model, serving: Serving, dtype: str) -> None:
        tokens = [prompt(n, n) for n in (1, 17, 60, 1, 40)]

        async def run() -> list[tuple[int, ...]]:
            async with serving(model("calm"), device="cuda", dtype=dtype, step_tokens=40) as engine:
                asked = (ask(engine, each, f"{n}", max_tokens=16) for n, each in enumerate(tokens))
                return [answer.tokens for answer in await asyncio.gather(*asked)]

        answers = asyncio.run(run())
        if dtype == "float32":
            expected = [judged_greedy(model("calm"), each, 16) for each in tokens]
            assert [list(each) for each in answers] == expected
        assert {len(each) for each in answers} == {16}

    @pytest.mark.parametrize("quantize", [None, "int8", "int4"])
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_decode_steps_are_replayed_and_agree(
        self, model: Model, quantize: Any, dtype: str
    ) -> None:
        options = EngineOptions(device="cuda", quantize=quantize, dtype=dtype, max_batch=4)
        shard = load_shard(make_plan(model("calm"), options))
        assert set(shard.modes.values()) == {"graph, triton", "triton"}
        pieces = [Piece(prompt(40), 0, (0, 1, 2), prompt=40)]
        shard.executor.run(pieces)
        forward: Any = shard.executor._forward
        batch = build([Piece((7,), 40, (0, 1, 2))])
        with torch.inference_mode():
            replayed = forward(batch)
            plain = forward._model.forward(batch.to(replayed.device), forward._cache)
        assert (replayed - plain).abs().max() <= 0.05 * plain.std()
        shard.executor.close()


SMALL = Shape(dim=64, layers=1, heads=4, kv_heads=2, ffn=96, seed=5, spread=0.06)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    family([("float32", 0), ("float16", 4), ("float16", 8), ("float16", 0)], everyday=1),
)
def test_steps_through_the_triton_kernels_agree(tmp_path: Path, dtype: str, bits: int) -> None:
    pytest.importorskip("triton")
    folder = save(tmp_path / "small", SMALL)
    command = [sys.executable, "-m", "tests.support.interpreted_steps", folder, dtype, str(bits)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    found = subprocess.run(command, check=True, env=environment, timeout=200, capture_output=True)
    modes = json.loads(found.stdout)
    assert set(modes.values()) == {"graph, triton", "triton"}, found.stderr.decode()
