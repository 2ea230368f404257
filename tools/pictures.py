"""Pictures of the documentation, made from the product itself.

    python -m tools.pictures

``docs/pictures/plan.svg`` is what a terminal shows of a plan; ``chat.png`` and
``chat-phone.png`` the chat page of a service that runs on the demo model (needs Chromium on the
PATH). The home is a temporary one.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llama_hub import api
from tests.support import browser

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
QUESTION = "What is the capital of France?"


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ["LLAMA_HUB_HOME"] = home
        plan(PICTURES / "plan.svg")
        chat(PICTURES / "chat.png")


def plan(picture: Path) -> None:
    """Two commands and what they print."""
    console = Console(record=True, width=110, file=io.StringIO())
    for arguments in (
        ["download", "llama-demo-chat"],
        ["deploy", "local", "llama-demo-chat", "--name", "chat", "--plan"],
    ):
        command = [sys.executable, "-m", "llama_hub", *arguments]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        console.print(Text(f"$ llama-hub {' '.join(arguments)}", style="bold"))
        shown = done.stdout.strip().replace(os.environ["LLAMA_HUB_HOME"], "~/.llama-hub")
        console.print(Text(shown))
    console.save_svg(str(picture), title="llama-hub", unique_id="plan")


def chat(picture: Path) -> None:
    """The chat page after one question."""
    if browser.executable() is None:
        print(f"no Chromium: {picture.name} is left as it is")
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        with api.serve("llama-demo-chat") as service, browser.page(Path(profile)) as tab:
            tab.size(1000, 620)
            tab.open(service.url)
            tab.until("document.querySelector('#model').textContent")
            tab.type("#question", QUESTION)
            tab.press_enter()
            tab.until("document.querySelector('.assistant .count')")
            tab.screenshot(picture)
            tab.size(360, 640, phone=True)
            tab.screenshot(picture.with_name("chat-phone.png"))


if __name__ == "__main__":
    main()
