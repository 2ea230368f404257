"""Validation by reads, before anything is made: namespace, token, place, privacy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_hub.backends.huggingface import machines
from llama_hub.backends.huggingface.client import Client
from llama_hub.backends.huggingface.scopes import TOKENS, WRITE_REPOSITORIES, granted, missing
from llama_hub.errors import AccessError, NotFoundError, UsageError


def namespaces(who: Mapping[str, Any]) -> list[str]:
    """The token's user and organisations."""
    return [str(who["name"]), *(str(one["name"]) for one in who.get("orgs") or [])]


def namespace(who: Mapping[str, Any], given: str | None) -> str:
    """The namespace that is meant: ``UsageError`` for one that is not the token's."""
    known = namespaces(who)
    if given is None:
        return known[0]
    for name in known:
        if name.casefold() == given.casefold():
            return name
    raise UsageError(
        f"namespace {given!r} is none of this token's: {', '.join(known)}",
        hint="--set options.namespace=NAME, or HF_NAMESPACE",
    )


def token(who: Mapping[str, Any], name: str, *, uploads: bool) -> None:
    """``AccessError`` for the scopes that a fine-grained token lacks in namespace ``name``.

    ``uploads``: whether there is a repository to write, which a gated one that is served is not.
    """
    held = granted(who, name)
    lacking = [] if held is None else missing(held if uploads else {*held, WRITE_REPOSITORIES})
    if lacking:
        names = ", ".join(f"{one.name} ({one.title!r})" for one in lacking)
        raise AccessError(
            f"this token lacks, for {name}: {names}", hint=f"edit its permissions: {TOKENS}"
        )


def private(client: Client, repository: str) -> None:
    """``AccessError`` if the repository for the weights exists and is public."""
    try:
        info = client.hub(repository, lambda api: api.model_info(repository, token=client.token))
    except NotFoundError:
        return
    if not info.private:
        raise public(repository)


def public(repository: str) -> AccessError:
    """The error for weights that would be seen by everybody."""
    return AccessError(
        f"{repository} exists and is public; licensed weights are never put there",
        hint=f"make it private: https://huggingface.co/{repository}/settings",
    )


def place(hardware: Mapping[str, Any], vendor: str, region: str | None) -> None:
    """``UsageError`` for a cloud or a region that the live list does not have."""
    vendors = machines.known_vendors(hardware)
    if vendor not in vendors:
        raise UsageError(
            f"options.vendor {vendor!r} is none of {', '.join(vendors)}",
            hint="--set options.vendor=aws",
        )
    regions = machines.known_regions(hardware, vendor)
    if region is not None and region not in regions:
        raise UsageError(
            f"region {region!r} is none of {vendor}'s: {', '.join(regions)}",
            hint=f"--region {regions[0]}" if regions else "choose another vendor",
        )
