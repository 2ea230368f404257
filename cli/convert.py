"""``llama-hub convert``: between Meta's layout, Hugging Face's and GGUF, and into int8 and int4."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_hub.cli import completion
from llama_hub.cli.options import Json, Quiet
from llama_hub.cli.output import Output, duration_text, output, size_text
from llama_hub.errors import UsageError
from llama_hub.strict import read_text, text_kind

if TYPE_CHECKING:
    from llama_hub.hub.conversion.run import Conversion
    from llama_hub.progress import Progress

app = typer.Typer(add_completion=False)

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A model in the store, a folder, or a GGUF file.",
            autocompletion=completion.stored,
        ),
    ],
    destination: Annotated[
        Path | None,
        typer.Argument(
            metavar="DST", help="A new folder or NAME.gguf; without it, into the store."
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="hf|meta|gguf",
            autocompletion=completion.choices("hf", "meta", "gguf"),
            help="The format.",
            show_default="gguf for NAME.gguf, else hf",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="bfloat16, float16 or float32; for GGUF also Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q4_K_M, "
            "Q4_K_S, Q5_1, Q5_0, Q4_1, Q4_0 (in any case). Without it the weights stay as they "
            "are.",
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option("--quantize", metavar="int8|int4", help="Weights only; for --to hf."),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option("--group-size", help="Weights that share a scale: 32, 64, 128; 0: a row."),
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", metavar="SIZE", help="Of a file; for --to hf.")
    ] = "2GB",
    split_max_size: Annotated[
        str | None,
        typer.Option(
            "--split-max-size",
            metavar="SIZE",
            help="For --to gguf: several files NAME-00001-of-0000N.gguf, each at most so large.",
        ),
    ] = None,
    dequantize: Annotated[
        bool,
        typer.Option(
            "--dequantize",
            help="Take the values of a quantised GGUF file for the weights: exactly what it holds, "
            "not what it was made of.",
        ),
    ] = False,
    model_parallel: Annotated[
        int | None,
        typer.Option("--model-parallel", metavar="N", help="Shards to make; for --to meta."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the output again and prove it is the same.")
    ] = False,
    evaluate: Annotated[
        Path | None,
        typer.Option(
            "--evaluate",
            metavar="TEXT",
            help="After --quantize: perplexity before and after, on this text file.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be written; write nothing.")
    ] = False,
    allow_non_finite: Annotated[
        bool, typer.Option("--allow-non-finite", help="Convert NaN and infinite values too.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name, for a folder without manifest.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="Its licence, for a folder without manifest."),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--base", help="Whether it is made for dialogue.", show_default=False),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Its context in tokens, if it is not Llama 2's."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert between Meta's, Hugging Face's and GGUF's form; --quantize makes a model small."""
    out = output(json, quiet)
    to = to or default_format(destination)
    text = _text_to_evaluate(evaluate, quantize, dry_run)
    start = time.monotonic()
    options: dict[str, Any] = {
        "to": to,
        "dtype": dtype,
        "quantize": quantize,
        "group_size": group_size,
        "max_shard_size": parse_size(max_shard_size),
        "model_parallel": model_parallel,
        "allow_non_finite": allow_non_finite,
        "dequantize": dequantize,
        "split_max_size": parse_size(split_max_size) if split_max_size is not None else None,
        "verify": verify,
        "dry_run": dry_run,
    }
    with out.progress() as progress:
        options["progress"] = progress
        if destination is None:
            conversion = _into_store(source, options)
        else:
            given = {"model": name, "license": license, "chat": chat, "context": context}
            conversion = _into_folder(source, destination, options | given)
        seconds = time.monotonic() - start
        quality = _perplexity(source, conversion.path, text, progress) if text else None
    _report(out, conversion, to, seconds, quality)


def default_format(destination: Path | None) -> str:
    """What is made where nobody says ``--to``."""
    return "gguf" if destination and destination.suffix.lower() == ".gguf" else "hf"


EVALUATED = text_kind("the text", max_bytes=16 << 20)


def _text_to_evaluate(path: Path | None, quantize: str | None, dry_run: bool) -> str | None:
    """Read before anything else is done, so that a wrong name costs nothing."""
    if path is None:
        return None
    if quantize is None or dry_run:
        raise UsageError("--evaluate compares a quantised model: it needs --quantize")
    return read_text(path, EVALUATED)


def _perplexity(source: str, quantised: Path, text: str, progress: Progress) -> dict[str, Any]:
    """Of the unquantised model, as a Hugging Face folder, and of the quantised one."""
    from llama_hub.hub.conversion.convert import served
    from llama_hub.hub.store import Store
    from llama_hub.inference.perplexity import measure

    folder = _folder(source)
    if not (folder / "config.json").is_file():
        folder = served(Store(), source, progress=progress).path
    before = measure(folder, text, progress=progress, task="perplexity before")
    after = measure(quantised, text, progress=progress, task="perplexity after")
    return {
        "tokens": before.tokens,
        "before": round(before.value, 4),
        "after": round(after.value, 4),
        "difference": round(after.value - before.value, 4),
    }


