"""Comparison as a user sees it: differences, settings, published values, gates, reports."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from llama_hub.evaluation import published
from llama_hub.evaluation.compare import Entry, compare
from llama_hub.evaluation.record import Subject
from tests.support.command import run
from tests.support.records import made, samples, written


def subject(**changes: Any) -> Subject:
    return replace(made(samples("mmlu", 0.5, 5)).subject, **changes)


def test_two_quantisations_are_paired_document_by_document(tmp_path: Path) -> None:
    whole = written(tmp_path / "bf16", samples("mmlu", 0.5, 400))
    int4 = subject(quantization="int4", bytes=4 << 30)
    small = written(tmp_path / "int4", samples("mmlu", 0.5, 400, flip=0.05), subject=int4)
    done = run("eval", "compare", str(whole), str(small), "--json")
    assert done.code == 0
    (row,) = done.json["rows"]
    first, second = row["cells"]
    assert first["comparable"] is None
    assert second["comparable"] == "same setting"
    assert second["difference"]["method"] == "exact McNemar"
    assert second["difference"]["pairs"] == 400
    assert second["difference"]["low"] < second["difference"]["value"]
    assert 350 < second["same_answers"][0] < 400 == second["same_answers"][1]
    told = {each["name"]: each for each in done.json["settings"]}
    assert told["quantization"] == {
        "name": "quantization", "values": ["–", "int4"], "differ": True,
    }  # fmt: skip
    assert not told["seed"]["differ"]
    text = run("eval", "compare", str(whole), str(small)).stdout
    assert "same setting" in text
    assert "answers the same" in text


def test_what_differs_is_named() -> None:
    listed = samples("mmlu", 0.5, 100)
    cases = {
        "seed": made(listed, seed=2),
        "limit": made(listed, limit=100),
        "chat template": made(listed, template="sha256:1"),
        "samples": made(listed[:50]),
    }
    for name, other in cases.items():
        cell = compare([Entry("a", made(listed), listed), Entry("b", other)]).rows[0].cells[1]
        assert cell.comparable == "other setting"
        assert name in cell.differs
        assert cell.difference is not None
        assert cell.difference.method == "two standard errors"
    other = made(samples("piqa", 0.5, 100))
    rows = compare([Entry("a", made(listed)), Entry("b", other)]).rows
    assert [row.cells[1].comparable for row in rows] == ["not comparable"] * 2


def test_gates_fail_with_exit_9(tmp_path: Path) -> None:
    good = written(tmp_path / "good", samples("mmlu", 0.6, 400))
    bad = written(tmp_path / "bad", samples("mmlu", 0.6, 400, flip=0.4))
    assert run("eval", "compare", str(good), "--fail-under", "mmlu=50").code == 0
    done = run("eval", "compare", str(good), "--fail-under", "mmlu/acc=70", "--json")
    assert done.code == 9
    assert done.json["gates"][0]["ok"] is False
    assert run("eval", "compare", str(bad), "--fail-if-worse-than", str(good)).code == 9
    assert run("eval", "compare", str(good), "--fail-if-worse-than", str(bad)).code == 0
    assert run("eval", "compare", str(good), "--fail-if-worse-than", str(good)).code == 0
    for wrong in ("mmlu", "mmlu=x", "=3", "piqa=3", "mmlu=nan", "mmlu/f1=3"):
        assert run("eval", "compare", str(good), "--fail-under", wrong).code == 2, wrong
    other = written(tmp_path / "other", samples("mmlu", 0.6, 400), seed=9)
    done = run("eval", "compare", str(bad), "--fail-if-worse-than", str(other), "--json")
    assert done.code == 2
    assert "seed differ" in done.json["error"]["message"]


def test_published_values_stand_beside_and_are_never_called_reproduced(tmp_path: Path) -> None:
    listed = samples("mmlu", 0.45, 200) + samples("truthfulqa_mc1", 0.3, 50)
    listed += samples("gsm8k", 0.2, 50) + samples("arc_easy", 0.7, 50)
    scores = tuple(
        replace(s, metric="exact_match,strict-match", fewshot=8) if s.task == "gsm8k" else s
        for s in made(listed).scores
    )
    folder = written(tmp_path / "a", listed, scores=scores)
    done = run("eval", "compare", str(folder), "--against", "published", "--json")
    assert done.code == 0
    by = {(each["benchmark"], each["source"][:12]): each for each in done.json["published"]}
    mmlu = by["MMLU", "Llama 2 pape"]
    assert (mmlu["published"], mmlu["comparable"]) == (45.3, "same setting")
    assert mmlu["difference"] == pytest.approx(100 * mmlu["value"] - 45.3)
    assert by["MMLU", "Meta's Llama"]["comparable"] == "other setting"
    truth = by["TruthfulQA", "Llama 2 pape"]
    assert truth["comparable"] == "not comparable"
    assert truth["difference"] is None
    assert by["GSM8K", "Llama 2 pape"]["comparable"] == "other setting"
    assert "5-shot against 0-shot" in by["ARC-e", "Llama 2 pape"]["why"]
    shown = run("eval", "compare", str(folder), "--against", "published:llama-2-7b,GPT-4")
    assert shown.code == 0
    assert "GPT-4" in shown.stdout
    assert "reproduc" not in shown.stdout + done.stdout
    wrong = run("eval", "compare", str(folder), "--against", "published:llama-2-8b", "--json")
    assert wrong.code == 2
    assert "did you mean" in wrong.json["error"]["message"]


def test_the_three_flagged_cells_are_flagged_and_not_compared() -> None:
    flagged = [each for each in published.scores() if each.flag]
    assert [(each.model, each.benchmark, each.score) for each in flagged] == [
        ("Llama-2-7B", "Math (avg GSM8K+MATH)", 14.6),
        ("Llama-2-13B", "Math (avg GSM8K+MATH)", 28.7),
        ("Llama-2-13B-Chat", "GSM8K", 77.4),
    ]
    score = replace(made(samples("gsm8k", 0.2, 50)).scores[0], metric="exact_match", fewshot=8)
    record = made(samples("gsm8k", 0.2, 50), scores=(score,))
    (beside,) = [b for b in published.beside(record, ["Llama-2-13B-Chat"]) if b.published.flag]
    assert beside.comparable == "not comparable"
    assert beside.difference is None


def test_the_table_s_averages_follow_from_its_parts() -> None:
    """Table 3 is the mean of Tables 20 to 25, but for the cells that are flagged."""
    value = {(s.model, s.benchmark, s.setting): s.score for s in published.scores()}
    assert len(published.scores()) == 605
    assert all(each.source for each in published.scores())
    for model in ("Llama-2-7B", "Llama-2-13B", "Llama-2-70B", "Llama-1-65B"):
        parts = [v for (m, b, s), v in value.items() if m == model and (b, s) in (
            ("GSM8K", "8-shot maj1@1"), ("MATH", "4-shot maj1@1"))]  # fmt: skip
        stated = value[model, "Math (avg GSM8K+MATH)", "8-shot/4-shot maj@1"]
        near = abs(sum(parts) / 2 - stated) < 0.1
        assert near is (model not in ("Llama-2-7B", "Llama-2-13B"))


def test_reports_need_no_network_and_hold_no_markup_of_others(tmp_path: Path) -> None:
    evil = subject(name="<script>alert(1)</script>|`x`", quantization="int4", bytes=4 << 30)
    a = written(tmp_path / "a", samples("mmlu", 0.5, 100) + samples("piqa", 0.8, 60))
    b = written(tmp_path / "b", samples("mmlu", 0.5, 100, flip=0.1), subject=evil)
    done = run(
        "eval", "compare", str(a), str(b), "--html", str(tmp_path / "r.html"),
        "--markdown", str(tmp_path / "r.md"), "--svg", str(tmp_path / "charts"),
        "--against", "published:llama-2-7b",
    )  # fmt: skip
    assert done.code == 0
    page = (tmp_path / "r.html").read_text()
    assert "<script" not in page
    assert not re.search(r"(src|href)=", page)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert "default-src 'none'" in page
    markdown = (tmp_path / "r.md").read_text()
    assert "<script" not in markdown
    assert (
        len({line.count(" | ") for line in markdown.splitlines() if line.startswith("| mmlu")}) == 2
    )
    drawn = sorted((tmp_path / "charts").iterdir())
    assert [path.name for path in drawn] == ["chart-1.svg"]  # b has no piqa: no point of it
    ElementTree.parse(drawn[0])
    c = written(tmp_path / "c", samples("mmlu", 0.5, 100) + samples("piqa", 0.7, 60), subject=evil)
    assert run("eval", "compare", str(a), str(c), "--svg", str(tmp_path / "two")).code == 0
    assert len(list((tmp_path / "two").iterdir())) == 3
    for path in (tmp_path / "two").iterdir():
        ElementTree.parse(path)


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    assert run("eval", "compare", str(tmp_path / "gone"), "--json").code == 6
    (tmp_path / "record.json").write_text("{}")
    assert run("eval", "compare", str(tmp_path), "--json").code == 5
    assert run("eval", "compare", "--json").code == 2
    good = written(tmp_path / "a", samples("mmlu", 0.5, 10))
    assert run("eval", "compare", *[str(good)] * 21, "--json").code == 2
