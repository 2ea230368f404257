"""What this machine has: memory and accelerators."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def host_memory() -> int:
    """Bytes of memory of this machine, or what its control group allows."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        return min(total, int(text))
    return total


def gpus() -> list[tuple[int, str, int]]:
    """Number, name and bytes of each NVIDIA device, as the driver lists them."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 2]
    return [(int(number), name, int(mib) << 20) for number, name, mib in rows if mib.isdigit()]
