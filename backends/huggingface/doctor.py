"""``llama-hub doctor huggingface``: one line each, a failed one hides only what it makes moot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llama_hub.backends.huggingface import machines
from llama_hub.backends.huggingface.client import Client
from llama_hub.backends.huggingface.errors import LOGIN
from llama_hub.backends.huggingface.inventory import Inventory
from llama_hub.deploy.backend import Check
from llama_hub.deploy.checks import line
from llama_hub.errors import LlamaHubError

TOKENS = "https://huggingface.co/settings/tokens"
BASE = "meta-llama/Llama-2-7b-chat-hf"
NEEDED = ("inference.endpoints.write", "repo.write")


def checks(inventory: Inventory, vendor: str = "aws") -> Iterator[Check]:
    """Login, namespace, scopes, gate of the base model, machines and quota, endpoints."""
    login = line("login", lambda: _login(inventory.client), LOGIN)
    yield login
    if not login.ok:
        return
    yield line("namespace", lambda: _namespace(inventory), LOGIN)
    yield line("token", lambda: _scopes(inventory), LOGIN)
    yield line("gate of Llama 2", lambda: _gate(inventory.client), LOGIN)
    yield line("machines", lambda: _machines(inventory, vendor), LOGIN)
    yield line("endpoints", lambda: _endpoints(inventory), LOGIN)


def _login(client: Client) -> Check:
    who = client.whoami()
    return Check("login", True, f"{who.get('type', 'user')} {who['name']}")


def _namespace(inventory: Inventory) -> Check:
    who = inventory.client.whoami()
    known = [who["name"], *(one["name"] for one in who.get("orgs", []))]
    ok = inventory.namespace in known
    return Check(
        "namespace",
        ok,
        inventory.namespace if ok else f"{inventory.namespace} is none of {', '.join(known)}",
        "" if ok else "--set options.namespace=… or HF_NAMESPACE",
    )


def _scopes(inventory: Inventory) -> Check:
    token = (inventory.client.whoami().get("auth") or {}).get("accessToken") or {}
    role = str(token.get("role", "unknown"))
    if role != "fineGrained":
        ok = role == "write"
        return Check("token", ok, f"role {role}", "" if ok else f"a write token: {TOKENS}")
    missing = [need for need in NEEDED if need not in _granted(token, inventory.namespace)]
    return Check(
        "token",
        not missing,
        f"it lacks {', '.join(missing)}" if missing else "fine-grained, with what is needed",
        f"edit its permissions: {TOKENS}" if missing else "",
    )


def _granted(token: Mapping[str, Any], namespace: str) -> set[str]:
    scoped = (token.get("fineGrained") or {}).get("scoped") or []
    mine = [one for one in scoped if one.get("entity", {}).get("name") == namespace]
    return {permission for one in mine for permission in one.get("permissions", [])}


def _gate(client: Client) -> Check:
    try:
        client.hub(BASE, lambda api: api.auth_check(BASE, token=client.token))
    except LlamaHubError as error:
        page = f"https://huggingface.co/{BASE}"
        return Check("gate of Llama 2", False, error.message, f"ask for access: {page}")
    return Check("gate of Llama 2", True, f"access to {BASE} is granted")


def _machines(inventory: Inventory, vendor: str) -> Check:
    listed = list(machines.offers(inventory.client.hardware(inventory.namespace), vendor, None))
    usable = [one for one in listed if one.accelerators and one.quota_left]
    if not usable:
        page = "https://endpoints.huggingface.co/settings/quotas"
        return Check("machines", False, f"no GPU with quota at {vendor}", f"ask for more: {page}")
    cheapest = min(usable, key=lambda one: one.price_per_hour or 0.0)
    return Check(
        "machines",
        True,
        f"{len(usable)} GPU types with quota, from {cheapest.price_per_hour} USD/h "
        f"({cheapest.instance})",
    )


def _endpoints(inventory: Inventory) -> Check:
    return Check("endpoints", True, f"{sum(1 for _ in inventory.endpoints())} of llama-hub")
