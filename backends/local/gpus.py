"""This machine's NVIDIA devices: which there are, who holds what of them, which a replica gets.

A deployment records for each of its replicas the identifiers of its devices and the
share of their memory that it was sized for; what all running revisions recorded, and what
other programs use, is taken. So several small services share a device, and none is put on
one that has no room.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from llama_hub.backends.local.documents import Revision
from llama_hub.deploy.sizing import USABLE, UTILIZATION, Need
from llama_hub.errors import NotEnoughError, UsageError

VISIBLE = "CUDA_VISIBLE_DEVICES"
SLACK = 0.02  # of a device, beside what the arithmetic says
IDLE = 0.03  # of a device: what a driver and a display take of it counts as nothing

_CARD = re.compile(r"GPU \d+: .* \(UUID: (GPU-[0-9a-f-]+)\)")
_INSTANCE = re.compile(r"\s+MIG (\d+g\.(\d+)gb\S*)\s+Device\s+\d+: \(UUID: (MIG-\S+)\)")


@dataclass(frozen=True)
class Gpu:
    """A device, or a MIG instance of one."""

    number: int  # of the card, as the driver counts
    uuid: str
    name: str
    memory_bytes: int
    used: float = 0.0  # share of the memory that programs use at the moment, ours included


def gpus(variables: Mapping[str, str] | None = None) -> list[Gpu]:
    """The devices that this process may use: those that ``CUDA_VISIBLE_DEVICES`` leaves."""
    environment = os.environ if variables is None else variables
    cards = _cards()
    if not cards:
        return []
    instances = _instances(cards)
    every = [one for card in cards for one in instances.get(card.uuid, [card])]
    wanted = environment.get(VISIBLE)
    return every if wanted is None else list(_visible(every, wanted))


def _cards() -> list[Gpu]:
    fields = "index,uuid,name,memory.total,memory.used"
    lines = _smi(f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    rows = [line.split(", ") for line in lines if line.count(", ") == 4]
    return [
        Gpu(int(number), uuid, name, int(total) << 20, _share(used, total))
        for number, uuid, name, total, used in rows
        if number.isdigit() and total.isdigit()
    ]


def _share(used: str, total: str) -> float:
    share = int(used) / int(total) if used.isdigit() and int(total) else 0.0
    return share if share > IDLE else 0.0


def _instances(cards: Sequence[Gpu]) -> dict[str, list[Gpu]]:
    """MIG instances by the identifier of their card; CUDA computes on one of them at a time."""
    by_uuid = {card.uuid: card for card in cards}
    instances: dict[str, list[Gpu]] = {}
    card: Gpu | None = None
    for line in _smi("-L"):
        if match := _CARD.match(line):
            card = by_uuid.get(match[1])
        elif card is not None and (match := _INSTANCE.match(line)):
            size = int(match[2]) * 10**9  # the profile's name is what is promised at least
            one = replace(card, uuid=match[3], name=f"{card.name} MIG {match[1]}", used=0.0)
            instances.setdefault(card.uuid, []).append(replace(one, memory_bytes=size))
    return instances


def _smi(*arguments: str) -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _visible(every: Sequence[Gpu], wanted: str) -> Iterable[Gpu]:
    """As CUDA reads the variable: in its order, up to the first entry that names no device."""
    for entry in wanted.split(","):
        matches = [one for one in every if _names(one, entry.strip())]
        if not matches:
            return
        yield matches[0]


def _names(gpu: Gpu, entry: str) -> bool:
    if entry.isdigit():
        return gpu.number == int(entry)
    return len(entry) > 4 and gpu.uuid.startswith(entry)


@dataclass(frozen=True)
class Claim:
    """What a running revision was promised of one device."""

    holder: str  # name of the deployment
    uuid: str
    share: float


def claims(holder: str, revisions: Iterable[Revision]) -> list[Claim]:
    """What the revisions that run were promised."""
    return [
        Claim(holder, uuid, share)
        for revision in revisions
        if revision.run
        for variables in revision.devices.values()
        for uuid, share in _promised(variables)
    ]


def _promised(variables: Mapping[str, str]) -> list[tuple[str, float]]:
    """Devices and share as one replica's variables tell them."""
    try:
        share = float(variables.get(UTILIZATION, USABLE))
    except ValueError:
        share = USABLE
    return [(uuid, share) for uuid in variables.get(VISIBLE, "").split(",") if uuid]


