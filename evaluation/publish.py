"""Publication of scores: a ``model-index`` in a model card's head, and the quantitative analysis in
an ML-BOM (CycloneDX), each with the record's digest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.evaluation.record import Record, Score
from llama_hub.files import write_atomic
from llama_hub.hub.manifest import MANIFEST_NAME
from llama_hub.hub.manifest import read as read_manifest
from llama_hub.strict import FileKind, parse_yaml, read_json, read_text

CARD = FileKind("the model card", max_bytes=1 << 20, max_depth=24, max_values=20_000)
BOM = FileKind("the bill of materials", max_bytes=64 << 20, max_values=1_000_000)
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?\n?", re.DOTALL | re.MULTILINE)


def model_index(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The value of ``model-index``: one result for each task and record."""
    results: list[dict[str, Any]] = []
    for record in records:
        for task in dict.fromkeys(score.task for score in record.scores):
            scores = [score for score in record.scores if score.task == task]
            results.append(_result(record, task, scores))
    return [{"name": records[0].subject.model or records[0].subject.name, "results": results}]


def _result(record: Record, task: str, scores: Sequence[Score]) -> dict[str, Any]:
    first = scores[0]
    dataset: dict[str, Any] = {"name": task, "type": first.data or task}
    if first.data_revision is not None:
        dataset["revision"] = first.data_revision
    settings = ", ".join(filter(None, (first.setting, record.subject.quantization, f"n={first.n}")))
    return {
        "task": {"type": "text-generation", "name": "Text Generation"},
        "dataset": dataset,
        "metrics": [
            {
                "type": score.metric,
                "name": f"{score.metric} ({settings})",
                "value": round(100 * score.value if score.share else score.value, 4),
                "verified": False,
                "args": {
                    "harness": f"{record.harness.name} {record.harness.version}",
                    "record": record.digest,
                },
            }
            for score in scores
        ],
    }


def update_card(path: Path, records: Sequence[Record]) -> None:
    """Put the ``model-index`` into the head of the README at ``path``; the rest stays as it is.

    ``IntegrityError`` for a file that a manifest lists (changing it would break the folder),
    ``DamagedFileError`` for a head that cannot be read.
    """
    import yaml

    _refuse_listed(path)
    text = read_text(path, CARD) if path.exists() else f"# {records[0].subject.name}\n"
    front = _FRONT.match(text)
    head = parse_yaml(front[1], path, CARD) if front else {}
    if not isinstance(head, dict):
        raise CARD.invalid(path, "its head is no table of keys")
    head["model-index"] = model_index(records)
    dumped = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)
    body = text[front.end() :] if front else "\n" + text
    write_atomic(path, f"---\n{dumped}---\n{body}".encode())


def _refuse_listed(path: Path) -> None:
    if not (path.parent / MANIFEST_NAME).is_file():
        return
    manifest = read_manifest(path.parent)
    if path.name in {entry.path for entry in manifest.files} | {MANIFEST_NAME}:
        raise IntegrityError(
            f"{path} is listed in the manifest beside it, which would no longer hold",
            hint="name a copy of the file outside of the folder",
        )


def performance(records: Sequence[Record]) -> dict[str, Any]:
    """CycloneDX's ``quantitativeAnalysis``: values and bounds are text there."""
    metrics = []
    for record in records:
        for score in record.scores:
            about = ", ".join(filter(None, (score.setting, f"n={score.n}", record.digest)))
            metric: dict[str, Any] = {
                "type": f"{score.task} {score.metric}",
                "value": f"{score.value:.6g}",
                "slice": about,
            }
            if score.low is not None and score.high is not None:
                metric["confidenceInterval"] = {
                    "lowerBound": f"{score.low:.6g}", "upperBound": f"{score.high:.6g}",
                }  # fmt: skip
            metrics.append(metric)
    return {"performanceMetrics": metrics}


def update_bom(path: Path, records: Sequence[Record]) -> None:
    """Put the analysis into the components of the BOM at ``path`` that have the records' manifests.

    ``UsageError`` if no component has one of them.
    """
    document = read_json(path, BOM)
    components = document.get("components") if isinstance(document, dict) else None
    by_manifest: dict[str, list[Record]] = {}
    for record in records:
        by_manifest.setdefault(str(record.subject.manifest), []).append(record)
    changed = False
    for component in components if isinstance(components, list) else []:
        own = by_manifest.get(str(component.get("version"))) if _is_table(component) else None
        if own and component.get("type") == "machine-learning-model":
            card = component.setdefault("modelCard", {})
            if not isinstance(card, dict):
                raise BOM.invalid(path, "a component's modelCard is no table", "components")
            card["quantitativeAnalysis"] = performance(own)
            changed = True
    if not changed:
        raise UsageError(
            f"{path} has no model with the manifest {', '.join(by_manifest)}",
            hint="llama-hub license export --format cyclonedx -o FILE",
        )
    write_atomic(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)
