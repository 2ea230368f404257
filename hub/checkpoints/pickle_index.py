"""Where the tensors lie in a ``.pth`` file, found without executing its pickle.

A ``.pth`` is a zip whose members are stored uncompressed: ``NAME/data.pkl`` describes the tensors,
``NAME/data/KEY`` holds the bytes of one storage. The pickle's opcodes are read one by one and
acted out on plain tuples: a *global* becomes a name, and the only calls that are understood are
those that rebuild a tensor or a dictionary. Anything else is refused by name; no object is built,
nothing is imported. (Subclassing ``pickle.Unpickler`` would run whatever slips through a filter.)
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from llama_hub.errors import IntegrityError, UnsafePickleError

MAX_PICKLE = 64 << 20  # bytes; Llama 2 70B's is 60 kB
MAX_MEMBERS = 100_000

_STORAGES = {
    "BFloat16Storage": ("bfloat16", 2), "HalfStorage": ("float16", 2),
    "FloatStorage": ("float32", 4), "DoubleStorage": ("float64", 8), "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4), "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1), "BoolStorage": ("bool", 1),
}  # fmt: skip
_REBUILD = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_ORDERED = "collections OrderedDict"
_ALLOWED = {_REBUILD, _PARAMETER, _ORDERED, *(f"torch {name}" for name in _STORAGES)}


@dataclass
class Record:
    """One storage: a stored zip member."""

    path: Path
    name: str
    offset: int  # of its first byte in the file
    size: int  # bytes
    crc: int  # CRC-32 that the zip states


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a strided view of a storage."""

    record: Record
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # elements
    offset: int  # of its first element in the file, bytes

    @property
    def is_whole_record(self) -> bool:
        """Whether the tensor is contiguous and is all that the record holds."""
        contiguous = self.stride == _contiguous(self.shape)
        return contiguous and math.prod(self.shape) * self.item_bytes == self.record.size

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return _ITEM_BYTES[self.dtype]


_ITEM_BYTES = dict(_STORAGES.values())


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    count: int  # elements


@dataclass(frozen=True)
class _View:
    """What ``_rebuild_tensor_v2`` would have built."""

    storage: _Storage
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # elements


def read_index(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of the file by name.

    ``UnsafePickleError`` if the pickle asks for anything but tensors; ``IntegrityError`` if the
    file is not a whole zip of that form, or a tensor does not lie inside its storage.
    """
    try:
        with path.open("rb") as file:
            _check_magic(path, file.read(512))
            with zipfile.ZipFile(file) as archive:
                records = _records(path, archive, file)
                prefix, pickle = _pickle(path, archive)
                _check_byte_order(path, archive, prefix)
    except (zipfile.BadZipFile, NotImplementedError, struct.error, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    except (EOFError, UnicodeDecodeError, OverflowError, ValueError, RuntimeError) as error:
        raise _damaged(path, repr(error)) from error
    views = _tensors(path, read_pickle(pickle, str(path)))
    return {name: _located(path, name, view, records, prefix) for name, view in views.items()}


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged or incomplete: {why}",
        hint="download it again, or repair it with llama-hub verify --repair",
    )


def _check_magic(path: Path, start: bytes) -> None:
    if start[:2] == b"PK":
        return
    if start.lstrip()[:1] == b"<":
        raise IntegrityError(
            f"{path} is a web page, not weights: the download link had expired",
            hint="ask for a new link and download the file again",
        )
    if start[:1] == b"\x80":
        raise IntegrityError(
            f"{path} has the form of torch before 1.6 (no zip), which cannot be read by offset",
            hint="save it again with a current torch",
        )
    raise _damaged(path, "it does not begin as a zip archive")


def _records(path: Path, archive: zipfile.ZipFile, file: IO[bytes]) -> dict[str, Record]:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise _damaged(path, f"it has {len(members)} members")
    records: dict[str, Record] = {}
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise _damaged(path, f"member {member.filename!r} is compressed or encrypted")
        if member.file_size != member.compress_size or member.filename in records:
            raise _damaged(path, f"member {member.filename!r} is inconsistent")
        start = _data_start(path, file, member)
        records[member.filename] = Record(
            path, member.filename, start, member.file_size, member.CRC
        )
    _check_spans(path, records.values(), archive.start_dir)
    return records


def _data_start(path: Path, file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """From the local header: its extra field (alignment padding) is not the directory's."""
    if member.header_offset < 0:
        raise _damaged(path, f"member {member.filename!r} lies before the file")
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise _damaged(path, f"member {member.filename!r} has no header")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return member.header_offset + 30 + int(name_length) + int(extra_length)


def _check_spans(path: Path, records: Iterable[Record], end: int) -> None:
    at, before = 0, ""
    for record in sorted(records, key=lambda record: (record.offset, record.size)):
        if record.offset < at or record.offset + record.size > end:
            raise _damaged(path, f"member {record.name!r} overlaps {before!r} or the file's end")
        at, before = record.offset + record.size, record.name


def _pickle(path: Path, archive: zipfile.ZipFile) -> tuple[str, bytes]:
    """The archive's top folder with ``/`` and the content of its ``data.pkl``, CRC checked."""
    found = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(found) != 1:
        raise _damaged(path, "it holds no data.pkl")
    if archive.getinfo(found[0]).file_size > MAX_PICKLE:
        raise _damaged(path, "its data.pkl is too large to be a description of tensors")
    return found[0].removesuffix("data.pkl"), archive.read(found[0])


def _check_byte_order(path: Path, archive: zipfile.ZipFile, prefix: str) -> None:
    name = prefix + "byteorder"
    if name in archive.namelist() and archive.getinfo(name).file_size < 64:
        order = archive.read(name)
        if order != b"little":
            raise IntegrityError(f"{path} has byte order {order!r}; only little-endian is read")


def _located(
    path: Path, name: str, view: _View, records: dict[str, Record], prefix: str
) -> StoredTensor:
    record = records.get(f"{prefix}data/{view.storage.key}")
    item = _ITEM_BYTES[view.storage.dtype]
    if record is None:
        raise _damaged(path, f"the bytes of {name!r} are missing")
    if record.size != view.storage.count * item:
        raise _damaged(path, f"{name!r} says {view.storage.count} elements, not what is stored")
    _check_view(path, name, view)
    start = record.offset + view.offset * item
    return StoredTensor(record, view.storage.dtype, view.shape, view.stride, start)


def _check_view(path: Path, name: str, view: _View) -> None:
    if len(view.shape) != len(view.stride) or len(view.shape) > 8:
        raise _damaged(path, f"{name!r} has shape {view.shape} and stride {view.stride}")
    if min((*view.shape, *view.stride, view.offset), default=0) < 0:
        raise _damaged(path, f"{name!r} has negative sizes")
    last = sum((size - 1) * step for size, step in zip(view.shape, view.stride, strict=True))
    if 0 not in view.shape and view.offset + last >= view.storage.count:
        raise _damaged(path, f"{name!r} reaches outside its storage")


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _tensors(path: Path, content: Any) -> dict[str, _View]:
    if not isinstance(content, dict):
        raise _damaged(path, "its pickle is not a dictionary of tensors")
    found = {str(name): value for name, value in content.items() if isinstance(value, _View)}
    if not found:
        raise _damaged(path, "its pickle holds no tensor")
    return found


def read_pickle(data: bytes, where: str) -> Any:
    """The value that the pickle describes, with globals as names and tensors as views.

    ``UnsafePickleError`` names what it asks for beyond tensors; ``IntegrityError`` if it is torn.
    """
    machine = _Machine(where)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
            if opcode.name == "STOP":
                return machine.result
    except (UnsafePickleError, IntegrityError):
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error) as error:
        raise IntegrityError(f"the pickle in {where} is damaged: {error!r}") from error
    except (OverflowError, EOFError, UnicodeError, RecursionError, MemoryError) as error:
        raise IntegrityError(f"the pickle in {where} is damaged: {error!r}") from error
    raise IntegrityError(f"the pickle in {where} is torn")


