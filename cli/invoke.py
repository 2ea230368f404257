"""``llama-hub invoke``: one request to a deployment, by whatever way its platform takes."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llama_hub.cli.options import At, Json, Quiet, Region, where
from llama_hub.cli.output import Output, output
from llama_hub.cli.status import BackendName, Name
from llama_hub.errors import UsageError
from llama_hub.strict import parse_json, read_bytes, text_kind

app = typer.Typer(add_completion=False)


@app.command()
def invoke(
    name: Name,
    message: Annotated[
        str | None, typer.Argument(help="What to say; - reads it from standard input.")
    ] = None,
    body: Annotated[
        str | None,
        typer.Option(metavar="JSON|@FILE", help="A whole OpenAI chat body instead of a message."),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 is greedy.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False,
    backend: BackendName = None,
    region: Region = None,
    at: At = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One request to a deployment; prints its answer."""
    from llama_hub import sse
    from llama_hub.backends.lookup import find
    from llama_hub.deploy import client

    out = output(json, quiet)
    asked = _body(message, body)
    options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    asked |= {key: value for key, value in options.items() if value is not None}
    deployed = find(name, backend, where(region, at)).backend
    pieces = client.chat(deployed, name, asked, stream=stream and not json)
    if stream and not json:
        _stream(out, sse.documents(pieces))
        return
    answer = b"".join(pieces)
    text = client.text_of(answer)
    out.result(json_format.loads(answer), text)


def _body(message: str | None, body: str | None) -> dict[str, Any]:
    if (message is None) == (body is None):
        raise UsageError(
            "either a message or --body is needed", hint="llama-hub invoke NAME 'Who are you?'"
        )
    if message is not None:
        text = sys.stdin.read() if message == "-" else message
        return {"messages": [{"role": "user", "content": text}]}
    return _document(str(body))


BODY = text_kind("the request", max_bytes=8 << 20, hint="--body '{\"messages\": […]}' or @FILE")


def _document(given: str) -> dict[str, Any]:
    path = Path(given[1:]).expanduser() if given.startswith("@") else None
    document = parse_json(read_bytes(path, BODY) if path else given, path or "--body", BODY)
    if not isinstance(document, dict) or "messages" not in document:
        raise UsageError(
            "--body must be a JSON object with messages, as OpenAI's chat API takes it"
        )
    return document


def _stream(out: Output, events: Any) -> None:
    from llama_hub.deploy.client import deltas

    for event in events:
        for text in deltas(event):
            out.stream(text)
    out.stream("\n")