def share_of(
    needs: Sequence[Need], count: int, memory_bytes: int, *, unloads: bool = False
) -> float:
    """The part of each of ``count`` devices that a replica takes, rounded up to hundredths.

    ``needs``: of its models; ``unloads``: whether they take turns where they do not fit together.
    """
    parts = [need.share(count).total_bytes for need in needs]
    wanted = (max(parts) if unloads else sum(parts)) / memory_bytes + SLACK
    return min(USABLE, -(-int(wanted * 10000) // 100) / 100)


class Assignment:
    """Deals devices out to the replicas of one revision.

    ``taken``: claims of all running revisions, this deployment's own included.
    ``kept``: what the same revision was given before, which it keeps.
    """

    def __init__(
        self,
        devices: Sequence[Gpu],
        taken: Sequence[Claim],
        holder: str,
        kept: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._devices = devices
        self._taken = taken
        self._holder = holder
        self._kept = kept or {}

    def deal(
        self,
        replicas: int,
        count: int,
        needs: Sequence[Need],
        named: Sequence[int | str] | None = None,
        *,
        unloads: bool = False,
    ) -> dict[str, dict[str, str]]:
        """Variables by the replica's number, ``count`` devices each.

        ``named``: the only devices to use, by number or identifier. ``needs`` and ``unloads``: as
        for ``share_of``. ``NotEnoughError`` names who
        holds what where there is no room. ``UsageError`` if there are fewer devices than that.
        """
        pool = list(self._devices) if named is None else [self._find(each) for each in named]
        if len(pool) < count or (named and len(pool) < count * replicas):
            raise UsageError(
                f"{replicas} replicas of {count} devices need {count * replicas}; "
                f"{'options.gpus names' if named else 'there are'} {len(pool)}"
            )
        memory = min(one.memory_bytes for one in pool)
        share = share_of(needs, count, memory, unloads=unloads)
        if self._still_good(replicas, count, pool):
            return {number: dict(variables) for number, variables in self._kept.items()}
        room = {one.uuid: USABLE - self._used(one) for one in pool}
        dealt: dict[str, dict[str, str]] = {}
        for number in range(replicas):
            free = [one for one in pool if room[one.uuid] >= share - 1e-9]
            if named is None:  # the emptiest first; devices that are named are meant in order
                free.sort(key=lambda one: -room[one.uuid])
            if len(free) < count:
                raise self._no_room(pool, count, share)
            for one in free[:count]:
                room[one.uuid] -= share
            uuids = ",".join(one.uuid for one in free[:count])
            dealt[str(number)] = {VISIBLE: uuids, UTILIZATION: f"{share:.2f}"}
        return dealt

    def _find(self, named: int | str) -> Gpu:
        for one in self._devices:
            if _names(one, str(named)):
                return one
        listed = ", ".join(f"{one.number} ({one.uuid})" for one in self._devices) or "none"
        raise UsageError(f"options.gpus names {named!r}; the devices are {listed}")

    def _still_good(self, replicas: int, count: int, pool: Sequence[Gpu]) -> bool:
        """Whether what the revision has is what it would ask for."""
        known = {one.uuid for one in pool}
        given = [each.get(VISIBLE, "").split(",") for each in self._kept.values()]
        return len(given) == replicas and all(
            len(uuids) == count and known.issuperset(uuids) for uuids in given
        )

    def _used(self, gpu: Gpu) -> float:
        """What is promised of it, or used where that is more."""
        return max(gpu.used, sum(one.share for one in self._taken if one.uuid == gpu.uuid))

    def _no_room(self, pool: Sequence[Gpu], count: int, share: float) -> NotEnoughError:
        lines = []
        for one in pool:
            holders = sorted({each.holder for each in self._taken if each.uuid == one.uuid})
            by = ", ".join(holders) if holders else "other programs"
            lines.append(f"{one.number} ({one.name}) is taken to {self._used(one):.0%} by {by}")
        own = any(each.holder == self._holder for each in self._taken)
        return NotEnoughError(
            f"each replica needs {share:.0%} of {count} device(s), in addition to what runs there: "
            + "; ".join(lines),
            hint="llama-hub delete one of them, a smaller context, concurrency or quantization"
            + ("; an update runs beside the old revision until it is ready" if own else ""),
        )
