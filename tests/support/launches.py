"""What a computation would launch on a GPU, counted on the CPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = {
    "view", "_unsafe_view", "slice", "select", "unsqueeze", "squeeze", "expand", "t", "transpose",
    "split", "as_strided", "detach", "permute", "alias", "unbind", "view.dtype", "lift_fresh",
}  # fmt: skip
WAITS = {"_local_scalar_dense", "nonzero", "equal", "item", "is_nonzero", "masked_select"}


class Launches(TorchDispatchMode):
    """Counts torch's operations but views; ``waits``: those for which the host must wait.

    It cannot see how many kernels one operation launches, nor copies made by ``tolist``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Operations that compute something."""
        return self.operations.total()

    @property
    def waits(self) -> int:
        """Operations whose result decides what comes next on the host."""
        return sum(self.operations[name] for name in WAITS)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func._schema.name.partition("::")[2]
        if name not in VIEWS:
            self.operations[name] += 1
        result: Any = func(*args, **(kwargs or {}))
        return result
