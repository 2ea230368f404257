"""A machine that reads the pickle of a checkpoint without executing it.

The opcodes are read one by one and acted out on plain tuples: a *global* becomes a name, and the
only calls that are understood are those that rebuild a tensor or a dictionary. Anything else is
refused by name; no object is built, nothing is imported. (Subclassing ``pickle.Unpickler`` would
run whatever slips through a filter.)

A value is only ever pushed, kept by reference and compared by its type: nothing here prints, hashes
or compares what a file has put together, because a few bytes can describe a tuple of tuples whose
text has more letters than there are atoms.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_hub.errors import IntegrityError, UnsafePickleError

_STORAGES = {
    "BFloat16Storage": ("bfloat16", 2), "HalfStorage": ("float16", 2),
    "FloatStorage": ("float32", 4), "DoubleStorage": ("float64", 8), "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4), "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1), "BoolStorage": ("bool", 1),
}  # fmt: skip
_REBUILD = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_PARAMETER_WITH_STATE = "torch._utils _rebuild_parameter_with_state"  # attributes of its own
_ORDERED = "collections OrderedDict"
_ALLOWED = {
    _REBUILD,
    _PARAMETER,
    _PARAMETER_WITH_STATE,
    _ORDERED,
    *(f"torch {name}" for name in _STORAGES),
}
ITEM_BYTES = dict(_STORAGES.values())  # by dtype
MAX_STEPS = 1 << 19  # opcodes; Llama 2 70B's pickle has 30,000 for 723 tensors
MAX_RANK = 8  # dimensions of a tensor
MAX_NAME = 200  # characters of a global, a key or a tensor's name


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class Storage:
    """What a persistent id stands for."""

    key: str
    dtype: str
    count: int  # elements


@dataclass(frozen=True)
class View:
    """What ``_rebuild_tensor_v2`` would have built."""

    storage: Storage
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # elements


def read_pickle(data: bytes, where: str) -> Any:
    """The value that the pickle describes, with globals as names and tensors as views.

    ``UnsafePickleError`` names what it asks for beyond tensors; ``IntegrityError`` if it is torn.
    """
    return read_pickles(data, where, 1)[0][0]


def read_pickles(
    data: bytes, where: str, count: int
) -> tuple[list[Any], Mapping[str, Storage], int]:
    """The values of ``count`` pickles one after the other, every storage, and where they end."""
    stream, values = io.BytesIO(data), []
    storages: dict[str, Storage] = {}
    for _ in range(count):
        machine = _Machine(where, storages=storages)
        values.append(_run(machine, stream))
    return values, storages, stream.tell()


def _run(machine: _Machine, stream: io.BytesIO) -> Any:
    where = machine.where
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_STEPS:
                raise IntegrityError(f"the pickle in {where} has more than {MAX_STEPS} steps")
            machine.step(opcode.name, argument)
            if opcode.name == "STOP":
                return machine.result
    except (UnsafePickleError, IntegrityError):
        raise
    except _DAMAGE as error:
        raise IntegrityError(f"the pickle in {where} is damaged: {_reason(error)}") from error
    raise IntegrityError(f"the pickle in {where} is torn")


_DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error, OverflowError,
    EOFError, RecursionError, MemoryError,
)  # fmt: skip


def _reason(error: Exception) -> str:
    """In few words; an error of decoding would quote all that it could not decode."""
    if isinstance(error, UnicodeDecodeError):
        return "a text is not UTF-8"
    return f"{type(error).__name__}: {error}"[:MAX_NAME]


@dataclass
class _Machine:
    """A pickle machine that builds nothing but tuples, lists, dictionaries and views."""

    where: str
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)  # by key
    result: Any = None

    def step(self, name: str, argument: Any) -> None:
        """Act out one opcode."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in _NOTHING:
            raise self.unsafe(f"the opcode {name}")

    def unsafe(self, what: str) -> UnsafePickleError:
        """The refusal."""
        return UnsafePickleError(
            f"the pickle in {self.where} asks for {what[:200]}, which no checkpoint of a Llama "
            "model needs; it was not run",
            hint="do not trust this file; download the model from its origin",
        )

    def pop_to_mark(self) -> list[Any]:
        """What was pushed since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def global_(self, argument: str) -> None:
        """A name, if it is one of the few that checkpoints need."""
        if argument not in _ALLOWED:
            raise self.unsafe(argument[:MAX_NAME].replace(" ", "."))
        self.stack.append(_Global(argument))

    def stack_global(self, _: Any) -> None:
        """The same with module and name on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a global whose name is no text")
        self.global_(f"{module[:MAX_NAME]} {name[:MAX_NAME]}")

    def reduce(self, _: Any) -> None:
        """A call, of which three are understood."""
        arguments, called = self.stack.pop(), self.stack.pop()
        known = _CALLS.get(called.name) if isinstance(called, _Global) else None
        if known is None:
            what = called.name if isinstance(called, _Global) else type(called).__name__
            raise self.unsafe(f"a call of {what}")
        self.stack.append(known(self, arguments))

    def persistent_id(self, _: Any) -> None:
        """``("storage", type, key, device, element count)``; before torch 1.6 also its view."""
        found = self.stack.pop()
        kind, storage_type, key, _device, count = _tuple(found, 5)
        name = storage_type.name if isinstance(storage_type, _Global) else ""
        known = _STORAGES.get(name.removeprefix("torch "))
        if _text(kind) != "storage" or known is None or len(found) > 6:
            raise self.unsafe("a persistent object that is no storage")
        if found[5:] not in ((), (None,)):
            raise ValueError("a storage that is a view of another")
        storage = Storage(_text(key), known[0], _whole(count))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError("a storage that is described in two ways")
        self.stack.append(storage)

    def view(self, arguments: tuple[Any, ...]) -> View:
        """``(storage, offset, size, stride, requires_grad, hooks, …)``."""
        storage, offset, shape, stride = _tuple(arguments, 4)
        if not isinstance(storage, Storage):
            raise ValueError("a tensor without a storage")
        return View(storage, _whole(offset), _sizes(shape), _sizes(stride))

    def parameter(self, arguments: tuple[Any, ...]) -> Any:
        """``(tensor, requires_grad, hooks[, attributes])``; only the tensor is wanted."""
        return _tuple(arguments, 1)[0]

    def ordered(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        """An ordered dictionary, empty: its items follow by SETITEMS."""
        if arguments != ():
            raise self.unsafe("a dictionary made from arguments")
        return {}

    def set_items(self, items: Sequence[Any]) -> None:
        """Pairs into the dictionary on top."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_text(key)] = value

    def extend(self, items: Sequence[Any]) -> None:
        """Items onto the list on top."""
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError("items for what is no list")
        target.extend(items)

    def build(self, _: Any) -> None:
        """Attributes: a state dictionary carries ``_metadata``; nobody needs it here."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise self.unsafe("attributes of an object")

    def tuple_of(self, count: int) -> None:
        """The last ``count`` values as a tuple."""
        if count > len(self.stack):
            raise ValueError("too few values for a tuple")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def finish(self, _: Any) -> None:
        """The end."""
        self.result = self.stack.pop()


def _tuple(value: Any, least: int) -> tuple[Any, ...]:
    """The first ``least`` items of a tuple."""
    if type(value) is not tuple or len(value) < least:
        raise ValueError(f"{type(value).__name__} where a tuple of {least} belongs")
    return value[:least]


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > MAX_NAME:
        raise ValueError(f"{type(value).__name__} where a short text belongs")
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    """A shape or a stride."""
    if type(value) is not tuple or len(value) > MAX_RANK:
        raise ValueError(f"a shape that is no tuple of at most {MAX_RANK}")
    return tuple(map(_whole, value))


def _whole(value: Any) -> int:
    if type(value) is not int or not -(1 << 62) < value < 1 << 62:
        raise ValueError(f"{type(value).__name__} where a size belongs")
    return value


_CALLS: dict[str, Callable[[_Machine, Any], Any]] = {
    _REBUILD: _Machine.view,
    _PARAMETER: _Machine.parameter,
    _PARAMETER_WITH_STATE: _Machine.parameter,
    _ORDERED: _Machine.ordered,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_NOTHING = {"PROTO", "FRAME"}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.stack.__delitem__(-1),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "BINPUT": lambda machine, index: machine.memo.__setitem__(index, machine.stack[-1]),
    "LONG_BINPUT": lambda machine, index: machine.memo.__setitem__(index, machine.stack[-1]),
    "MEMOIZE": lambda machine, _: machine.memo.__setitem__(len(machine.memo), machine.stack[-1]),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BINPERSID": _Machine.persistent_id,
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "BUILD": _Machine.build,
    "STOP": _Machine.finish,
}
