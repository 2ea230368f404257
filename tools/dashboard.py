"""The dashboard's panels, drawn from the product under load, by Prometheus's own arithmetic.

    python -m tools.dashboard [--seconds 90]

Serves the demo model, has clients ask it in waves, lets Prometheus (Debian: ``apt-get install
prometheus``) scrape it, asks Prometheus for each expression of ``docs/grafana.json`` and draws
``docs/pictures/dashboard.svg``. It ends with exit code 1 if an expression gives nothing: the
dashboard is checked by who would read it. Grafana draws the same panels in its own look.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import httpx

from llama_hub import api
from llama_hub.inference.service.server import bind

DOCS = Path(__file__).resolve().parents[1] / "docs"
RATE = "15s"  # what $__rate_interval stands for
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 500, 210, 56, 34, 34
BEGINNING = "What can llama-hub do? " * 12  # of all prompts, so that the prefix cache has work
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2")


@dataclass(frozen=True)
class Line:
    """One line of a panel: its name, and (seconds, value) of each point."""

    name: str
    points: list[tuple[float, float]]


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Its address, while it scrapes ``target`` every second."""
    found = shutil.which("prometheus")
    if found is None:
        sys.exit("prometheus is not installed: apt-get install prometheus")
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: llama-hub\n"
        f"  static_configs: [{{targets: ['{target}']}}]\n"
    )
    free = bind("127.0.0.1", 0)
    address = f"127.0.0.1:{free.getsockname()[1]}"
    free.close()
    command = [found, f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
    child = subprocess.Popen(
        [*command, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://{address}"
    finally:
        child.terminate()
        child.wait()


def load(url: str, until: float) -> None:
    """Waves of clients: one that chats, then four, then twelve with long answers."""

    def ask(number: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while (now := time.monotonic()) < until:
                if number < (1, 4, 12)[int((until - now) / 15) % 3]:
                    body = {"prompt": f"{BEGINNING} {number}", "max_tokens": 120}
                    client.post("/v1/completions", json=body | {"ignore_eos": True})
                else:
                    time.sleep(0.5)

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def lines(address: str, target: dict[str, Any], begun: float, ended: float) -> list[Line]:
    """What Prometheus makes of one expression."""
    expression = target["expr"].replace("$__rate_interval", RATE).replace("$model", ".*")
    asked = {"query": expression, "start": str(begun), "end": str(ended), "step": "1"}
    answer = httpx.get(f"{address}/api/v1/query_range", params=asked).json()
    if answer["status"] != "success":
        sys.exit(f"{expression}: {answer['error']}")
    made = []
    for series in answer["data"]["result"]:
        name = target["legendFormat"]
        for label, value in series["metric"].items():
            name = name.replace(f"{{{{{label}}}}}", value)
        points = [(float(at) - begun, float(value)) for at, value in series["values"]]
        made.append(Line(name, [point for point in points if point[1] == point[1]]))
    return [line for line in made if line.points]


def shown(value: float, unit: str) -> str:
    """A value in the panel's unit."""
    if unit == "percentunit":
        return f"{100 * value:.0f} %"
    if unit == "s":
        return f"{1e3 * value:.0f} ms"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def panel(title: str, unit: str, drawn: list[Line], seconds: float) -> str:
    """One panel as SVG."""
    highest = max((value for line in drawn for _, value in line.points), default=0) or 1.0
    right, low = WIDTH - 12, HEIGHT - BOTTOM
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fff" stroke="#d4d4d8"/>',
        f'<text x="12" y="21" font-weight="600">{escape(title)}</text>',
    ]
    for share in (0.0, 0.5, 1.0):
        y = low - share * (low - TOP)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#e4e4e7"/>')
        label = escape(shown(share * highest, unit))
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    at = float(LEFT)
    for index, line in enumerate(drawn[: len(COLOURS)]):
        colour = COLOURS[index]
        path = " ".join(
            f"{LEFT + x / seconds * (right - LEFT):.1f},{low - y / highest * (low - TOP):.1f}"
            for x, y in line.points
        )
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        )
        parts.append(
            f'<rect x="{at}" y="{HEIGHT - 17}" width="9" height="9" fill="{colour}"/>'
            f'<text x="{at + 13}" y="{HEIGHT - 9}">{escape(line.name)}</text>'
        )
        at += 30 + 6.3 * len(line.name)
    return "".join(parts)


def table(title: str, drawn: list[Line]) -> str:
    """A panel of words."""
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fff" stroke="#d4d4d8"/>',
        f'<text x="12" y="21" font-weight="600">{escape(title)}</text>',
    ]
    for index, line in enumerate(drawn):
        name = line.name if len(line.name) < 70 else f"{line.name[:66]}…"
        parts.append(f'<text x="12" y="{48 + 20 * index}">{escape(name)}</text>')
    return "".join(parts)


def draw(dashboard: dict[str, Any], address: str, begun: float, ended: float) -> str:
    """The picture; exit code 1 if an expression gives nothing."""
    parts, rows = [], 0
    for spec in dashboard["panels"]:
        drawn = []
        for target in spec["targets"]:
            found = lines(address, target, begun, ended)
            if not found:
                sys.exit(f"{spec['title']}: {target['expr']} gives nothing")
            drawn += found
        unit = spec["fieldConfig"]["defaults"]["unit"]
        column, row = spec["gridPos"]["x"] // 12, spec["gridPos"]["y"] // 8
        rows = max(rows, row + 1)
        body = (
            table(spec["title"], drawn)
            if spec["type"] == "table"
            else panel(spec["title"], unit, drawn, ended - begun)
        )
        place = f"translate({8 + column * (WIDTH + 8)},{8 + row * (HEIGHT + 8)})"
        parts.append(f'<g transform="{place}">{body}</g>')
    size = f'width="{2 * WIDTH + 24}" height="{rows * (HEIGHT + 8) + 8}"'
    style = 'font-family="system-ui, sans-serif" font-size="11" fill="#27272a"'
    ground = '<rect width="100%" height="100%" fill="#f4f4f5"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{ground}{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Serve, ask, scrape, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90.0)
    options = parser.parse_args()
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    with tempfile.TemporaryDirectory() as folder, api.serve("llama-demo-chat") as service:
        target = service.url.removeprefix("http://")
        with prometheus(Path(folder), target) as address:
            time.sleep(3)
            begun = time.time()
            load(service.url, time.monotonic() + options.seconds)
            picture = draw(dashboard, address, begun + 5, time.time())
    (DOCS / "pictures" / "dashboard.svg").write_text(picture)


if __name__ == "__main__":
    main()
