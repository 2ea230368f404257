"""``llama-hub redteam``: replay prompts that should be refused, and show what changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llama_hub import __version__
from llama_hub.cli.default_command import RUN, RunGroup
from llama_hub.cli.options import CatalogFile, Json, Quiet, secret
from llama_hub.cli.output import Output, output
from llama_hub.errors import ExitCode
from llama_hub.files import write_atomic

if TYPE_CHECKING:
    from llama_hub.cli.eval_target import Opened
    from llama_hub.evaluation.redteam import Diff, RedTeamRecord, Reply
    from llama_hub.evaluation.redteam_suite import RedTeamSuite
    from llama_hub.evaluation.replay import Settings

HELP = "Replay prompts that should be refused; exit 5 if one is answered that was refused before."
app = typer.Typer(cls=RunGroup, help=HELP, no_args_is_help=True, add_completion=False)
Html = Annotated[Path | None, typer.Option("--html", help="Write the report as one HTML file.")]


@app.command(RUN)
def run_(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="A model, a folder, a deployment, or the URL of any endpoint."
        ),
    ],
    suite: Annotated[
        str, typer.Option(metavar="small|FILE.jsonl", help="Our own small suite, or any JSONL.")
    ] = "small",
    field: Annotated[
        str, typer.Option(metavar="KEY", help="Key of the prompt in each line of the file.")
    ] = "prompt",
    judge: Annotated[
        str,
        typer.Option(
            metavar="pattern|KIND:WHAT",
            help="Who judges: pattern, llama-guard:URL, moderations:URL or words:FILE.",
        ),
    ] = "pattern",
    against: Annotated[
        Path | None, typer.Option(metavar="RECORD", help="Earlier record; exit 5 on a regression.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the endpoint's sampling.")] = 1234,
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Of each answer.")] = 256,
    system: Annotated[str | None, typer.Option(help="System prompt for every prompt.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to name to the endpoint, if it has several.")
    ] = None,
    quantize: Annotated[
        Literal["int8", "int4"] | None, typer.Option(help="Serve the model quantised.")
    ] = None,
    serve_option: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION=VALUE", help="Any option of serve: dtype=float32; repeat it."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY|@FILE|-", help="The endpoint's key; also LLAMA_HUB_API_KEY."),
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the record.", show_default="a new one in the home"),
    ] = None,
    html: Html = None,
    catalog: CatalogFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Replay a suite against TARGET; `llama-hub redteam TARGET` is the same. Writes a record."""
    from llama_hub.cli.eval_target import Wishes, opened, serve_options
    from llama_hub.evaluation import harness, redteam, redteam_suite
    from llama_hub.evaluation.replay import Settings

    out = output(json, quiet)
    loaded = redteam_suite.load(suite, field)
    before = None if against is None else redteam.read(against)
    settings = Settings(seed, max_tokens, system, _moderator(judge), judge)
    folder = (out_folder or harness.new_folder(f"redteam-{target}")).absolute()
    key = secret(api_key, "LLAMA_HUB_API_KEY")
    wishes = Wishes(serve_options(quantize, serve_option or []), key, model, None, catalog)
    with opened(out, target, wishes) as found:
        record = _replayed(out, found, loaded, settings, folder)
    change = None if before is None else redteam.diff(before, record)
    _report(out, html, record, change)
    _result(out, record, change, folder)


def _moderator(judge: str) -> Any:
    if judge == "pattern":
        return None
    from llama_hub.inference.service.moderators import policy

    return policy.from_words([judge]).moderators()[0]


def _replayed(
    out: Output, found: Opened, suite: RedTeamSuite, settings: Settings, folder: Path
) -> RedTeamRecord:
    from llama_hub.evaluation import redteam
    from llama_hub.evaluation.replay import Replay

    started, clock = datetime.now(UTC), time.monotonic()
    replay = Replay(found.endpoint, suite, settings, folder)
    replies = _asked(out, replay)
    record = redteam.RedTeamRecord(
        version=__version__, subject=found.subject, suite=suite.name, suite_sha256=suite.sha256,
        judge=settings.judge, seed=settings.seed, max_tokens=settings.max_tokens,
        system=settings.system, replies=tuple(replies),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 3),
    )  # fmt: skip
    redteam.write(folder, record)
    replay.end()
    out.status(f"the record is in {folder}")
    return record


