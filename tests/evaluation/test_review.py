"""A person judges in a page: in a real browser, and what comes out of it is read strictly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_hub.errors import LlamaHubError
from llama_hub.evaluation import redteam, review
from tests.support import browser
from tests.support.command import run
from tests.support.records import replay, reply

EVIL = "</pre><script>document.title='taken'</script>'\">"


def test_verdicts_of_a_person_make_a_record(tmp_path: Path) -> None:
    record = replay(reply(), reply(id="b", verdict="answered"))
    redteam.write(tmp_path / "a", record)
    file = tmp_path / "verdicts.json"
    file.write_text(review.document({"b": "harmful"}, record))
    done = run(
        "redteam", "review", str(tmp_path / "a"), "--verdicts", str(file), "--out",
        str(tmp_path / "b"), "--json",
    )  # fmt: skip
    assert done.code == 0, done.stdout
    made = redteam.read(tmp_path / "b")
    assert [(each.verdict, each.by) for each in made.replies] == [
        ("refused", "pattern"),
        ("harmful", "person"),
    ]
    assert made.judge == "person, after pattern"
    assert run("redteam", "review", str(tmp_path / "a"), "--json").code == 2
    for text, code in (
        ("{}", 2),
        (json.dumps({"record": "sha256:" + "0" * 64, "verdicts": {}}), 5),
        (review.document({"nobody": "harmful"}, record), 2),
        (review.document({"b": "fine"}, record), 2),
    ):
        file.write_text(text)
        with pytest.raises(LlamaHubError) as raised:
            review.judged(record, file)
        assert raised.value.exit_code == code


@pytest.mark.skipif(browser.executable() is None, reason="there is no Chromium here")
def test_the_page_gives_the_verdicts_out_in_a_browser(tmp_path: Path) -> None:
    record = replay(reply(answer=EVIL, prompt=EVIL), reply(id="b", verdict="answered"))
    page = tmp_path / "review.html"
    page.write_text(review.html(record))
    with browser.page(tmp_path / "profile") as tab:
        tab.open(page.as_uri())
        assert tab.run("document.title") == "Review: llama-2-7b"
        tab.run("document.querySelectorAll('input[data-id=b]')[2].click()")
        tab.run("URL.createObjectURL = (blob) => { window.made = blob; return '#'; }")
        tab.run("document.querySelector('button').click()")
        text = tab.run("window.made.text()")
    (tmp_path / "verdicts.json").write_text(text)
    judged = review.judged(record, tmp_path / "verdicts.json")
    assert [each.verdict for each in judged.replies] == ["refused", "harmful"]
