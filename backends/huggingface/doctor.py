"""``llama-hub doctor huggingface``: one line each, a failed one hides only what it makes moot."""

from __future__ import annotations

from collections.abc import Iterator

from llama_hub.backends.huggingface import judging, machines, scopes
from llama_hub.backends.huggingface.client import Client
from llama_hub.backends.huggingface.errors import LOGIN
from llama_hub.backends.huggingface.inventory import Inventory
from llama_hub.backends.huggingface.options import Options
from llama_hub.backends.huggingface.runner import secret_values
from llama_hub.deploy.backend import Check
from llama_hub.deploy.checks import line
from llama_hub.errors import LlamaHubError

BASE = "meta-llama/Llama-2-7b-chat-hf"
BILLING_PAGE = "https://huggingface.co/settings/billing"


def checks(inventory: Inventory, vendor: str = "aws") -> Iterator[Check]:
    """Login, namespace, scopes, billing, gate of the base model, machines and quota, endpoints."""
    login = line("login", lambda: _login(inventory.client), LOGIN)
    yield login
    if not login.ok:
        return
    namespace = line("namespace", lambda: _namespace(inventory), LOGIN)
    yield namespace
    if not namespace.ok:
        return
    yield from _scopes(inventory)
    yield line("billing", lambda: _billing(inventory), LOGIN)
    yield line("gate of Llama 2", lambda: _gate(inventory.client), LOGIN)
    yield line("machines", lambda: _machines(inventory, vendor), LOGIN)
    yield line("endpoints", lambda: _endpoints(inventory), LOGIN)


def checks_for(inventory: Inventory, options: Options, region: str | None) -> Iterator[Check]:
    """What a deployment with ``options`` asks for besides: one line each."""
    client = inventory.client

    def place() -> Check:
        listed = client.hardware(inventory.namespace)
        judging.place(listed, options.vendor, region)
        return Check("place", True, f"{options.vendor}, {region or 'any region'}")

    def secrets() -> Check:
        names = ", ".join(secret_values(options, client)) or "none asked for"
        return Check("secrets", True, names)

    yield line("place", place, "--set options.vendor=…, --region …")
    yield line("secrets", secrets, "export them")
    if options.gated_repository:
        yield line("gated repository", lambda: _gate(client, str(options.gated_repository)), LOGIN)


def _login(client: Client) -> Check:
    who = client.whoami()
    return Check("login", True, f"{who.get('type', 'user')} {who['name']}")


def _namespace(inventory: Inventory) -> Check:
    return Check("namespace", True, inventory.namespace)


def _scopes(inventory: Inventory) -> Iterator[Check]:
    """One line for each scope of a fine-grained token; one for the role of another."""
    who = inventory.client.whoami()
    held = scopes.granted(who, inventory.namespace)
    if held is None:
        token = (who.get("auth") or {}).get("accessToken") or {}
        role = str(token.get("role", "unknown"))
        ok = role == "write"
        hint = "" if ok else f"a write token, or a fine-grained one: {scopes.TOKENS}"
        yield Check("token", ok, f"role {role}", hint)
        return
    lacking = scopes.missing(held)
    for scope in scopes.NEEDED:
        ok = scope not in lacking
        detail = f"{scope.title}: for {scope.needed}"
        if scope.optional and scope.name not in held:
            detail = f"not granted, and not needed ({scope.needed})"
        hint = "" if ok else f"edit the permissions for {inventory.namespace}: {scopes.TOKENS}"
        yield Check(f"scope {scope.name}", ok, detail if ok else f"it lacks {detail}", hint)


def _billing(inventory: Inventory) -> Check:
    """Whether whoever owns the namespace can pay, as far as the login tells."""
    who = inventory.client.whoami()
    mine = [one for one in who.get("orgs") or [] if one["name"] == inventory.namespace]
    able = (mine[0] if mine else who).get("canPay")
    if able is None:
        return Check("billing", True, f"not told for {inventory.namespace}: see {BILLING_PAGE}")
    detail = f"{inventory.namespace} {'can' if able else 'cannot'} pay"
    return Check("billing", bool(able), detail, "" if able else f"add a card: {BILLING_PAGE}")


def _gate(client: Client, repository: str = BASE) -> Check:
    name = "gate of Llama 2" if repository == BASE else "gated repository"
    try:
        client.hub(repository, lambda api: api.auth_check(repository, token=client.token))
    except LlamaHubError as error:
        page = f"https://huggingface.co/{repository}"
        return Check(name, False, error.message, f"ask for access: {page}")
    return Check(name, True, f"access to {repository} is granted")


def _machines(inventory: Inventory, vendor: str) -> Check:
    listed = list(machines.offers(inventory.client.hardware(inventory.namespace), vendor, None))
    usable = [one for one in listed if one.accelerators and one.quota_left]
    if not usable:
        page = "https://endpoints.huggingface.co/settings/quotas"
        return Check("machines", False, f"no GPU with quota at {vendor}", f"ask for more: {page}")
    priced = [one for one in usable if one.price_per_hour is not None]
    cheapest = min(priced or usable, key=lambda one: one.price_per_hour or 0.0)
    return Check(
        "machines",
        True,
        f"{len(usable)} GPU types with quota, from {cheapest.price_per_hour} USD/h "
        f"({cheapest.instance})",
    )


def _endpoints(inventory: Inventory) -> Check:
    return Check("endpoints", True, f"{sum(1 for _ in inventory.endpoints())} of llama-hub")
