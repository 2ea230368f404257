"""The service under attack: how long `/health` and another client's stream have to wait.

    python bench/attack.py [MODEL] [--seconds 5] [--only NAME …] [--python PYTHON] [--out FILE]
        [--runs 3]       run each attack so often; the worst of each figure is reported
        [--before FILE]  results of another version, to stand beside
        [--deployed]     attack the address of a local deployment instead of the service itself
        [--one-address]  attack from the address of the other clients, as behind one NAT

MODEL (default: the built-in llama-demo-chat, which `llama-hub quickstart` fetches) is served by
``PYTHON -m llama_hub serve`` (default: this interpreter, so another one compares versions). Each
attack runs for some seconds in a process of its own, from an address of its own (127.0.0.2) as
another client would; meanwhile one client asks `/health` on new connections every 20 ms, another
reads streams, and a third sends requests of 20 KB. Reported are the latencies of `/health` and of
the small requests, the longest gap between two pieces of a stream, and whether the server lived.
Exit code 1 if anything of another client's took longer than 250 ms or was refused, or the server
ended; from one address, refusals are reported and not judged: the last places are for others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MEGABYTE = 1 << 20
USER = [{"role": "user", "content": "hello"}]
SOURCE = "127.0.0.2"  # where the attacks come from
NAME = "attacked"  # of the deployment
PATIENCE = 10.0  # seconds after which an answer counts as this late
LIMIT_MS = 250.0  # what anything of another client's may take longer
Attack = Callable[[int], Awaitable[None]]  # on a port, until cancelled


# --- requests ---------------------------------------------------------------------------------


def request(path: str, body: bytes) -> bytes:
    """A whole POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    return (head + "Content-Type: application/json\r\nConnection: close\r\n\r\n").encode() + body


async def send(port: int, data: bytes, source: str = "") -> bytes:
    """Everything that is answered to ``data``; empty if the server hung up.

    ``source``: the address it is sent from, an attacker's unless told.
    """
    source = source or SOURCE
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    except OSError:
        await asyncio.sleep(0.05)
        return b""
    try:
        writer.write(data)
        return await reader.read()
    except OSError:
        return b""
    finally:
        writer.close()


def repeated(make: Callable[[int], bytes], clients: int = 4) -> Attack:
    """``clients`` that send one request after another; ``make`` gives the n-th."""

    async def attack(port: int) -> None:
        numbers = iter(range(1, 1 << 60))

        async def client() -> None:
            while True:
                await send(port, make(next(numbers)))

        await asyncio.gather(*(client() for _ in range(clients)))

    return attack


def constant(path: str, body: bytes, clients: int = 4) -> Attack:
    whole = request(path, body)
    return repeated(lambda _: whole, clients)


def grammar(schema: Callable[[int], Any], clients: int = 4) -> Attack:
    """Chats under JSON schemas that differ each time, so that no cache helps."""

    def make(number: int) -> bytes:
        wanted = {"name": "a", "schema": schema(number)}
        body = {
            "messages": USER,
            "response_format": {"type": "json_schema", "json_schema": wanted},
        }
        return request("/v1/chat/completions", json.dumps(body).encode())

    return repeated(make, clients)


