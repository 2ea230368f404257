"""The client of a request: by what the engine and the queue share themselves out.

It is the address that the connection comes from; where that is a trusted proxy's, the one that the
proxy names (``proxies``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

CLIENT: ContextVar[str] = ContextVar("client", default="")  # of the request that is answered


def client_of(scope: Mapping[str, Any]) -> str:
    """The network address that an ASGI ``scope`` comes from; empty if it has none.

    IPv6 gives one subscriber 2**64 addresses: they are one client.
    """
    try:
        address = ipaddress.ip_address((scope.get("client") or ("",))[0])
    except ValueError:  # a name, a path, what a proxy made up
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address), 64), strict=False))
    return str(address)
