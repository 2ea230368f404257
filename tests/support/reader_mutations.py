"""Sound weight files, changed where their format keeps its structure.

Each function takes a random generator and a sound file's bytes. What it cannot prove: what a
mutation that it never makes would do.
"""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = [0, 1, 2, 7, 127, 128, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
           1 << 32, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]  # fmt: skip
WORDS = ["", "0", "x", "\0", "torch FloatStorage", "storage", "data.pkl", "é", "\ud800x", "[" * 50,
         "a" * 5000, "__metadata__", "F32", "BF16", "-1", "1e999", "cpu"]  # fmt: skip


def raw_bytes(rng: random.Random, good: bytes) -> bytes:
    """Flips, runs, cuts and doublings at the head or the tail."""
    data = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        edge = min(len(data), rng.choice((64, 512, 8192)))
        if not edge:
            break
        at = rng.choice((rng.randrange(edge), len(data) - 1 - rng.randrange(edge)))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + 8] = (rng.choice(NUMBERS)).to_bytes(8, "little")
            case 2:
                data[at : at + 4] = (rng.choice(NUMBERS) & 0xFFFFFFFF).to_bytes(4, "little")
            case 3:
                del data[at : at + rng.randint(1, 300)]
            case 4:
                data[at:at] = data[at : at + rng.randint(1, 300)] * rng.choice((1, 2, 300))
            case _:
                data[at : at + rng.randint(1, 16)] = rng.randbytes(rng.randint(1, 16))
    return bytes(data)


# Pickles in zips


def _opcodes(rng: random.Random) -> bytes:
    """A few random instructions with arguments that make trouble."""
    number = rng.choice(NUMBERS)
    text = rng.choice(WORDS).encode("utf-8", "surrogatepass")
    small = bytes([rng.randrange(256)])
    return rng.choice([
        b"(", b")", b"]", b"}", b"N", b"\x88", b"0", b"1", b"2", b"t", b"\x85", b"\x86", b"\x87",
        b"e", b"a", b"s", b"u", b"b", b"R", b"Q", b"\x93", b"\x94", b".", b"\x81", b"\x92", b"o",
        b"h" + small, b"q" + small, b"j" + struct.pack("<I", number & 0xFFFFFFFF),
        b"r" + struct.pack("<I", number & 0xFFFFFFFF), b"K" + small,
        b"J" + struct.pack("<I", number & 0xFFFFFFFF), b"\x8a\x09" + number.to_bytes(9, "little"),
        b"\x8b" + struct.pack("<I", number & 0xFFFFFFFF) + b"\x7f" * 8,
        b"G" + struct.pack(">d", rng.choice((0.0, 1e308, float("inf"), float("nan")))),
        b"X" + struct.pack("<I", len(text)) + text, b"\x8c" + bytes([len(text) & 255]) + text,
        b"\x8d" + struct.pack("<Q", number) + text, b"B" + struct.pack("<I", len(text)) + text,
        b"c" + text.replace(b"\n", b"") + b"\nx\n", b"ctorch\nFloatStorage\n",
        b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n",
        b"\x95" + struct.pack("<Q", number), b"I" + str(number).encode() + b"\n",
        b"L" + b"9" * rng.choice((1, 5000)) + b"L\n", b"F1e999\n", b"S'x'\n", b"Pid\n", b"\x80\x05",
        b"K\x01" + b"q\x00h\x00\x86" * rng.choice((2, 60)),
    ])  # fmt: skip