def constant_chunks(size: int, clients: int = 4) -> Attack:
    """A body of ``size`` bytes, each of them a chunk."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = head + b"1\r\n \r\n" * size + b"0\r\n\r\n"
    return repeated(lambda _: whole, clients)


def completion(**body: Any) -> tuple[str, bytes]:
    return "/v1/completions", json.dumps(body).encode()


def holding(count: int, data: bytes, drops: bytes = b"", reads: bool = True) -> Attack:
    """``count`` connections that send ``data``, then one byte of ``drops`` a second.

    Those that are cut off come again after a second: slow, not many. ``reads`` False: what is
    answered stays unread, and nobody comes again.
    """

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        for drop in drops:
            await asyncio.sleep(1)
            writer.write(bytes([drop]))
        await asyncio.sleep(3600)

    async def hold(port: int) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, limit=1024, local_addr=(SOURCE, 0)
                )
                dripping = asyncio.create_task(drip(writer))
                try:
                    await (reader.read() if reads else dripping)
                finally:
                    dripping.cancel()
                    writer.close()
            await asyncio.sleep(1)

    async def attack(port: int) -> None:
        tasks = []
        for _ in range(count):
            tasks.append(asyncio.create_task(hold(port)))
            await asyncio.sleep(0.0005)
        await asyncio.gather(*tasks)

    return attack


def chain(number: int) -> Any:
    steps = {f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(1000)}
    return {"$defs": steps | {"d1000": {"const": number}}, "$ref": "#/$defs/d0"}


def items(item: bytes, size: int = 5 * MEGABYTE) -> bytes:
    return b",".join([item] * (size // (len(item) + 1)))


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 6000000\r\n\r\n"
LOGPROBS = completion(prompt="a", n=16, max_tokens=200, logprobs=20, seed=1, ignore_eos=True)
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
UNFINISHED = HEAD + b" " * 5_999_999  # one byte short
SMALL = completion(prompt="a", max_tokens=1, user="a" * 20_000)
STREAM = completion(prompt="a", max_tokens=200, stream=True, ignore_eos=True)
ATTACKS: dict[str, Attack | None] = {
    "nothing": None,
    "schema: multipleOf 9999991": grammar(
        lambda n: {"type": "integer", "multipleOf": 9999991 - 2 * n}
    ),
    "schema: product of multiples": grammar(
        lambda n: {
            "$defs": {f"d{k}": {"type": "integer", "multipleOf": k} for k in (97, 89, 83)},
            "allOf": [{"$ref": f"#/$defs/d{k}"} for k in (97, 89, 83)],
            "title": str(n),
        }
    ),
    "schema: a thousand references": grammar(chain),
    "schema: patterns that never end": grammar(
        lambda n: {"type": "string", "pattern": f"^.*[ab].{{{150 + n % 90}}}$"}, clients=12
    ),
    "schema: intersected patterns": grammar(
        lambda n: {"type": "string", "allOf": [{"pattern": f".*a.{{{40 + n % 9 + k}}}b"}
                                               for k in range(3)]}
    ),  # fmt: skip
    "schema: six thousand words": grammar(
        lambda n: {"enum": [f"{n}-{k}" for k in range(6000)]}
    ),
    "a million prompts": constant("/v1/completions", b'{"prompt":[' + items(b'"a"') + b"]}"),
    "a million inputs": constant("/generate", b'{"inputs":[' + items(b'"a"') + b"]}"),
    "five megabytes of text": constant("/v1/completions", b'{"prompt":"' + b"a" * 5242880 + b'"}'),
    "five megabytes of lists": constant("/v1/completions", b'{"prompt":[' + items(b"[]") + b"]}"),
    "five megabytes of objects": constant("/score", b'{"messages":[' + items(b"{}") + b"]}"),
    "the largest list of ids": constant(
        "/v1/completions", b'{"prompt":[' + items(b"300", MEGABYTE // 2) + b"]}"
    ),
    "the largest object": constant(
        "/invocations",
        b'{"inputs":"a","parameters":[' + items(
            b"{" + b",".join(b'"%d":1' % n for n in range(4000)) + b"}", 2 * MEGABYTE
        ) + b"]}",
    ),
    "sixty thousand messages": constant(
        "/v1/chat/completions",
        b'{"messages":[' + b",".join([b'{"role":"user","content":"a"}'] * 60_000) + b"]}",
    ),
    "brackets without end": constant("/v1/completions", b"[" * 5 * MEGABYTE),
    "a body in chunks of one byte": constant_chunks(400_000),
    "log-probabilities": constant(*LOGPROBS, clients=2),
    "embeddings of many texts": constant(
        "/v1/embeddings", json.dumps({"input": ["a " * 400] * 64}).encode()
    ),
    "1500 heads, drop by drop": holding(1500, b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-A: bcd"),
    "1500 bodies, drop by drop": holding(1500, HEAD, b'{"prompt'),
    "1500 silent connections": holding(1500, b""),
    "16 large bodies that never end": holding(16, UNFINISHED),
    "16 senders of large numbers": constant(
        "/v1/completions", b'{"prompt":"a","logit_bias":[' + items(b"0.123456789012345") + b"]}", 16
    ),
    "16 senders of many numbers": constant(
        "/v1/completions", b'{"prompt":[' + items(b"12345678901234567890", 2750000) + b"]}", 16
    ),
    "300 streams that nobody reads": holding(300, request(*STREAM), reads=False),
}  # fmt: skip


# --- what is measured -------------------------------------------------------------------------


async def watch(port: int, until: float, question: bytes, pause: float) -> dict[str, Any]:
    """Latencies of ``question`` on new connections, one each ``pause``, late ones side by side."""
    seconds: list[float] = []
    failures = 0

    async def ask() -> None:
        nonlocal failures
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await send(port, question, "127.0.0.1")
        except TimeoutError:
            answer = b""
        failures += not answer.startswith(b"HTTP/1.1 200")
        seconds.append(time.perf_counter() - begun)

    asked = []
    while time.monotonic() < until:
        asked.append(asyncio.create_task(ask()))
        await asyncio.sleep(pause)
    await asyncio.gather(*asked)
    seconds.sort()
    return {
        "asked": len(seconds),
        "failed": failures,
        "p50_ms": round(1e3 * statistics.median(seconds), 1),
        "p99_ms": round(1e3 * seconds[int(len(seconds) * 0.99)], 1),
        "max_ms": round(1e3 * seconds[-1], 1),
    }


async def watch_stream(port: int, until: float) -> dict[str, Any]:
    """Waits for the first piece of a stream, and between two pieces of it, one after another."""
    seen: dict[str, Any] = {"pieces": 0, "refused": 0, "first_ms": 0.0, "longest_gap_ms": 0.0}
    while time.monotonic() < until:
        try:
            await read_stream(port, seen, until + PATIENCE)
        except (OSError, TimeoutError):
            seen["refused"] += 1
            await asyncio.sleep(0.05)
    return seen


async def read_stream(port: int, seen: dict[str, Any], until: float) -> None:
    data = request(*completion(prompt="a", max_tokens=100, stream=True, ignore_eos=True))
    begun = last = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(max(0.0, until - time.monotonic())):
            if b" 200 " not in await reader.readline():
                raise OSError
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    now = time.perf_counter()
                    name = "first_ms" if last == begun else "longest_gap_ms"
                    seen[name] = round(max(seen[name], 1e3 * (now - last)), 1)
                    seen["pieces"] += 1
                    last = now
    finally:
        writer.close()


def attack_until_killed(name: str, port: int) -> None:
    attack = ATTACKS[name]
    if attack is not None:
        asyncio.run(attack(port))


def measure(name: str, port: int, seconds: float) -> dict[str, Any]:
    """What the other clients see while ``name`` goes on."""
    attacker = multiprocessing.Process(target=attack_until_killed, args=(name, port), daemon=True)
    attacker.start()

    async def watch_all() -> Sequence[dict[str, Any]]:
        await asyncio.sleep(0.5)
        until = time.monotonic() + seconds
        return await asyncio.gather(
            watch(port, until, HEALTH, 0.02),
            watch_stream(port, until),
            watch(port, until, request(*SMALL), 0.2),
        )

    load = os.getloadavg()[0]
    try:
        health, stream, small = asyncio.run(watch_all())
    finally:
        attacker.kill()
        attacker.join()
    return {"health": health, "stream": stream, "small": small, "load_before": round(load, 1)}


def worst(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst of each figure of several runs."""

    def merge(key: str, values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: merge(name, [value[name] for value in values]) for name in values[0]}
        return min(values) if key in ("asked", "pieces", "alive") else max(values)

    merged: dict[str, Any] = merge("", runs)
    return merged


