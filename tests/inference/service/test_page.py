"""The chat page in a real browser: ask, stream, stop, settings, key, on a desk and on a phone."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llama_hub.inference.service.pages import PAGE
from llama_hub.inference.service.settings import ServiceSettings
from tests.support import browser
from tests.support.browser import Page
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import Running, demo_tokenizer, echo_engine, serving

pytestmark = pytest.mark.skipif(browser.executable() is None, reason="no chromium on PATH")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser.page(tmp_path_factory.mktemp("profile")) as found:
        found.size(1100, 760)
        yield found


def last(tab: Page, kind: str) -> str:
    text = tab.run(f"[...document.querySelectorAll('.{kind}')].at(-1).firstChild?.textContent")
    return str(text)


def test_a_question_is_answered_and_followed_up(tab: Page) -> None:
    with serving(echo_engine(context=128)) as running:
        tab.open(running.url)
        tab.until("document.querySelector('#model').textContent === 'echo-model'")
        assert "Shown to all." in tab.run("document.querySelector('footer').textContent")
        tab.type("#question", "tell me a story")
        tab.press_enter()
        tab.until("document.querySelector('.assistant .count')")
        assert last(tab, "user") == "tell me a story"
        assert last(tab, "assistant").startswith("[INST] tell me a story [/INST]")
        assert "tokens" in tab.run("document.querySelector('.count').textContent")
        tab.click("#new")  # the echo has the format's own tags in it, which may not be sent back
        tab.click("#settings-button")
        tab.run("document.querySelector('#max_tokens').value = '3'")
        tab.type("#system", "be brief")
        tab.type("#question", "and on")
        tab.click("#send")
        tab.until("document.querySelectorAll('.assistant .count').length === 1")
        assert running.engine.seen[-1].sampling.max_tokens == 3
        assert "be brief" in running.service.tokenizer.decode(list(running.engine.seen[-1].prompt))
        tab.click("#settings-button")
        assert tab.errors == []


def test_stop_ends_the_answer_and_frees_its_place(tab: Page) -> None:
    with serving(echo_engine(pace=0.05, context=2000)) as running:
        tab.open(running.url)
        tab.type("#question", "never ending")
        tab.press_enter()
        tab.until("document.querySelector('.assistant')?.textContent.length > 5")
        assert running.service.admission.sequences == 1
        tab.click("#stop")
        tab.until("document.querySelector('.assistant .count')?.textContent.includes('stopped')")
        tab.until("!document.querySelector('#send').hidden")
        assert wait_empty(running.url) == 0


def wait_empty(url: str) -> float:
    """Sequences that the engine still runs, once the server has noticed the client's leaving."""
    running = 1.0
    for _ in range(200):
        text = httpx.get(f"{url}/metrics", trust_env=False).text
        line = next(ln for ln in text.splitlines() if ln.startswith("vllm:num_requests_running{"))
        running = float(line.rsplit(" ", 1)[1])
        if not running:
            break
    return running


def test_the_page_asks_for_the_key(tab: Page) -> None:
    with serving(settings=ServiceSettings(api_key="s3cret")) as running:
        tab.open(running.url)
        tab.until("!document.querySelector('#key-field').hidden")
        tab.errors.clear()
        tab.type("#question", "hello you")
        tab.press_enter()
        tab.until("document.querySelector('.problem')")
        assert "API key" in last(tab, "problem")
        assert tab.run("document.querySelector('#question').value") == "hello you"
        tab.type("#key", "s3cret")
        tab.click("#send")
        tab.until("document.querySelector('.assistant .count')")
        tab.run("sessionStorage.clear()")
        tab.errors.clear()


def test_markup_in_an_answer_stays_text(tab: Page) -> None:
    with serving(echo_engine(context=200)) as running:
        tab.open(running.url)
        tab.type("#question", "<img src=x onerror=alert(1)><b>hi</b>")
        tab.press_enter()
        tab.until("document.querySelector('.assistant .count')")
        assert tab.run("document.querySelectorAll('#talk img, #talk b').length") == 0


def test_the_page_says_that_the_model_is_loading(tab: Page) -> None:
    import asyncio

    load = asyncio.Event()
    with serving(echo_engine(load=load), wait=False) as running:
        tab.open(running.url)
        tab.until("document.querySelector('#status').textContent.includes('being loaded')")
        running.loop.call_soon_threadsafe(load.set)
        tab.until("document.querySelector('#status').textContent === ''")


def test_it_fits_a_phone(tab: Page, tmp_path: Path) -> None:
    with serving() as running:
        tab.size(360, 640, phone=True)
        tab.open(running.url)
        tab.type("#question", "a long word: " + "x" * 80)
        tab.click("#send")
        tab.until("document.querySelector('.assistant .count')")
        tab.click("#settings-button")
        assert tab.run("document.documentElement.scrollWidth") <= 360
        small = tab.run(
            "[...document.querySelectorAll('button')].filter((b) => b.offsetParent"
            " && b.getBoundingClientRect().height < 40).length"
        )
        assert small == 0
        field = tab.run("document.querySelector('#question').getBoundingClientRect().bottom")
        assert field <= 640
        tab.screenshot(tmp_path / "phone.png")
        tab.size(1100, 760)


