"""The host: how much memory this machine has."""

from __future__ import annotations

import os
from pathlib import Path


def host_memory() -> int:
    """Bytes of memory of this machine, or what its control group allows."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        return min(total, int(text))
    return total
