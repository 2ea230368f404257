"""``llama-hub quickstart``: end-to-end on the built-in demo model.

Each stage is the real one that the other commands use; the chat answer comes
over HTTP from a service process of its own, which is stopped at the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_hub.cli.options import Json, Quiet
from llama_hub.cli.output import Output, output, size_text
from llama_hub.errors import IntegrityError
from llama_hub.hub.transfer import bounded_httpx
from llama_hub.progress import Progress

if TYPE_CHECKING:
    from llama_hub.hub.store import StoredModel

app = typer.Typer(add_completion=False)

MODEL = "llama-demo-chat"
QUESTION = "What can llama-hub do?"

NEXT_STEPS = """\
Next, the real models. Ask for access, then use the signed URL or your Hugging Face token:
  https://www.llama.com/llama-downloads/   or   https://huggingface.co/meta-llama
  llama-hub models
  llama-hub download llama-2-7b-chat --source huggingface
  llama-hub serve llama-2-7b-chat
  llama-hub deploy local llama-2-7b-chat --name chat"""


@dataclass(frozen=True)
class Stage:
    """One stage of the road, as it went."""

    name: str
    seconds: float
    bytes: int
    reused: bool  # what an earlier run left was found whole
    detail: str = ""


class Journey:
    """The stages done so far, shown as they end."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self.stages: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage; the body fills in ``bytes``, ``reused`` and ``detail``."""
        facts: dict[str, Any] = {"bytes": 0, "reused": False, "detail": ""}
        begun = time.monotonic()
        yield facts
        stage = Stage(name, round(time.monotonic() - begun, 3), **facts)
        self.stages.append(stage)
        size = size_text(stage.bytes) if stage.bytes else ""
        note = f"{stage.detail} (found from an earlier run)" if stage.reused else stage.detail
        self._out.status(f"  {name:<9}{stage.seconds:>6.1f} s  {size:>9}  {note}")


@app.command()
def quickstart(
    prompt: Annotated[str, typer.Option(help="What to ask the demo model.")] = QUESTION,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run everything end-to-end on the built-in demo model, offline, and chat with it."""
    out = output(json, quiet)
    out.status(f"End to end, offline, with the built-in model {MODEL}:")
    journey = Journey(out)
    with out.progress() as progress:
        stored = _fetch(journey, progress)
        _verify(journey, stored, progress)
        served = _convert(journey, stored, progress)
    url, reply = _ask(journey, prompt)
    document = {
        "model": MODEL,
        "reply": reply,
        "manifest": served.manifest.digest,
        "url": url,
        "stages": [asdict(stage) for stage in journey.stages],
    }
    out.result(document, f"\n  you    {prompt}\n  model  {reply}\n\n{NEXT_STEPS}")


def _fetch(journey: Journey, progress: Progress) -> StoredModel:
    from llama_hub.hub import catalog
    from llama_hub.hub.download import Job, download
    from llama_hub.hub.sources.builtin import builtin

    with journey.stage("download") as facts:
        got = download(Job(catalog.load().get(MODEL), builtin(), "meta", progress=progress))
        detail = f"licence {got.manifest.license}, receipt {got.receipt}"
        facts.update(bytes=got.manifest.bytes, reused=got.reused, detail=detail)
    return got


def _verify(journey: Journey, stored: StoredModel, progress: Progress) -> None:
    from llama_hub.hub.verify import verify

    with journey.stage("verify") as facts:
        verification = verify(stored.path, progress=progress)
        if not verification.ok:
            raise IntegrityError(
                f"files in {stored.path} are damaged: "
                + ", ".join(file.path for file in verification.damaged),
                hint=f"llama-hub verify {MODEL} --repair",
            )
        facts.update(
            bytes=stored.manifest.bytes, detail=f"{len(verification.files)} files, SHA-256"
        )


def _convert(journey: Journey, stored: StoredModel, progress: Progress) -> StoredModel:
    from llama_hub.hub.conversion.convert import served
    from llama_hub.hub.store import Store

    with journey.stage("convert") as facts:
        before = time.time()
        converted = served(Store(), MODEL, progress=progress)
        there = (converted.path / "llama-hub.json").stat().st_mtime < before
        detail = f"{stored.manifest.format} to {converted.manifest.format}, tensor by tensor"
        facts.update(bytes=converted.manifest.bytes, reused=there, detail=detail)
    return converted


def _ask(journey: Journey, prompt: str) -> tuple[str, str]:
    """Start the service, ask it over HTTP, stop it; its URL and the reply."""
    with _service(journey) as url:
        with journey.stage("chat") as facts:
            reply = _chat(url, prompt)
            facts["detail"] = "POST /v1/chat/completions"
    return url, reply


@contextmanager
def _service(journey: Journey) -> Iterator[str]:
    from llama_hub.inference.service.launch import launched

    with ExitStack() as stack:
        with journey.stage("serve") as facts:
            ready = stack.enter_context(launched([MODEL, "--port", "0"]))
            facts["detail"] = f"{ready['engine']} on {ready['device']} at {ready['url']}"
        yield ready["url"]


def _chat(url: str, prompt: str) -> str:

    body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 120}
    with bounded_httpx.client(seconds=300, timeout=60, trust_env=False) as client:
        answer = client.post(f"{url}/v1/chat/completions", json=body)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"]).strip()
