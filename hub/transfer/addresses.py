"""Nearness of addresses, so that nobody far away can send us to what is near this machine.

A redirect is an order of another host. It may lead to an address as far away as that host or
farther: never from the internet into a private network, to this machine, or to the link-local
addresses where clouds hand out credentials.
"""

from __future__ import annotations

import ipaddress
import socket
import unicodedata
from contextlib import suppress
from enum import IntEnum

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_ADDRESSES = 8  # of one name that are tried
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")  # IPv4 in IPv6 as it was written before RFC 4291
_THIS_HOST = ipaddress.ip_network("0.0.0.0/8")  # Linux connects to itself
_SHARED = ipaddress.ip_network("100.64.0.0/10")
_AZURE = ipaddress.ip_address("168.63.129.16")  # Azure's host, a public number inside the machine
_PRIVATE_NAMES = (".internal", ".local", ".lan", ".intranet", ".home", ".corp", ".home.arpa")


class Zone(IntEnum):
    """How near; a redirect never leads to a higher number."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    LINK_LOCAL = 3  # metadata services too


NEAREST = max(Zone)


class ForbiddenAddressError(OSError):
    """A name or an address is nearer than whoever sent us there."""


def zone_of(address: Address) -> Zone:
    """The zone of an address, whatever form of IPv6 it is wrapped in."""
    address = _unwrapped(address)
    if address.is_link_local or address.is_multicast or address == _AZURE:
        return Zone.LINK_LOCAL
    if address.is_loopback or address.is_unspecified or address in _THIS_HOST:
        return Zone.LOOPBACK
    return Zone.PUBLIC if address.is_global and address not in _SHARED else Zone.PRIVATE


def zone_of_text(address: str) -> Zone:
    """The same of an address as the system writes it, perhaps with the name of an interface."""
    return zone_of(ipaddress.ip_address(address.partition("%")[0]))


def _unwrapped(address: Address) -> Address:
    """The IPv4 address inside, where there is one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address.teredo is not None:
        inner = address.teredo[1]
    if inner is None and (address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF)):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address


def literal(host: str) -> Address | None:
    """The address that ``host`` spells: also decimal, octal, hexadecimal, short and full-width."""
    plain = unicodedata.normalize("NFKC", host).strip("[].").partition("%")[0]
    with suppress(ValueError):
        return ipaddress.ip_address(plain)
    with suppress(OSError, UnicodeError, ValueError):
        return ipaddress.IPv4Address(socket.inet_aton(plain))
    return None


def zone_of_name(host: str) -> Zone:
    """What can be said of a host without resolving it, as where a proxy does that."""
    address = literal(host)
    if address is not None:
        return zone_of(address)
    name = unicodedata.normalize("NFKC", host).rstrip(".").lower()
    if name == "localhost" or name.endswith((".localhost", ".localdomain")):
        return Zone.LOOPBACK
    if name.startswith("metadata.") or name == "metadata":
        return Zone.LINK_LOCAL
    return Zone.PRIVATE if "." not in name or name.endswith(_PRIVATE_NAMES) else Zone.PUBLIC


def require(zone: Zone, host: str, nearest: Zone) -> None:
    """``ForbiddenAddressError`` if ``zone`` is nearer than ``nearest``."""
    if zone > nearest:
        what = zone.name.lower().replace("_", "-")
        raise ForbiddenAddressError(f"{host} is a {what} address")


def dial(host: str, port: int, seconds: float, nearest: Zone) -> socket.socket:
    """A connection to ``host``, at addresses no nearer than ``nearest`` only.

    The address that is judged is the one that is connected to: a name that resolves to something
    else a moment later gains nothing. ``seconds`` for all addresses together, about.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:MAX_ADDRESSES]
    each = seconds / min(len(addresses), 4)
    failure: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, place in addresses:
        try:
            require(zone_of_text(str(place[0])), host, nearest)
            return _connected(socket.socket(family, kind, protocol), place, each)
        except OSError as error:
            failure = error
    raise failure


def _connected(sock: socket.socket, place: object, seconds: float) -> socket.socket:
    try:
        sock.settimeout(seconds)
        sock.connect(place)  # type: ignore[arg-type]
        return sock
    except BaseException:
        sock.close()
        raise


def peer_zone(sock: socket.socket) -> Zone:
    """The zone of the address at the other end."""
    return zone_of_text(str(sock.getpeername()[0]))