@dataclass
class _Machine:
    """A pickle machine that builds nothing but tuples, lists, dictionaries and views."""

    where: str
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
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
            raise self.unsafe(argument.replace(" ", "."))
        self.stack.append(_Global(argument))

    def stack_global(self, _: Any) -> None:
        """The same with module and name on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        self.global_(f"{module!s} {name!s}")

    def reduce(self, _: Any) -> None:
        """A call, of which three are understood."""
        arguments, called = self.stack.pop(), self.stack.pop()
        known = _CALLS.get(called.name) if isinstance(called, _Global) else None
        if known is None:
            what = called.name if isinstance(called, _Global) else type(called).__name__
            raise self.unsafe(f"a call of {what}")
        self.stack.append(known(self, arguments))

    def persistent_id(self, _: Any) -> None:
        """``("storage", type, key, device, element count)``."""
        kind, storage_type, key, _device, count = self.stack.pop()
        known = _STORAGES.get(storage_type.name.removeprefix("torch "))
        if kind != "storage" or known is None or not isinstance(key, str):
            raise self.unsafe("a persistent object that is no storage")
        self.stack.append(_Storage(key, known[0], _whole(count)))

    def view(self, arguments: tuple[Any, ...]) -> _View:
        """``(storage, offset, size, stride, requires_grad, hooks, …)``."""
        storage, offset, shape, stride = arguments[:4]
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        return _View(storage, _whole(offset), tuple(map(_whole, shape)), tuple(map(_whole, stride)))

    def parameter(self, arguments: tuple[Any, ...]) -> Any:
        """``(tensor, requires_grad, hooks)``."""
        return arguments[0]

    def ordered(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        """An ordered dictionary, empty: its items follow by SETITEMS."""
        if arguments:
            raise self.unsafe("a dictionary made from arguments")
        return {}

    def set_items(self, items: Sequence[Any]) -> None:
        """Pairs into the dictionary on top."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise ValueError("a key that is no text")
            target[key] = value

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


def _whole(value: Any) -> int:
    if type(value) is not int or not -(1 << 62) < value < 1 << 62:
        raise ValueError(f"{type(value).__name__} where a size belongs")
    return value


_CALLS: dict[str, Callable[[_Machine, Any], Any]] = {
    _REBUILD: _Machine.view,
    _PARAMETER: _Machine.parameter,
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
