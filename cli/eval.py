"""``llama-hub eval``: score a target, compare results, set gates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from llama_hub.cli.default_command import RUN, RunGroup
from llama_hub.cli.eval_view import Files, Gates, entries_of, is_published, present
from llama_hub.cli.options import CatalogFile, Json, Quiet, Yes, secret
from llama_hub.cli.output import output
from llama_hub.errors import UsageError

app = typer.Typer(
    cls=RunGroup,
    help="Score a model or endpoint; compare results; gates for CI (exit 9).",
    no_args_is_help=True,
    add_completion=False,
)

Against = Annotated[
    str | None,
    typer.Option(
        metavar="published[:MODEL,…]|RECORD",
        help="Show published values, or another record, beside the result.",
    ),
]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK=VALUE", help="Exit 9 if the score is below; repeat it."),
]
FailIfWorse = Annotated[
    Path | None,
    typer.Option(
        "--fail-if-worse-than",
        metavar="RECORD",
        help="Exit 9 if a score is worse than that record's, beyond the interval.",
    ),
]
Html = Annotated[Path | None, typer.Option("--html", help="Write the report as one HTML file.")]
Markdown = Annotated[Path | None, typer.Option("--markdown", help="Write the report as Markdown.")]
Svg = Annotated[Path | None, typer.Option("--svg", help="Write the charts into this folder.")]


@app.callback()
def root() -> None:
    """Score a model or endpoint; compare results; gates for CI (exit 9)."""


@app.command("compare")
def compare_(
    records: Annotated[
        list[Path], typer.Argument(metavar="RECORD…", help="record.json or its folder.")
    ],
    against: Against = None,
    html: Html = None,
    markdown: Markdown = None,
    svg: Svg = None,
    fail_under: FailUnder = None,
    fail_if_worse_than: FailIfWorse = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare records with the first: differences, intervals, settings beside settings."""
    out = output(json, quiet)
    paths = [*records, *([Path(against)] if against and not is_published(against) else [])]
    entries = entries_of(paths)
    shown = against if against and is_published(against) else None
    gates = Gates(fail_under or [], fail_if_worse_than)
    present(out, entries, shown, Files(html, markdown, svg), gates, entries[-1:], {})


@app.command(RUN)
def run_(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A model, a folder, a deployment, or the URL of any OpenAI-compatible endpoint.",
        ),
    ],
    suite: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="paper, quick, code, demo, or a YAML file.")
    ] = "quick",
    limit: Annotated[
        int | None,
        typer.Option(help="Documents of each task; 0 for all.", min=0, show_default="the suite's"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of few-shot examples and sampling.", min=0)] = 1234,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the record.", show_default="a new one in the home"),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask by chat completions; generative tasks only.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Model to name to the endpoint, if it has several.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the tokenizer, if it is not in the store.")
    ] = None,
    quantize: Annotated[
        Literal["int8", "int4"] | None, typer.Option(help="Serve the model quantised.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="int8|int4|Q4_K_M|TARGET",
            help="Score this too and compare: the model quantised so, or another; repeat it.",
        ),
    ] = None,
    serve_option: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION=VALUE", help="Any option of serve: dtype=float32; repeat it."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY|@FILE|-", help="The endpoint's key; also LLAMA_HUB_API_KEY."),
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the model's programs in a sandbox.")
    ] = False,
    trust_tasks: Annotated[
        bool, typer.Option("--trust-tasks", help="Take tasks of a suite's folder, which are code.")
    ] = False,
    against: Against = None,
    html: Html = None,
    markdown: Markdown = None,
    svg: Svg = None,
    fail_under: FailUnder = None,
    fail_if_worse_than: FailIfWorse = None,
    catalog: CatalogFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score TARGET with lm-eval; `llama-hub eval TARGET` is the same. Writes a record."""
    from llama_hub.cli import eval_run
    from llama_hub.cli.eval_target import Wishes, opened, serve_options
    from llama_hub.cli.eval_variants import prepared, variants
    from llama_hub.evaluation import harness

    out = output(json, quiet)
    folder = (out_folder or harness.new_folder(target)).absolute()
    key = secret(api_key, "LLAMA_HUB_API_KEY")
    listed = variants(target, quantize, also or [], folder)
    plan = eval_run.plan(
        suite, limit=limit, seed=seed, chat=chat, allow_code=allow_code, trusted=trust_tasks,
        folder=folder,
    )  # fmt: skip
    runs = []
    for each in listed:
        options = serve_options(each.quantize, serve_option or [])
        wishes = Wishes(options, key, model, tokenizer, catalog)
        with opened(out, prepared(out, each), wishes) as found:
            made, result = eval_run.run(out, found, replace(plan, folder=each.folder))
        out.status(f"the record is in {each.folder}")
        runs.append(eval_run.document(made, result, each.folder))
    beside = [Path(against)] if against and not is_published(against) else []
    entries = entries_of([*beside, *(each.folder for each in listed)])
    present(
        out, entries, against if against and not beside else None, Files(html, markdown, svg),
        Gates(fail_under or [], fail_if_worse_than), entries[len(beside) :],
        runs[0] | ({"runs": runs} if len(runs) > 1 else {}),
    )  # fmt: skip


@app.command("setup")
def setup(yes: Yes = False, json: Json = False, quiet: Quiet = False) -> None:
    """Make the environment that lm-eval needs: about 1 GB, without torch, apart from this one."""
    from llama_hub.evaluation import environment

    out = output(json, quiet)
    folder = environment.own().parents[1]
    if not yes and not out.confirm(
        f"install lm-eval {environment.VERSION} in {folder}?", flag="--yes"
    ):
        raise UsageError("nothing was installed", hint="llama-hub eval setup --yes")
    out.status("installing; this takes some minutes")
    python = environment.make()
    out.result(
        {"python": str(python), "lm_eval": environment.VERSION},
        f"lm-eval {environment.VERSION} is in {folder}",
    )


@app.command("publish")
def publish_(
    records: Annotated[
        list[Path], typer.Argument(metavar="RECORD…", help="record.json or its folder.")
    ],
    readme: Annotated[
        Path | None, typer.Option("--readme", help="Model card that gets a model-index.")
    ] = None,
    bom: Annotated[
        Path | None,
        typer.Option("--bom", help="CycloneDX BOM whose models get the quantitative analysis."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write scores into a model card (model-index) and an ML-BOM; prints the model-index."""
    from llama_hub.evaluation import publish

    out = output(json, quiet)
    read = [entry.record for entry in entries_of(records)]
    if len({each.subject.manifest for each in read}) > 1 and readme is not None:
        raise UsageError(
            "the records are of several models: one model card is of one", hint="publish each alone"
        )
    if readme is not None:
        publish.update_card(readme, read)
        out.status(f"wrote {readme}")
    if bom is not None:
        publish.update_bom(bom, read)
        out.status(f"wrote {bom}")
    index = publish.model_index(read)
    lines = [
        f"{result['dataset']['name']} {metric['name']}: {metric['value']}"
        for result in index[0]["results"]
        for metric in result["metrics"]
    ]
    out.result({"model-index": index}, "\n".join(lines))
