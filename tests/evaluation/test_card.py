"""The transparency card: every line has a source, nothing is invented, no other's scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llama_hub.evaluation import card, record
from llama_hub.evaluation.card import About
from llama_hub.hub.catalog import load
from llama_hub.hub.manifest import FileEntry, Manifest
from llama_hub.hub.release_items import terms_of
from tests.support.command import run
from tests.support.demo_model import demo_folder
from tests.support.records import made, replay, reply, samples, written


def about(model: str = "llama-2-7b-chat", **changes: object) -> About:
    files = (FileEntry("consolidated.00.pth", 10, "0" * 64), FileEntry("LICENSE", 3, "1" * 64))
    manifest = Manifest(model, "meta", "llama-2-community", files)
    fields = {"manifest": manifest, "license": terms_of("llama-2-community")}
    return About(**{**fields, "catalog": load().get(model), **changes})  # type: ignore[arg-type]


def lines(of: About, title: str) -> dict[str, str]:
    (section,) = [each for each in card.sections(of) if each.title.startswith(title)]
    return {line.name: line.value for line in section.lines}


def test_every_line_has_a_source() -> None:
    for section in card.sections(about()):
        assert section.lines, section.title
        for line in section.lines:
            assert line.value.strip(), line
            assert line.source.strip(), line


def test_meta_s_numbers_stand_where_they_belong() -> None:
    chat = about()
    assert lines(chat, "Energy")["emissions"].startswith("31.22 t")
    assert lines(about("llama-2-70b"), "Energy")["emissions"].startswith("291.42 t")
    assert "2 trillion" in lines(chat, "Data")["pretraining"]
    assert "tuning" in lines(chat, "Data")
    assert "tuning" not in lines(about("llama-2-7b"), "Data")
    assert len([n for n in lines(chat, "Licence") if n.startswith("duty")]) == 8
    assert lines(chat, "Licence")["acceptance"] == "none on record here"
    assert len(lines(chat, "The release's seven")) == 7


def test_of_another_s_model_nothing_is_claimed() -> None:
    for model in ("llama-demo", "code-llama-7b"):
        if model not in load():
            continue
        found = (
            about(model)
            if model != "llama-demo"
            else about(model, license=terms_of("llama-hub-demo"))
        )
        assert lines(found, "Energy") == {"energy": card.UNKNOWN}
        assert lines(found, "Data") == {"training data": card.UNKNOWN}
    assert lines(about(catalog=None), "Limits")["limits"] == card.UNKNOWN


def test_scores_and_replays_stand_with_their_settings() -> None:
    of = about(records=(made(samples("mmlu", 0.45, 40), limit=40),), redteams=(replay(reply()),))
    (said,) = lines(of, "Evaluation").values()
    assert "5-shot" in said
    assert "first 40 documents" in said
    assert lines(of, "Red team")["suite small, all"].startswith("0 of 1 answered")
    policy = about(policy="sha256:1", deployment={"name": "x"})
    assert lines(policy, "Moderation") == {"policy": "sha256:1"}
    assert lines(about(deployment={"name": "x"}), "Moderation") == {"policy": "none"}


def test_the_command_takes_this_machine_s_records(home: Path, tmp_path: Path) -> None:
    served = demo_folder(home)
    subject = replace(made(samples("t", 0.5, 4)).subject, manifest=served.manifest.digest)
    written(home / "evaluations" / "20260101-a", samples("demo", 0.5, 40), subject=subject)
    written(home / "evaluations" / "20260102-b", samples("other", 0.5, 40))
    (home / "evaluations" / "broken").mkdir()
    (home / "evaluations" / "broken" / "record.json").write_text("{")
    done = run(
        "card", "llama-demo-chat", "--json", "--html", str(tmp_path / "c.html"), "--markdown",
        str(tmp_path / "c.md"),
    )  # fmt: skip
    assert done.code == 0, done.stdout
    titles = {s["title"]: s["lines"] for s in done.json["sections"]}
    assert [line["name"] for line in titles["Evaluation"]] == ["demo acc"]
    assert served.manifest.digest in titles["Evaluation"][0]["source"]  # the original's card
    page = (tmp_path / "c.html").read_text()
    assert "src=" not in page
    assert "href=" not in page
    assert (tmp_path / "c.md").read_text().startswith("# llama-demo-chat\n")
    named = run("card", "llama-demo-chat", "--eval", str(home / "evaluations/20260102-b"), "--json")
    assert named.code == 5
    assert "of the manifest" in named.json["error"]["message"]
    assert run("card", "no-such-model", "--json").code == 6


def test_a_manifest_of_others_cannot_write_into_the_card(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> | x"
    manifest = replace(about().manifest, made_by={"operation": evil}, source={"host": evil})
    of = about(manifest=manifest)
    assert "<script" not in card.html(of)
    assert "<script" not in card.markdown(of)
    json.dumps(card.to_json(of))


@pytest.mark.parametrize("form", ["model-index", "bom"])
def test_published_scores_are_read_by_their_judges(home: Path, tmp_path: Path, form: str) -> None:
    from huggingface_hub.repocard_data import model_index_to_eval_results

    served = demo_folder(home)
    subject = replace(made(samples("t", 0.5, 4)).subject, manifest=served.manifest.digest)
    folder = written(tmp_path / "a", samples("demo", 0.5, 40), subject=subject)
    value = record.read(folder).scores[0].value
    if form == "bom":
        bom = tmp_path / "bom.json"
        assert run("license", "export", "--format", "cyclonedx", "-o", str(bom)).code == 0
        assert run("eval", "publish", str(folder), "--bom", str(bom)).code == 0
        models = json.loads(bom.read_text())["components"]
        scored = [m for m in models if "quantitativeAnalysis" in m["modelCard"]]
        assert [m["version"] for m in scored] == [served.manifest.digest]
        (metric,) = scored[0]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
        assert float(metric["value"]) == pytest.approx(value)
        assert set(metric["confidenceInterval"]) == {"lowerBound", "upperBound"}
        other = written(tmp_path / "b", samples("demo", 0.5, 40))
        assert run("eval", "publish", str(other), "--bom", str(bom), "--json").code == 2
        return
    card_file = tmp_path / "README.md"
    card_file.write_text("---\nlicense: llama2\n---\n# Mine\n\ntext\n")
    assert run("eval", "publish", str(folder), "--readme", str(card_file)).code == 0
    assert run("eval", "publish", str(folder), "--readme", str(card_file)).code == 0  # once more
    text = card_file.read_text()
    assert text.endswith("---\n# Mine\n\ntext\n")
    import yaml

    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "llama2"
    _, (result,) = model_index_to_eval_results(head["model-index"])
    assert result.metric_value == pytest.approx(100 * value)
    assert result.dataset_name == "demo"


def test_a_listed_readme_is_not_written(home: Path, tmp_path: Path) -> None:
    served = demo_folder(home)
    folder = written(tmp_path / "a", samples("demo", 0.5, 40))
    done = run("eval", "publish", str(folder), "--readme", str(served.path / "README.md"), "--json")
    assert done.code == 5
    assert "no longer hold" in done.json["error"]["message"]
    broken = tmp_path / "README.md"
    broken.write_text("---\n[1]\n---\n")
    assert run("eval", "publish", str(folder), "--readme", str(broken), "--json").code == 5
