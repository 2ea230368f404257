"""A process that renders chat templates: a template is a stranger's program.

Jinja's sandbox keeps it from everything but its inputs; nothing there bounds the time or memory
that it takes, so the process has a limit of both, and dies of them alone. The environment is the
one that transformers renders chat templates in, so that the text is the same.

The process (``python -m llama_hub.inference.template_process``) reads JSON lines: first the
template's source, then variables; it answers ``{"text"}`` or ``{"error"}``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

CPU_SECONDS = 1.0  # of a core, for one conversation
MEMORY = 256 << 20  # bytes beyond what the process has at its start
MAX_TEXT = 8 << 20  # characters of a rendered conversation


def compile_template(source: str) -> Any:
    """A ``jinja2.Template`` as transformers makes it; jinja's own errors for a wrong one."""
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """``{% generation %}``, which marks answers for training and changes no text."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    class Namespace(jinja2.utils.Namespace):
        """``namespace`` without names that begin with an underscore."""

        def __init__(*args: Any, **values: Any) -> None:
            self, args = args[0], args[1:]
            attributes = dict(*args, **values)
            for name in attributes:
                _check_name(name)
            jinja2.utils.Namespace.__init__(self, attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

    def _check_name(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace takes no attribute {name!r}")

    def raise_exception(message: object) -> None:
        raise jinja2.exceptions.TemplateError(str(message))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=raise_exception,
        strftime_now=lambda form: datetime.now().strftime(form),
        dict=_dict,
        namespace=Namespace,
    )
    return environment.from_string(source)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without the escapes for HTML that Jinja's own makes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _dict(*args: Any, **values: Any) -> dict[Any, Any]:
    return dict(*args, **values)


def literal_text(source: str) -> str:
    """Every piece of text in a template, joined so that none runs into the next."""
    from jinja2 import nodes

    tree = compile_template(source).environment.parse(source)
    found = {node.data for node in tree.find_all(nodes.TemplateData)}
    constants = tree.find_all(nodes.Const)
    found |= {node.value for node in constants if isinstance(node.value, str)}
    return "\0".join(found)


def render(template: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    """``{"text"}``, or ``{"error"}`` with the template's own words."""
    size, parts = 0, []
    try:
        for part in template.generate(**variables):
            size += len(part)
            if size > MAX_TEXT:
                return {"error": f"it makes more than {MAX_TEXT} characters"}
            parts.append(part)
    except (Exception, RecursionError, MemoryError) as error:
        return {"error": f"{type(error).__name__}: {str(error)[:500]}"}
    return {"text": "".join(parts)}


def serve() -> None:
    """The process's life: answer each line of standard input, until its end."""
    source = json.loads(sys.stdin.readline())
    _limit_memory()
    template: Any = None
    try:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        template = compile_template(source)
        first: dict[str, Any] = {"literal": literal_text(source)}
        signal.setitimer(signal.ITIMER_PROF, 0)
    except (Exception, RecursionError, MemoryError) as error:
        first = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
    _say(first)
    for line in sys.stdin:
        # The default action of SIGPROF ends the process, in the middle of native code too.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        answer = render(template, json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say(answer)


def _limit_memory() -> None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