def test_docs_list_every_route(tab: Page) -> None:
    with serving() as running:
        tab.open(f"{running.url}/docs")
        tab.until("document.querySelectorAll('h2').length > 10")
        listed = tab.run("document.querySelector('#routes').textContent")
        for path in httpx.get(f"{running.url}/openapi.json", trust_env=False).json()["paths"]:
            assert path in listed


def test_other_peoples_files_are_as_they_came() -> None:
    notice = (PAGE / "THIRD_PARTY.md").read_text()
    listed = dict(re.findall(r"^\| `([\w.]+)` .*`([0-9a-f]{64})` \|$", notice, re.MULTILINE))
    assert set(listed) == {"marked.js", "purify.js"}
    for name, digest in listed.items():
        assert hashlib.sha256((PAGE / name).read_bytes()).hexdigest() == digest


# --- answers as Markdown ------------------------------------------------------------------------

MARKDOWN = """# Cities

| city | people |
|---|---|
| Rome | 3 |

- **one**
- [a page](https://example.org/x)

```python
print("<b>")
```
"""
HOSTILE = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<svg><script>window.hit = 1</script></svg>",
    "<iframe srcdoc='<script>parent.hit = 1</script>'></iframe>",
    "[a](javascript:window.hit=1) [b](data:text/html,x) [c](JaVaScRiPt:window.hit=1)",
    '![x](https://evil.example/pixel.png) ![y](x" onerror="window.hit=1)',
    "<a href='javascript:window.hit=1' style='position:fixed;inset:0'>x</a>",
    "<form action=https://evil.example><input name=k></form>",
    "<style>body { display: none }</style><link rel=stylesheet href=https://evil.example>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--><img src=1 onerror=hit=1>'>",
    "```\n</code></pre><script>window.hit = 1</script>\n```",
    "`<img src=x onerror=window.hit=1>`",
    "<div id=send>x</div><p id=key class=turn name=settings>y</p>",
    "# x <details open ontoggle=window.hit=1>",
    "[x]: javascript:window.hit=1\n[x]",
    "<a name=__proto__ id=__proto__>x</a>",
]


ALLOWED = "p,br,hr,em,strong,del,code,pre,blockquote,ul,ol,li,h1,h2,h3,h4,h5,h6,a,button,div"


@pytest.fixture(scope="module")
def scripted() -> Iterator[Running]:
    with serving(ScriptedEngine(demo_tokenizer())) as found:
        yield found


def says(running: Running, tab: Page, script: str, question: str = "go on") -> None:
    """Have the page's model answer ``script``."""
    running.engine.script = script
    tab.type("#question", question)
    tab.press_enter()
    tab.until("document.querySelector('#send').hidden === false")


def start(running: Running, tab: Page) -> None:
    tab.open(running.url)
    tab.run("localStorage.clear()")
    tab.open(running.url)
    tab.until("document.querySelector('#model').textContent === 'echo-model'")
    tab.errors.clear()


def test_an_answer_is_drawn_as_markdown(scripted: Running, tab: Page) -> None:
    start(scripted, tab)
    says(scripted, tab, MARKDOWN)
    shown = "document.querySelector('.assistant .text')"
    assert tab.run(f"{shown}.querySelector('h1').textContent") == "Cities"
    assert tab.run(f"{shown}.querySelectorAll('td').length") == 2
    assert tab.run(f"{shown}.querySelector('strong').textContent") == "one"
    assert tab.run(f"{shown}.querySelector('pre code').textContent") == 'print("<b>")\n'
    assert tab.run(f"{shown}.querySelector('a').rel") == "noopener noreferrer nofollow"
    assert tab.errors == []


def test_a_hostile_answer_does_nothing(scripted: Running, tab: Page) -> None:
    start(scripted, tab)
    for script in HOSTILE:
        says(scripted, tab, script)
        tab.run("new Promise((done) => setTimeout(done, 20))")
        assert not tab.run("window.hit"), script
        others = f"document.querySelectorAll('.text *:not({ALLOWED},table,table *)').length"
        assert tab.run(others) == 0, script
        links = "[...document.querySelectorAll('.text a[href]')].map((link) => link.protocol)"
        assert set(tab.run(links)) <= {"https:"}, script
        named = "document.querySelectorAll('.text [id], .text [name], .text [style]').length"
        assert tab.run(named) == 0, script
        tab.click("#new")
    assert tab.errors == []  # nothing was even asked for, so that nothing had to be blocked


# --- what can be done with a message ------------------------------------------------------------


def act(tab: Page, label: str, turn: int = -1) -> None:
    buttons = f"[...document.querySelectorAll('.turn')].at({turn}).querySelectorAll('.actions *')"
    tab.run(f"[...{buttons}].find((button) => button.textContent === '{label}').click()")


