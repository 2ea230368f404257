"""Collective operations of a tensor-parallel model's processes within a step."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Collective(Protocol):
    """Sums and gathers over ``size`` processes."""

    size: int

    def sum(self, partial: Tensor) -> Tensor:
        """The sum of all processes' ``partial``, in place."""
        ...

    def gather(self, part: Tensor) -> Tensor:
        """The processes' columns side by side, ``[R, sum of widths]``; on the first process."""
        ...

    def least(self, number: int) -> int:
        """The smallest of all processes' numbers: how they agree on what each of them can do."""
        ...


class Alone:
    """One process: nothing to do."""

    size = 1

    def sum(self, partial: Tensor) -> Tensor:
        return partial

    def gather(self, part: Tensor) -> Tensor:
        return part

    def least(self, number: int) -> int:
        return number
