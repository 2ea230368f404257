"""The cache takes room as it is written, and gives it back when nobody needs it."""

from __future__ import annotations

import asyncio
import mmap
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_hub.errors import NotEnoughError
from llama_hub.inference import worker
from llama_hub.inference.config import PAGE
from llama_hub.inference.kv_cache import KVCache, PagePool
from llama_hub.inference.model import Heads
from llama_hub.inference.native_model import PagedCache
from llama_hub.inference.reserved_memory import ReservedMemory, runs
from tests.inference.conftest import Serving
from tests.support.hf_models import ask, prompt

MIB = 1 << 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@LINUX
def test_what_is_not_written_takes_no_room() -> None:
    before = resident()
    memory = ReservedMemory((1 << 15, MIB), torch.uint8)  # 32 GiB
    assert resident() - before < 8 * MIB
    memory.tensor[5].fill_(7)
    memory.tensor[32_000, :100].fill_(1)
    assert MIB <= resident() - before < 16 * MIB
    memory.give_back(5 * MIB, MIB)
    assert resident() - before < 8 * MIB
    assert int(memory.tensor[5].max()) == 0
    assert int(memory.tensor[32_000, :100].min()) == 1


def test_only_whole_pages_of_what_was_named_go() -> None:
    memory = ReservedMemory((4 * mmap.PAGESIZE,), torch.uint8)
    memory.tensor.fill_(1)
    memory.give_back(100, 2 * mmap.PAGESIZE)
    kept = memory.tensor.clone()
    assert bool(kept[: mmap.PAGESIZE].all())
    assert bool(kept[2 * mmap.PAGESIZE :].all())
    memory.give_back(0, 10)  # less than one
    assert bool(memory.tensor[:10].all())


def test_more_addresses_than_there_are_is_an_error_with_a_way() -> None:
    with pytest.raises(NotEnoughError, match="KV cache") as refused:
        ReservedMemory((1 << 50, 1 << 10), torch.uint8)
    assert "--max-batch" in (refused.value.hint or "")


def test_neighbours_go_together() -> None:
    assert list(runs([])) == []
    assert list(runs([7, 1, 2, 3, 9, 8])) == [(1, 3), (7, 3)]


@pytest.mark.parametrize("kind", ["native", "torch"])
def test_a_caches_other_pages_stay_as_they_are(kind: str) -> None:
    keys, width = 4, mmap.PAGESIZE // (4 * PAGE)  # a page of the cache is one of the system's
    cache: PagedCache | KVCache
    if kind == "native":
        cache = PagedCache(3, 6, Heads(keys, keys, width), torch.float32)
        by_page = cache.data
    else:
        cache = KVCache(3, 6, keys, width, torch.float32, torch.device("cpu"))
        by_page = cache.data.view(3, 2, 6, -1)
    cache.data.fill_(1)
    cache.give_back([1, 2, 5])
    for page in range(6):
        assert bool((by_page[:, :, page] == (0 if page in (1, 2, 5) else 1)).all()), page


# --- the books --------------------------------------------------------------------------------


def test_pages_that_nobody_needs_are_given_back_once() -> None:
    pool = PagePool(6)
    held, done, named = pool.allocate(2), pool.allocate(1), pool.allocate(1)
    pool.name(named[0], b"a")
    pool.release([*done, *named])
    assert pool.give_back(forget=False) == done
    assert pool.give_back(forget=False) == []
    assert pool.find([b"a"]) == named
    assert pool.give_back(forget=True) == named
    assert pool.find([b"a"]) == []
    pool.release(held)
    assert pool.give_back(forget=False) == held
    assert pool.free == 6
    again = pool.allocate(6)
    assert sorted(again) == list(range(6))
    assert pool.give_back(forget=True) == []
    pool.release(again)
    assert pool.give_back(forget=False) == list(range(6))


# --- the engine -------------------------------------------------------------------------------

Model = Callable[..., Path]


@pytest.mark.parametrize("processes", [1, 2])
def test_after_a_rest_an_answer_is_the_same(
    model: Model,
    serving: Serving,
    kernels: None,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    monkeypatch.setattr(worker, "IDLE", 0.01)
    monkeypatch.setattr(worker, "FORGET", 0.01)

    async def run() -> None:
        async with serving(model(), tensor_parallel=processes) as engine:
            gone: list[int] = []
            executor = engine._loaded.executor
            give_back = executor.give_back

            def noted(pages: list[int]) -> None:
                give_back(pages)
                gone.extend(pages)

            executor.give_back = noted
            asked = prompt(3 * PAGE)
            first = await ask(engine, asked, max_tokens=8)
            async with asyncio.timeout(20):
                while len(gone) < 4:  # also those whose beginnings of prompts were kept
                    await asyncio.sleep(0.01)
            again = await ask(engine, asked, max_tokens=8)
            assert again.tokens == first.tokens
            assert again.cached_tokens == 0

    asyncio.run(run())