def pickle(rng: random.Random, good: bytes) -> bytes:
    """Instructions removed, doubled, moved and put in."""
    starts = [at for _, _, at in pickletools.genops(good) if at is not None] + [len(good)]
    parts = [good[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(parts))
        match rng.randrange(6):
            case 0:
                del parts[at : at + rng.randint(1, 5)]
            case 1:
                parts[at:at] = parts[at : at + rng.randint(1, 20)] * rng.choice((1, 3, 500))
            case 2:
                other = rng.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case _:
                parts[at : at + rng.randrange(2)] = [_opcodes(rng)] * rng.choice((1, 1, 1, 2000))
        if not parts:
            return b""
    return b"".join(parts)


def pth(rng: random.Random, good: bytes) -> bytes:
    """The pickle, the members or the container."""
    if rng.random() < 0.25:
        return raw_bytes(rng, good)
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    if rng.random() < 0.8:
        members = [
            (name, pickle(rng, data) if name.endswith("data.pkl") else data)
            for name, data in members
        ]
    else:
        at = rng.randrange(len(members))
        name, data = members[at]
        members[at] = rng.choice([
            (name, data[: len(data) // 2]), (name + rng.choice(WORDS), data), (name, data * 3),
            ("/" + name, data), ("../" + name, data), (name.upper(), data), (name, b""),
        ])  # fmt: skip
    out = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name.replace("\ud800", "?")), data, method)
    return out.getvalue()


# safetensors


def _value(rng: random.Random) -> Any:
    return rng.choice([
        None, True, [], {}, "", 1.5, -1, "9", [[]], rng.choice(NUMBERS), rng.choice(WORDS),
        [rng.choice(NUMBERS)] * rng.choice((1, 3, 9, 3000)), {"a": rng.choice(NUMBERS)},
    ])  # fmt: skip


def _change(rng: random.Random, document: dict[str, Any]) -> None:
    name = rng.choice(list(document))
    entry = document[name]
    if rng.random() < 0.3 or not isinstance(entry, dict) or not entry:
        document[rng.choice((name, rng.choice(WORDS)))] = rng.choice((entry, _value(rng)))
        return
    key = rng.choice(list(entry))
    if rng.random() < 0.2:
        del entry[key]
    elif isinstance(entry[key], list) and entry[key] and rng.random() < 0.7:
        entry[key][rng.randrange(len(entry[key]))] = rng.choice((_value(rng), rng.choice(NUMBERS)))
    else:
        entry[rng.choice((key, "extra"))] = _value(rng)


def safetensors(rng: random.Random, good: bytes) -> bytes:
    """The header's document, its length, or its bytes."""
    if rng.random() < 0.2:
        return raw_bytes(rng, good)
    size = int.from_bytes(good[:8], "little")
    document = json.loads(good[8 : 8 + size])
    for _ in range(rng.randint(1, 3)):
        _change(rng, document)
    text = json.dumps(document).encode()
    if rng.random() < 0.1:
        text = text.replace(b'"shape"', b'"dtype"', 1)
    stated = rng.choice((len(text),) * 12 + tuple(NUMBERS[:8]))
    return struct.pack("<Q", stated) + text + good[8 + size :]


# GGUF


def gguf(rng: random.Random, good: bytes) -> bytes:
    """Counts, lengths, types, dimensions and offsets, wherever one of them stands."""
    if rng.random() < 0.2:
        return raw_bytes(rng, good)
    data = bytearray(good)
    marks = [4, 8, 16]
    for word in (b"llama.", b"general.", b"tokenizer.", b"blk.", b"token_embd", b"output"):
        at = data.find(word)
        while 0 <= at < 100_000:
            marks += [at - 8, at + len(word), at + 20, at + 28, at + 36]
            at = data.find(word, at + 1)
    for _ in range(rng.randint(1, 4)):
        at = rng.choice(marks) + rng.randint(-8, 8)
        width = rng.choice((1, 4, 8))
        if 0 <= at < len(data) - width:
            number = rng.choice(NUMBERS) if rng.random() < 0.6 else rng.randrange(14)
            data[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(data)


# tokenizer.model


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def tokenizer(rng: random.Random, good: bytes) -> bytes:
    """Fields of the message put in, and bytes."""
    data = bytearray(raw_bytes(rng, good) if rng.random() < 0.5 else good)
    for _ in range(rng.randint(0, 3)):
        number, wire = rng.choice((1, 2, 3, 4, 40, 41, 1 << 28)), rng.randrange(8)
        content = rng.choice([
            rng.randbytes(rng.randrange(20)), _varint(rng.choice(NUMBERS)), bytes(4), b"\xff" * 8,
            b"\x0a\x01a", b"\x15" + struct.pack("<f", float("inf")), b"\x18\x09",
            b"\xc0\x02" + _varint(rng.choice(NUMBERS)), b"\x0a\x05" + b"\xff" * 5,
        ])  # fmt: skip
        length = _varint(rng.choice((len(content),) * 4 + (rng.choice(NUMBERS),)))
        field = _varint(number << 3 | wire) + (length if wire == 2 else b"") + content
        at = rng.choice((0, len(data), rng.randrange(len(data) + 1)))
        data[at:at] = field * rng.choice((1, 1, 2, 1000))
    return bytes(data)


MUTATIONS: dict[str, Mutation] = {
    "consolidated.00.pth": pth,
    "pytorch_model.bin": pth,
    "model.safetensors": safetensors,
    "model.gguf": gguf,
    "tokenizer.model": tokenizer,
}