def faults(result: dict[str, Any], one_address: bool) -> list[str]:
    """What another client had to suffer that nobody should."""
    latencies = {
        "/health": result["health"]["max_ms"],
        "a small request": result["small"]["max_ms"],
        "the first piece of a stream": result["stream"]["first_ms"],
        "a gap in a stream": result["stream"]["longest_gap_ms"],
    }
    found = [f"{name}: {ms} ms" for name, ms in latencies.items() if ms > LIMIT_MS]
    refused = {
        "/health": result["health"]["failed"],
        "small requests": 0 if one_address else result["small"]["failed"],
        "streams": 0 if one_address else result["stream"]["refused"],
    }
    found += [f"{name}: {count} refused" for name, count in refused.items() if count]
    return found + ([] if result["alive"] else ["the server ended"])


# --- the server -------------------------------------------------------------------------------


@contextmanager
def deployed(python: str, model: str) -> Iterator[tuple[int, Callable[[], bool]]]:
    """The port of a local deployment, and whether its replica has lived all the time."""

    def hub(*words: str) -> Any:
        done = subprocess.run(
            [python, "-m", "llama_hub", *words, "--json"], capture_output=True, text=True
        )
        return json.loads(done.stdout)

    def logged() -> str:
        return "".join(path.read_text() for path in folder.glob("supervisor.log*"))

    home = Path(os.environ.get("LLAMA_HUB_HOME", "~/.llama-hub")).expanduser()
    folder = home / "deployments" / "local" / NAME / "service"
    url = hub("deploy", "local", model, "--name", NAME, "--yes")["url"]
    try:
        yield int(url.rsplit(":", 1)[1]), lambda: logged().count("is ready") == 1
    finally:
        hub("delete", NAME, "--backend", "local", "--yes")


@contextmanager
def served(python: str, model: str) -> Iterator[tuple[int, Callable[[], bool]]]:
    """The port of a service of its own, and whether its process lives."""
    command = [python, "-m", "llama_hub", "serve", model, "--port", "0", "--json", "--quiet"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        yield int(ready["url"].rsplit(":", 1)[1]), lambda: process.poll() is None
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One attack on a fresh server."""
    server = deployed if options.deployed else served
    with server(options.python, options.model) as (port, lives):
        result = measure(name, port, options.seconds)
        result["alive"] = lives()
    return result


def commit() -> str:
    """The commit that was measured."""
    asked = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
    ]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    global SOURCE
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="llama-demo-chat")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=list(ATTACKS))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--deployed", action="store_true")
    parser.add_argument("--one-address", action="store_true")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.one_address:
        SOURCE = "127.0.0.1"
    results = {}
    for name in options.only or ATTACKS:
        results[name] = worst([run(name, options) for _ in range(options.runs)])
        results[name]["faults"] = faults(results[name], options.one_address)
        print(name, json.dumps(results[name]), flush=True)
    result = {
        "commit": commit(),
        "machine": {"python": platform.python_version(), "cpus": os.cpu_count()},
        "model": options.model,
        "deployed": options.deployed,
        "one_address": options.one_address,
        "seconds": options.seconds,
        "runs": options.runs,
        "faults": {name: each["faults"] for name, each in results.items() if each["faults"]},
        "worst_health_ms": max(each["health"]["max_ms"] for each in results.values()),
        "attacks": results,
    }
    if options.before:
        result["before"] = json.loads(options.before.read_text())["attacks"]
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print("faults:", json.dumps(result["faults"]))
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