def _into_folder(source: str, destination: Path, options: dict[str, Any]) -> Conversion:
    from llama_hub.hub.conversion.convert import convert

    return convert(_folder(source), destination, **options)


def _folder(source: str) -> Path:
    """A folder as it is, with or without manifest; anything else must be in the store."""
    from llama_hub.hub.store import Store

    return Store().source(source)


def _into_store(source: str, options: dict[str, Any]) -> Conversion:
    from llama_hub.hub.conversion.convert import into_store
    from llama_hub.hub.store import Store

    plain = {"to", "max_shard_size", "verify", "dry_run", "progress"}
    if any(value not in (None, False) for key, value in options.items() if key not in plain):
        raise UsageError(
            "the store keeps models as they are: a changed one needs a folder of its own",
            hint=f"llama-hub convert {source} FOLDER …",
        )
    asked = {key: value for key, value in options.items() if key in plain}
    return into_store(Store(), Store().find(source), **asked)


def parse_size(text: str) -> int:
    """``5GB``, ``500M`` or ``2GiB`` in bytes; ``UsageError`` for anything else."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMG]I?)?B?", text.strip().upper())
    if match is None:
        raise UsageError(f"{text!r} is no size", hint="write it as 5GB, 500MB or 2GiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def _report(
    out: Output, made: Conversion, to: str, seconds: float, quality: dict[str, Any] | None
) -> None:
    if made.changed:
        out.warn(f"{made.changed} values were changed by the new dtype")
    for tensor, count in made.non_finite.items():
        out.warn(f"{tensor} holds {count} values that are NaN or infinite")
    for name in made.lacks:
        out.warn(f"the source has no {name}, so the output has none either")
    if _kept_from_claiming(made, to):
        out.warn(
            "tokenizer.json was not written: it would not cut every text as tokenizer.model does, "
            "which the output has"
        )
    document, text = _document(made, to, seconds), _text(made, seconds)
    if quality is not None:
        document["perplexity"] = quality
        text += (
            f"\n  perplexity {quality['before']} before, {quality['after']} after "
            f"({quality['difference']:+}), over {quality['tokens']} tokens"
        )
    out.result(document, text)


def _kept_from_claiming(made: Conversion, to: str) -> bool:
    """Whether a Hugging Face folder was made whose tokenizer has no faithful tokenizer.json."""
    if made.manifest is None or to != "hf" or made.manifest.made_by.get("from") == "hf":
        return False
    names = {entry.path for entry in made.manifest.files}
    return "tokenizer.model" in names and "tokenizer.json" not in names


def _document(made: Conversion, to: str, seconds: float) -> dict[str, Any]:
    manifest = made.manifest
    document: dict[str, Any] = {
        "path": str(made.path),
        "format": to,
        "manifest": manifest.digest if manifest else None,
        "parent": manifest.parent if manifest else None,
        "bytes": manifest.bytes if manifest else sum(made.files.values()),
        "seconds": round(seconds, 3),
        "tensors": len(manifest.tensors) if manifest else None,
        "model": manifest.model if manifest else None,
        "license": manifest.license if manifest else None,
        "receipt": manifest.receipt if manifest else None,
        "files": dict(made.files),
        "resumed": made.resumed,
        "values_changed": made.changed,
        "lacks": list(made.lacks),
    }
    if made.verified is not None:
        document["verified"] = made.verified
    if made.non_finite:
        document["non_finite"] = dict(made.non_finite)
    if made.errors:
        document["relative_errors"] = {n: round(e, 6) for n, e in sorted(made.errors.items())}
    if manifest is None:
        document |= {"dry_run": True, "needed": made.needed, "free": made.free}
    return document


def _text(made: Conversion, seconds: float) -> str:
    if made.manifest is None:
        listed = [f"  {size_text(size):>10}  {name}" for name, size in made.files.items()]
        fits = "fits" if made.needed <= made.free else "DOES NOT FIT"
        room = f"needs {size_text(made.needed)}, {size_text(made.free)} free: {fits}"
        return "\n".join([f"would write into {made.path}:", *listed, room])
    lines = [
        f"{made.manifest.model}: {made.path}",
        f"  {size_text(made.manifest.bytes)} in {duration_text(seconds)}, "
        f"{len(made.manifest.tensors)} tensors" + _proof(made),
        f"  manifest {made.manifest.digest}",
    ]
    if made.resumed:
        lines.append(f"  {made.resumed} tensors were there already from an earlier run")
    if made.errors:
        lines.append("  " + _errors(made))
    return "\n".join(lines)


def _proof(made: Conversion) -> str:
    return ", read again and proved the same" if made.verified else ""


def _errors(made: Conversion) -> str:
    worst = max(made.errors, key=lambda name: made.errors[name])
    mean = sum(made.errors.values()) / len(made.errors)
    return (
        f"relative error of the {len(made.errors)} quantised tensors: {mean:.2%} on average, "
        f"{made.errors[worst]:.2%} at most ({worst})"
    )