def _asked(out: Output, replay: Any) -> Sequence[Reply]:
    with out.progress() as progress:
        done = 0

        def tell(count: int, total: int) -> None:
            nonlocal done
            if done == 0:
                progress.start("replay", total, unit="prompts", done=count)
            else:
                progress.advance("replay", count - done)
            done = max(count, done)

        replies: Sequence[Reply] = replay.run(tell)
        progress.finish("replay")
    return replies


@app.command("diff")
def diff_(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="The earlier record.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="The later record.")],
    html: Html = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What changed between two records; exit 5 if a refused prompt is answered now."""
    from llama_hub.evaluation import redteam

    out = output(json, quiet)
    later = redteam.read(after)
    change = redteam.diff(redteam.read(before), later)
    _report(out, html, later, change)
    out.result(change.to_json(), _change_text(change))
    if change.regressions:
        raise typer.Exit(int(ExitCode.INTEGRITY))


def _report(out: Output, html: Path | None, record: RedTeamRecord, change: Diff | None) -> None:
    from llama_hub.evaluation import redteam_report

    if html is not None:
        write_atomic(html, redteam_report.html(record, change).encode())
        out.status(f"wrote {html}")


def _result(out: Output, record: RedTeamRecord, change: Diff | None, folder: Path) -> None:
    """The numbers; exit 5 on a regression."""
    document: dict[str, Any] = {
        "target": record.subject.name,
        "manifest": record.subject.manifest,
        "suite": record.suite,
        "record": record.digest,
        "path": str(folder),
        "violations": len(record.violations),
        "over_refusals": len(record.over_refusals),
        "total": len(record.replies),
        "regressions": None if change is None else len(change.regressions),
        "categories": [
            {"category": name, "violations": bad, "prompts": count, "low": low, "high": high}
            for name, bad, count, low, high in record.rates()
        ],
    }
    if change is not None:
        document["diff"] = change.to_json()
    out.result(document, _text(record, change))
    if change is not None and change.regressions:
        raise typer.Exit(int(ExitCode.INTEGRITY))


def _text(record: RedTeamRecord, change: Diff | None) -> str:
    from llama_hub.cli.plan_view import columns

    rows = [("CATEGORY", "ANSWERED", "95 % INTERVAL")]
    rows += [
        (name, f"{bad} of {count}", f"{100 * low:.0f} to {100 * high:.0f} %")
        for name, bad, count, low, high in record.rates()
    ]
    lines = [columns(rows)]
    lines += [f"answered: {each.id}: {each.prompt[:100]}" for each in record.violations[:20]]
    if record.over_refusals:
        lines.append(f"{len(record.over_refusals)} harmless prompts were refused")
    if record.judge == "pattern":
        lines.append("judged by pattern: whether it refused, not whether the answer does harm")
    return "\n".join([*lines, *([_change_text(change)] if change else [])])


def _change_text(change: Diff) -> str:
    lines = [
        f"REGRESSION {each.after.id}: {each.after.prompt[:100]}" for each in change.regressions
    ]
    lines += [
        f"improved {each.after.id}: {each.after.prompt[:100]}" for each in change.improvements
    ]
    lines += [f"differs: {name}: {a} → {b}" for name, a, b in change.settings]
    lines.append(
        f"{len(change.regressions)} refused before and answered now, "
        f"{len(change.improvements)} the other way; "
        f"{change.same_answers} of {len(change.changes)} answers are the same"
    )
    return "\n".join(lines)


@app.command("review")
def review_(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="The record to judge.")],
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the page in which a person judges.")
    ] = None,
    verdicts: Annotated[
        Path | None, typer.Option("--verdicts", metavar="FILE", help="What the page gave out.")
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the record with these verdicts.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a person judge the answers: a page to do it in, and a record of the verdicts."""
    from llama_hub.errors import UsageError
    from llama_hub.evaluation import redteam, review

    out = output(json, quiet)
    read = redteam.read(record)
    if (html is None) == (verdicts is None) or (verdicts is None) != (out_folder is None):
        raise UsageError(
            "give either --html FILE, or --verdicts FILE with --out DIR",
            hint="llama-hub redteam review RECORD --html review.html",
        )
    if html is not None:
        write_atomic(html, review.html(read).encode())
        out.result({"path": str(html)}, f"wrote {html}: open it, judge, save, then --verdicts")
    elif verdicts is not None and out_folder is not None:
        made = review.judged(read, verdicts)
        redteam.write(out_folder, made)
        _result(out, made, None, out_folder)
