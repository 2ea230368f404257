"""``application/vnd.amazon.eventstream``: frames as SageMaker's response streams have them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message: two lengths, their CRC, headers, payload, CRC of all."""
    packed = b"".join(
        bytes([len(name)])
        + name.encode()
        + b"\x07"
        + struct.pack("!H", len(value))
        + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed + payload
    return message + struct.pack("!I", zlib.crc32(message))


def part(data: bytes) -> bytes:
    """A piece of the answer."""
    headers = {
        ":message-type": "event",
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
    }
    return frame(headers, data)


def exception(kind: str, message: str) -> bytes:
    """The end of a stream that went wrong (``ModelStreamError``, ``InternalStreamFailure``)."""
    headers = {
        ":message-type": "exception",
        ":exception-type": kind,
        ":content-type": "application/json",
    }
    return frame(headers, f'{{"Message": "{message}", "ErrorCode": "StreamBroken"}}'.encode())
