"""Values that the shell completes: models, deployments, backends, licences, choices.

They are read from this machine alone. Whatever goes wrong completes nothing: a shell that waits for
its Tab is no place for an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

Complete = Callable[[str], list[str]]


def _quietly(values: Callable[[], Iterable[str]]) -> Complete:
    """What of ``values`` begins as the incomplete word does."""

    def complete(incomplete: str) -> list[str]:
        try:
            return sorted({value for value in values() if value.startswith(incomplete)})
        except Exception:
            return []

    complete.__doc__ = values.__doc__
    return complete


def choices(*values: str) -> Complete:
    """The words that an option takes."""

    def fixed() -> Iterable[str]:
        return values

    return _quietly(fixed)


@_quietly
def catalogued() -> Iterable[str]:
    """Models of the catalogue, and what else the store has."""
    from llama_hub.hub.catalog import load

    yield from stored_models()
    yield from (model.id for model in load())


@_quietly
def stored() -> Iterable[str]:
    """Models in the store."""
    return stored_models()


@_quietly
def adapters() -> Iterable[str]:
    """Adapters in the store."""
    from llama_hub.hub.adapters.store import AdapterStore

    return AdapterStore().names()


@_quietly
def deployments() -> Iterable[str]:
    """Deployments that this machine knows of."""
    return deployed()


@_quietly
def conversable() -> Iterable[str]:
    """Models in the store and deployments."""
    yield from stored_models()
    yield from deployed()


@_quietly
def backends() -> Iterable[str]:
    """Backends, plug-ins among them."""
    from llama_hub.backends.registry import names

    return names()


@_quietly
def licensed() -> Iterable[str]:
    """Licences, and models under them."""
    from llama_hub.hub.catalog import load
    from llama_hub.licenses.terms import all_licenses

    yield from (license.id for license in all_licenses())
    yield from (model.id for model in load())


def stored_models() -> Iterable[str]:
    """The names of complete models, without reading one of them."""
    from llama_hub.hub.store import Store

    return Store().names()


def deployed() -> Iterable[str]:
    """The names that have a journal here."""
    from llama_hub.deploy.journal import journals

    return (journal.name for journal in journals())
