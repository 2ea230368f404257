"""Backends by name: a table of strings for ours, an entry-point group for everybody's.

Each is imported at first use. A third-party distribution adds one with::

    [project.entry-points."llama_hub.backends"]
    fly = "llama_hub_fly:FlyBackend"
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llama_hub.errors import InvalidFileError, NotFoundError, UsageError
from llama_hub.home import home

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from llama_hub.deploy.backend import Backend

GROUP = "llama_hub.backends"
BUILT_IN = {
    "azure": "llama_hub.backends.azure.backend:AzureBackend",
    "huggingface": "llama_hub.backends.huggingface.backend:HuggingFaceBackend",
    "local": "llama_hub.backends.local.backend:LocalBackend",
    "memory": "llama_hub.backends.memory.backend:MemoryBackend",
    "sagemaker": "llama_hub.backends.sagemaker.backend:SageMakerBackend",
}


def names() -> list[str]:
    """Every backend's name, ours first; nothing is imported."""
    return [*BUILT_IN, *sorted(set(_plugins()) - set(BUILT_IN))]


def origin(name: str) -> str:
    """``built in``, or the distribution (and its version) that brings the backend."""
    if name in BUILT_IN:
        return "built in"
    plugin = _plugins().get(name)
    if plugin is None or plugin.dist is None:
        return "unknown"
    return f"{plugin.dist.name} {plugin.dist.version}"


def backend_class(name: str) -> type[Any]:
    """Import and return the class; ``NotFoundError`` with the nearest names otherwise.

    ``UsageError`` for a plugin that cannot be imported.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return _checked(name, getattr(importlib.import_module(module), attribute))
    plugin = _plugins().get(name)
    if plugin is None:
        raise _unknown(name)
    try:
        return _checked(name, plugin.load())
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the backend {name!r} of {origin(name)} cannot be imported: {error}",
            hint=f"reinstall or uninstall {origin(name).split()[0]}",
        ) from error


def get(name: str, **settings: Any) -> Backend:
    """The backend ``name``, made with ``settings`` over those of ``config.toml``."""
    from llama_hub.deploy import config

    backend = backend_class(name)
    stated = config.backend_settings(name, backend.location)
    _check_settings(backend, name, stated)
    return _make(backend, name, stated | settings)


def at(name: str, location: Mapping[str, Any]) -> Backend:
    """The backend ``name`` at a place that a plan or a journal has written down.

    ``UsageError`` if the backend has no such place.
    """
    backend = backend_class(name)
    unknown = [key for key in location if key not in backend.location]
    if unknown or not all(isinstance(value, str | None) for value in location.values()):
        raise UsageError(
            f"the backend {name!r} has no such place: {dict(location)}",
            hint=f"a place has {', '.join(backend.location) or 'no keys'}, each a text",
        )
    return get(name, **location)


def _check_settings(found: type[Any], name: str, stated: Mapping[str, Any]) -> None:
    """Refuse settings that the constructor does not take from a file, or not of that type."""
    from llama_hub.deploy import config

    for key in SECRETS.intersection(stated):
        raise UsageError(
            f"{home() / 'config.toml'}: backends.{name}.{key} would be a secret, and that file is "
            "no place for one",
            hint="take it out; set the platform's own variable, or log in with its own program",
        )
    parameters = inspect.signature(found).parameters.values()
    types = {one.name: _SETTABLE.get(_annotation(one)) for one in parameters}
    config.require_known(f"backends.{name}", stated, [key for key in types if types[key]])
    for key, value in stated.items():
        if (expected := types[key]) and type(value) not in expected:
            problem = f"must be {expected[0].__name__} (given: {value!r})"
            raise config.KIND.invalid(home() / "config.toml", problem, f"backends.{name}.{key}")


SECRETS = frozenset({"token", "secret", "password", "key", "api_key"})  # names of parameters
# Types of a constructor's parameters that a file can state; others are for programs and tests.
_SETTABLE: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
}


def _annotation(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return text.removesuffix(" | None")


def every(
    only: str | None = None, where: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, Backend | Exception]]:
    """Name and backend (or why there is none) of all that are configured, or of ``only``.

    ``where``: constructor arguments; backends that take no such argument are left out.
    """
    from llama_hub.deploy import config

    listed = names()
    if only and only not in listed:
        raise _unknown(only)
    config.require_known("backends", config.read().backends, listed)
    for name in [only] if only else listed:
        try:
            if where and not only and not set(where) <= set(backend_class(name).location):
                continue
            backend = at(name, where or {})
        except InvalidFileError:  # the user's own settings
            raise
        except Exception as error:  # one broken backend must not hide the others
            yield name, error
            continue
        if only or backend.configured():
            yield name, backend


def _make(found: type[Any], name: str, settings: dict[str, Any]) -> Backend:
    try:
        instance: Backend = found(**settings)
    except TypeError as error:
        raise UsageError(
            f"the backend {name!r} does not take these settings: {error}",
            hint=f"see [backends.{name}] in config.toml",
        ) from error
    return instance


def _checked(name: str, found: Any) -> type[Any]:
    if not isinstance(found, type):
        raise UsageError(f"what stands behind the backend {name!r} is not a class", hint=_WRITING)
    missing = [method for method in methods() if not callable(getattr(found, method, None))]
    missing += [one for one in ("name", "location", "options_model") if not hasattr(found, one)]
    if missing:
        raise UsageError(
            f"{found.__name__}, the backend {name!r}, lacks {', '.join(missing)}", hint=_WRITING
        )
    return found


_WRITING = "docs/backends.md shows each method and attribute"


def methods() -> list[str]:
    """The methods that every backend has."""
    from llama_hub.deploy.backend import Backend

    return [key for key, value in vars(Backend).items() if key[0] != "_" and callable(value)]


def _plugins() -> dict[str, EntryPoint]:
    """Entry points by name; the first installed wins, ours always do."""
    from importlib.metadata import entry_points

    plugins: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        plugins.setdefault(point.name, point)
    return plugins


def _unknown(name: str) -> NotFoundError:
    listed = names()
    near = difflib.get_close_matches(name, listed, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return NotFoundError(
        f"there is no backend {name!r}; there are {', '.join(listed)}",
        hint=f"{guess}llama-hub backends",
    )
