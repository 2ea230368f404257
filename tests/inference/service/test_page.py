"""The chat page in a real browser: ask, stream, stop, settings, key, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llama_hub.inference.service.settings import ServiceSettings
from tests.support import browser
from tests.support.browser import Page
from tests.support.serving import echo_engine, serving

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
            "[...document.querySelectorAll('button')].filter((b) => !b.hidden"
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
