"""The same work in several threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait


def worker_count() -> int:
    """Workers worth having: one per core that this process may use, at most eight."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


def in_parallel(work: Callable[[threading.Event], None], workers: int) -> None:
    """Run ``work`` in so many threads; the first failure stops the others and is raised."""
    stop = threading.Event()
    with ThreadPoolExecutor(workers, thread_name_prefix="convert") as pool:
        futures = [pool.submit(work, stop) for _ in range(workers)]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for future in finished:
        future.result()
    for future in futures:
        future.result()
