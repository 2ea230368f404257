"""The index of the tensors in a ``.pth`` file, found without executing its pickle.

A ``.pth`` is a zip whose members are stored uncompressed: ``NAME/data.pkl`` describes the tensors
(see ``pickle_machine``), ``NAME/data/KEY`` holds the bytes of one storage, of which a tensor is a
strided view. Every size is checked before it is believed.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llama_hub.errors import IntegrityError
from llama_hub.files import open_regular
from llama_hub.hub.checkpoints import diagnosis, legacy_pickle
from llama_hub.hub.checkpoints.pickle_machine import ITEM_BYTES, View, read_pickle

MAX_PART = 4 << 20  # bytes of the pickle, and of the zip's directory; Llama 2 70B's have 60 kB
MAX_MEMBERS = 20_000


@dataclass
class Record:
    """One storage: a stored zip member."""

    path: Path
    name: str
    offset: int  # of its first byte in the file
    size: int  # bytes
    crc: int | None  # CRC-32 that the zip states; torch before 1.6 states none


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
        return ITEM_BYTES[self.dtype]


def read_index(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of the file by name.

    ``UnsafePickleError`` if the pickle asks for anything but tensors; ``IntegrityError`` if the
    file is not a whole zip of that form, or a tensor does not lie inside its storage.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            start = file.read(512)
            _check_magic(path, start)
            if start[:1] == b"\x80":
                return _read_legacy(path, file)
            with zipfile.ZipFile(_Frugal(file)) as archive:
                records = _records(path, archive, file)
                prefix, pickle = _pickle(path, archive)
                _check_byte_order(path, archive, prefix)
    except (zipfile.BadZipFile, NotImplementedError, struct.error, zlib.error) as error:
        raise _damaged(path, str(error)[:200]) from error
    except (EOFError, UnicodeDecodeError, OverflowError, ValueError, RuntimeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}"[:200]) from error
    views = _tensors(path, read_pickle(pickle, str(path)))
    return _index(path, views, records, f"{prefix}data/")


def _read_legacy(path: Path, file: IO[bytes]) -> dict[str, StoredTensor]:
    """The index of a file of torch before 1.6, which has no checksums."""
    content, spans = legacy_pickle.read(path, file)
    records = {key: Record(path, key, span.offset, span.size, None) for key, span in spans.items()}
    return _index(path, _tensors(path, content), records, "")


def _index(
    path: Path, views: Mapping[str, View], records: Mapping[str, Record], prefix: str
) -> dict[str, StoredTensor]:
    """Every tensor where its storage lies; ``prefix``: of a storage's name before its key."""
    found = {name: _located(path, name, view, records, prefix) for name, view in views.items()}
    _check_amount(path, found.values(), records.values())
    return found


class _Frugal:
    """The file as ``zipfile`` sees it, which would read a directory of any size at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, count: int = -1) -> bytes:
        if count > MAX_PART:
            raise zipfile.BadZipFile(f"its directory has {count} bytes")
        return self._file.read(count if count >= 0 else MAX_PART)

    def seekable(self) -> bool:
        return True


def _check_amount(path: Path, tensors: Iterable[StoredTensor], records: Iterable[Record]) -> None:
    """A file is as large as what it holds: views that share bytes cannot stand for terabytes.

    Twice, since a tied output matrix is the embedding once more.
    """
    stated = sum(math.prod(tensor.shape) * tensor.item_bytes for tensor in tensors)
    stored = sum(record.size for record in records)
    if stated > 2 * stored:
        raise _damaged(path, f"its tensors have {stated} bytes and it holds {stored}")


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged or incomplete: {why}",
        hint="download it again, or repair it with llama-hub verify --repair",
    )


def _check_magic(path: Path, start: bytes) -> None:
    if start[:2] == b"PK":
        return
    diagnosis.refuse_lfs_pointer(path, start)
    if start.lstrip()[:1] == b"<":
        raise IntegrityError(
            f"{path} is a web page, not weights: the download link had expired",
            hint="ask for a new link and download the file again",
        )
    if start[:1] == b"\x80":
        return
    if start[257:262] == b"ustar":
        raise IntegrityError(
            f"{path} has the form of torch before 0.2 (a tar archive), which is not read here",
            hint="load it with an old torch and save it again with a current one",
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
    if archive.getinfo(found[0]).file_size > MAX_PART:
        raise _damaged(path, "its data.pkl is too large to be a description of tensors")
    return found[0].removesuffix("data.pkl"), archive.read(found[0])


def _check_byte_order(path: Path, archive: zipfile.ZipFile, prefix: str) -> None:
    name = prefix + "byteorder"
    if name in archive.namelist() and archive.getinfo(name).file_size < 64:
        order = archive.read(name)
        if order != b"little":
            raise IntegrityError(f"{path} has byte order {order!r}; only little-endian is read")


def _located(
    path: Path, name: str, view: View, records: Mapping[str, Record], prefix: str
) -> StoredTensor:
    record = records.get(f"{prefix}{view.storage.key}")
    item = ITEM_BYTES[view.storage.dtype]
    if record is None:
        raise _damaged(path, f"the bytes of {name!r} are missing")
    if record.size != view.storage.count * item:
        raise _damaged(path, f"{name!r} says {view.storage.count} elements, not what is stored")
    _check_view(path, name, view)
    start = record.offset + view.offset * item
    return StoredTensor(record, view.storage.dtype, view.shape, view.stride, start)


def _check_view(path: Path, name: str, view: View) -> None:
    if len(view.shape) != len(view.stride):
        raise _damaged(path, f"{name!r} has shape {view.shape} and stride {view.stride}")
    if min((*view.shape, *view.stride, view.offset), default=0) < 0:
        raise _damaged(path, f"{name!r} has negative sizes")
    last = sum((size - 1) * step for size, step in zip(view.shape, view.stride, strict=True))
    if math.prod(view.shape) > view.storage.count:
        raise _damaged(path, f"{name!r} has more elements than its storage")
    if 0 not in view.shape and view.offset + last >= view.storage.count:
        raise _damaged(path, f"{name!r} reaches outside its storage")


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _tensors(path: Path, content: Any) -> dict[str, View]:
    if not isinstance(content, dict):
        raise _damaged(path, "its pickle is not a dictionary of tensors")
    found = {str(name): value for name, value in content.items() if isinstance(value, View)}
    if not found:
        raise _damaged(path, "its pickle holds no tensor")
    return found