def turns(tab: Page) -> list[str]:
    shown = "[...document.querySelectorAll('.turn .text')].map((each) => each.textContent.trim())"
    found: list[str] = tab.run(shown)
    return found


def test_messages_are_edited_asked_again_and_deleted(scripted: Running, tab: Page) -> None:
    start(scripted, tab)
    says(scripted, tab, "first", "one")
    says(scripted, tab, "second", "two")
    scripted.engine.script = "third"
    act(tab, "Again")
    tab.until("document.querySelector('#send').hidden === false")
    assert turns(tab) == ["one", "first", "two", "third"]
    act(tab, "Edit", 0)
    assert turns(tab) == []
    assert tab.run("document.querySelector('#question').value") == "one"
    tab.run("document.querySelector('#question').value = ''")
    says(scripted, tab, "fourth", "other")
    act(tab, "Delete")
    assert turns(tab) == ["other"]
    assert tab.errors == []


def test_an_answer_that_was_cut_is_marked_and_goes_on(scripted: Running, tab: Page) -> None:
    start(scripted, tab)
    tab.run("document.querySelector('#max_tokens').value = '1'")
    says(scripted, tab, "Once upon a time", "a story")
    assert "longest length" in tab.run("document.querySelector('.count').textContent")
    before = turns(tab)[1]
    tab.run("document.querySelector('#max_tokens').value = ''")
    scripted.engine.script = "and so on"
    act(tab, "Continue")
    tab.until("document.querySelector('#send').hidden === false")
    assert turns(tab)[1].split() == [*before.split(), "and", "so", "on"]
    prompt = scripted.service.tokenizer.decode(list(scripted.engine.seen[-1].prompt))
    assert prompt.endswith(before)


def test_conversations_stay_in_the_browser(scripted: Running, tab: Page, tmp_path: Path) -> None:
    start(scripted, tab)
    says(scripted, tab, "about Rome", "cities")
    tab.click("#new")
    says(scripted, tab, "about Ada", "people")
    tab.open(scripted.url)  # the page is loaded again
    tab.click("#history-button")
    titles = "document.querySelectorAll('#conversations li > :first-child')"
    listed = f"[...{titles}].map((button) => button.textContent)"
    assert tab.run(listed) == ["people", "cities"]
    tab.type("#search", "rome")
    tab.until(f"{listed}.length === 1")
    tab.run("document.querySelector('#conversations button').click()")
    assert turns(tab) == ["cities", "about Rome"]
    assert tab.errors == []


@pytest.mark.parametrize(
    ("text", "says_"),
    [
        ("nonsense", "not JSON"),
        ("[]", "does not hold"),
        ('{"format": "llama-hub-conversations", "conversations": [{"turns": "x"}]}', "damaged"),
        (
            '{"format": "llama-hub-conversations", "conversations": [{"id": "a", "title": "new",'
            ' "turns": [{"role": "user", "content": "<img src=x onerror=hit=1>"}]}]}',
            "1 conversations were imported",
        ),
    ],
)
def test_a_file_of_conversations_is_a_strangers(
    scripted: Running, tab: Page, text: str, says_: str
) -> None:
    start(scripted, tab)
    tab.run(
        "(() => { const files = new DataTransfer();"
        f" files.items.add(new File([{json.dumps(text)}], 'c.json'));"
        " const field = document.querySelector('#import-file'); field.files = files.files;"
        " field.dispatchEvent(new Event('change')); })()"
    )
    tab.until(f"document.querySelector('#status').textContent.includes('{says_}')")
    tab.click("#history-button")
    if "imported" in says_:
        tab.run("document.querySelector('#conversations button').click()")
        assert turns(tab) == ["<img src=x onerror=hit=1>"]
    assert not tab.run("window.hit")
    assert tab.errors == []


def test_what_does_not_fit_is_left_out_on_demand(tab: Page) -> None:
    with serving(ScriptedEngine(demo_tokenizer(), context=64)) as running:
        start(running, tab)
        says(running, tab, "yes " * 30, "one two three")
        says(running, tab, "yes", "word " * 20)
        assert tab.run("document.querySelector('.problem button') !== null")
        tab.run("document.querySelector('.problem button').click()")
        tab.until("document.querySelector('#send').hidden === false")
        assert turns(tab) == [("word " * 20).strip(), "yes"]
        assert "of 64 tokens" in tab.run("document.querySelector('#context-text').textContent")


def test_axe_finds_nothing(scripted: Running, tab: Page) -> None:
    """The rules of WCAG A and AA, light and dark, on a desk and on a phone."""
    script = os.environ.get("AXE_CORE")
    if script is None:
        pytest.skip("AXE_CORE names no axe.min.js (npm install axe-core)")
    start(scripted, tab)
    says(scripted, tab, MARKDOWN)
    tab.run(Path(script).read_text() + ";0")
    for panel in ("", "#settings-button", "#history-button"):
        if panel:
            tab.click(panel)
        for dark in (False, True):
            tab.dark(dark)
            found = tab.run(
                "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
                ".then((r) => r.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]))"
            )
            assert found == [], (panel, dark)
    tab.dark(False)
