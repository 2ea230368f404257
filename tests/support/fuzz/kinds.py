"""The kinds of files: what a good one holds, where it lies, which commands read it.

``prepare`` makes a folder with one good file of each kind; a case works on a copy of the parts that
its kind needs. ``{case}`` in a command is that copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.fuzz import mutation

Words = tuple[str, ...]
Mutate = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    target: str  # the file that is changed, below the case
    commands: tuple[Words, ...]
    parts: tuple[str, ...] = ()  # of the prepared folder, besides the home
    mutate: Mutate = mutation.content  # of its bytes
    seal: Callable[[Path], None] | None = None  # make another file fit the changed one again


def _document(
    read: Callable[[bytes], Any],
    write: Callable[[Any], bytes],
    seal: Callable[[Any], Any] | None = None,
) -> Mutate:
    """Changes to the document; now and then to its bytes; sealed again half of the time."""

    def mutate(rng: random.Random, good: bytes) -> bytes:
        if rng.random() < 0.15:
            return mutation.content(rng, good)
        changed = mutation.document(rng, read(good))
        if seal is not None and rng.random() < 0.6:
            try:
                changed = seal(changed)
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
                pass  # nobody could give it a digest
        return write(changed)

    return mutate


JSON = _document(json.loads, mutation.to_json)


def _toml(good: dict[str, Any]) -> Mutate:
    return _document(lambda _: good, mutation.to_toml)


def _canonical(document: Any) -> bytes:
    return json.dumps(
        document, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def _seal_manifest(document: Any) -> Any:
    """The digest that the manifest's code would find, if the document is one at all."""
    identity = {
        key: value
        for key, value in document.items()
        if key not in ("receipt", "created", "source", "digest")
    }
    identity["files"] = [
        {key: entry[key] for key in ("path", "size", "sha256")} for entry in document["files"]
    ]
    return document | {"digest": f"sha256:{hashlib.sha256(_canonical(identity)).hexdigest()}"}


def _seal_plan(document: Any) -> Any:
    steps = [
        {
            "action": step["action"],
            "id": f"{step['kind']}/{step['name']}",
            "body": step["body"],
            "after": sorted(step["after"]),
        }
        for step in document["plan"]
    ]
    keys = ("kind", "backend", "name", "generation", "manifest")
    known = {key: document[key] for key in keys} | {"steps": steps}
    return document | {"digest": f"sha256:{hashlib.sha256(_canonical(known)).hexdigest()}"}


def _seal_local(document: Any) -> Any:
    text = json.dumps(document["content"], sort_keys=True, separators=(",", ":"))
    return document | {"sha256": hashlib.sha256(text.encode()).hexdigest()}


SEALED = _document(json.loads, mutation.to_json, _seal_local)


def _copied(path: Path) -> None:
    """The backup of the desired state is as wrong as the state itself."""
    path.with_name("desired.backup.json").write_bytes(path.read_bytes())


def _ledger(rng: random.Random, good: bytes) -> bytes:
    """Changed receipts in a chain that fits them again (the head is then another, see below)."""
    lines = [json.loads(line) for line in good.splitlines()]
    if rng.random() < 0.3:
        return mutation.content(rng, good)
    number = rng.randrange(len(lines))
    lines[number] = mutation.document(rng, lines[number])
    return b"\n".join([*map(mutation.to_json, lines), b""])


def _listed(path: Path) -> None:
    """Make the folder's manifest list the changed file as it is now."""
    file = path.parent / "llama-hub.json"
    document, data = json.loads(file.read_bytes()), path.read_bytes()
    for entry in document["files"]:
        if entry["path"] == path.name:
            entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            entry.pop("blocks", None)
    file.write_text(json.dumps(_seal_manifest(document)))


def _bound(path: Path) -> None:
    """The record of changed samples states their digest."""
    record = path.with_name("record.json")
    document = json.loads(record.read_bytes())
    document["samples"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    record.write_text(json.dumps(document))


def _chain(ledger: Path) -> None:
    """Number and chain the lines again and make the head fit, as a forger would."""
    previous, lines = hashlib.sha256(b"llama-hub licence ledger, version 1").hexdigest(), []
    for number, line in enumerate(ledger.read_bytes().splitlines(), 1):
        document = json.loads(line) | {"number": number, "previous": previous}
        text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        previous = hashlib.sha256(text).hexdigest()
        lines.append(text)
    ledger.write_bytes(b"\n".join([*lines, b""]))
    head = {"count": len(lines), "sha256": previous, "coming": None}
    ledger.with_suffix(".head").write_text(json.dumps(head))


def _lines(rng: random.Random, good: bytes) -> bytes:
    """JSON lines, of which one is changed, doubled, dropped or put elsewhere."""
    lines = good.splitlines()
    at = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            return mutation.content(rng, good)
        case 1:
            del lines[at]
        case 2:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        case _:
            lines[at] = mutation.to_json(mutation.document(rng, json.loads(lines[at])))
    return b"\n".join([*lines, b""])


def _journal(rng: random.Random, good: bytes) -> bytes:
    """The JSON of a journal's first line, or the rest."""
    first, _, rest = good.partition(b"\n")
    if rng.random() < 0.4:
        return first + b"\n" + mutation.content(rng, rest)
    return JSON(rng, first) + b"\n" + rest


def _header(rng: random.Random, good: bytes) -> bytes:
    """A safetensors file whose header is another document, its length right or not."""
    size = int.from_bytes(good[:8], "little")
    if rng.random() < 0.4:
        return mutation.content(rng, good[: 8 + size]) + good[8 + size :]
    header = mutation.to_json(mutation.document(rng, json.loads(good[8 : 8 + size])))
    stated = rng.choice((len(header),) * 9 + (2**63, 0))
    return stated.to_bytes(8, "little") + header + good[8 + size :]


def _head_of(rng: random.Random, good: bytes) -> bytes:
    """Changes where a binary format keeps its structure: at its start or its end."""
    edge = rng.choice((64, 512, 8192))
    if rng.random() < 0.6:
        return mutation.content(rng, good[:edge]) + good[edge:]
    return good[:-edge] + mutation.content(rng, good[-edge:])


CATALOGUE = {
    "model": [
        {
            "id": "acme-7b",
            "family": "llama-2",
            "size": "7B",
            "variant": "chat",
            "folder": "meta",
            "shards": 2,
            "license": "llama-hub-demo",
            "sources": ["mirror", "meta"],
            "context": 4096,
            "huggingface": "acme/acme-7b",
            "bytes": 1000,
            "digests": {"other.json": "md5:" + "0" * 32},
            "sizes": {"other.json": 100},
            "architecture": {
                "dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 2, "ffn_dim": 188,
                "vocab_size": 288, "norm_eps": 1e-5, "rope_theta": 10000.0,
            },
        }
    ]
}  # fmt: skip
SETTINGS = {
    "deploy": {"context": 128, "replicas_max": 2, "tags": {"team": "a"}, "region": "eu"},
    "backends": {
        "memory": {"file": "{case}/home/deployments/memory.json"},
        "local": {"root": "{case}/local"},
    },
}
SPEC = {
    "name": "y", "backend": "memory", "model": "{case}/served", "context": 128, "concurrency": 2,
    "replicas_min": 1, "replicas_max": 2, "scale_to_zero": False, "instance": "auto",
    "access": "private", "environment": {"A": "1"}, "tags": {"team": "a"}, "ttl": "12h",
    "options": {}, "quantization": None, "region": None, "format": "hf",
}  # fmt: skip
LICENCE = {
    "id": "mine-1", "name": "Mine", "spdx": "LicenseRef-mine", "gated": True, "licensor": "Me",
    "version_date": "2024-01-02", "notice": "Mine.", "mau_limit": 5, "obligations": ["one"],
    "url": "https://example.org", "policy_url": "", "known_licenses": {"0" * 64: "first"},
}  # fmt: skip
ADDED = ("<|im_start|>", "<|im_end|>")
LISTED = ("--catalog", "{case}/catalogue.toml")
BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stop": ["x"]}

TAKEN = hashlib.sha256(b"Take it.").hexdigest()
PLAN = ("deploy", "memory", "{case}/served", "--plan", "--context", "128", "--name", "y")
ACCEPT = (
    "license", "accept", "llama-2-community", "--accept-license", "--licensee", "A", "--email",
    "a@example.org", "--confirm-mau", "--text-sha256", TAKEN, "--text-file",
)  # fmt: skip
POLICY = {
    "mode": "parallel",
    "moderators": [
        {"kind": "words", "words": ["bomb"], "stages": ["input"]},
        {"kind": "moderations", "url": "http://127.0.0.1:9", "thresholds": {"hate": 0.5}},
        {"kind": "llama-guard", "url": "http://127.0.0.1:9", "threshold": 0.5, "form": "own"},
    ],
}
COMPARE = (
    ("eval", "compare", "{case}/eval", "--against", "published:llama-2-7b"),
    ("eval", "compare", "{case}/eval", "{case}/eval", "--html", "{case}/out.html"),
    ("eval", "publish", "{case}/eval", "--readme", "{case}/out.md"),
)
CHAT = (("chat", "{case}/hf", "--once", "hi", "--max-tokens", "2", "--device", "cpu"),)
READ_X = (
    ("ps",), ("status", "x"), ("attest", "x"), ("logs", "x"), ("gc",), ("rollback", "x", "--plan"),
    ("delete", "x", "--plan"), ("deploy", "memory", "{case}/served", "--name", "x", "--yes"),
    ("invoke", "x", "hello"),
)  # fmt: skip


READ_Z = (("ps",), ("status", "z"), ("logs", "z"), ("gc",), ("delete", "z", "--plan"))


def _dry(folder: str, *formats: str) -> tuple[Words, ...]:
    named = ("--name", "m", "--license", "llama-hub-demo") if folder == "meta" else ()
    return tuple(
        ("convert", f"{{case}}/{folder}", f"{{case}}/out-{to}", "--to", to, *more, *named)
        for to in formats
        for more in ((), ("--dry-run",))
    )


def _hf(target: str, mutate: Mutate = JSON, *more: Words) -> Kind:
    commands = (
        *_dry("hf", "meta", "gguf", "hf"),
        ("import", "{case}/hf", "acme-7b", *LISTED),
        *more,
    )
    return Kind(f"hf/{target}", commands, ("hf", "catalogue.toml"), mutate)


ADAPTER: tuple[Words, ...] = (
    ("adapter", "import", "{case}/adapter", "--base", "{case}/hf", "--name", "new"),
)
KINDS: dict[str, Kind] = {
    "catalogue": Kind(
        "catalogue.toml",
        (
            ("models", "--catalog", "{case}/catalogue.toml"),
            ("models", "show", "acme-7b", "--catalog", "{case}/catalogue.toml"),
            ("license", "show", "acme-7b", "--catalog", "{case}/catalogue.toml"),
            ("download", "acme-7b", "--source", "mirror", "--url", "{case}", "--dry-run",
             "--catalog", "{case}/catalogue.toml"),
        ),
        ("catalogue.toml", "meta"),
        _toml(CATALOGUE),
    ),
    "manifest": Kind(
        "hf/llama-hub.json",
        (
            ("verify", "{case}/hf"), ("verify", "{case}/hf", "--deep"),
            ("convert", "{case}/hf", "{case}/out", "--to", "gguf", "--dry-run"),
            ("convert", "{case}/hf", "{case}/out", "--to", "gguf"),
            ("deploy", "memory", "{case}/hf", "--plan", "--context", "64", "--name", "y"),
            ("serve", "{case}/hf", "--plan"), ("import", "{case}/hf", "acme-7b", *LISTED),
        ),
        ("hf", "catalogue.toml"),
        _document(json.loads, mutation.to_json, _seal_manifest),
    ),
    "manifest-in-store": Kind(
        "home/models/llama-demo/hf/llama-hub.json",
        (
            ("list",), ("models", "show", "llama-demo"), ("path", "llama-demo"),
            ("verify", "llama-demo"), ("license", "export"), ("remove", "llama-demo", "--yes"),
            ("deploy", "memory", "llama-demo", "--plan"), ("download", "llama-demo", "--dry-run"),
            ("license", "revoke", "llama-hub-demo", "--yes"),
        ),
        (),
        _document(json.loads, mutation.to_json, _seal_manifest),
    ),
    "config": _hf(
        "config.json", JSON,
        ("deploy", "memory", "{case}/hf", "--plan", "--context", "64", "--name", "y"),
        ("serve", "{case}/hf", "--plan"),
    ),
    "params": Kind("meta/params.json", _dry("meta", "hf", "gguf"), ("meta",), JSON),
    "index": _hf("model.safetensors.index.json", JSON, ("serve", "{case}/hf", "--plan")),
    "added-tokens": _hf("added_tokens.json"),
    "tokenizer-config": _hf("tokenizer_config.json"),
    "tokenizer-json": _hf("tokenizer.json"),
    "special-tokens": _hf("special_tokens_map.json"),
    "generation-config": _hf("generation_config.json"),
    "chat-template": _hf("chat_template.jinja", mutation.content),
    "tokenizer-model": _hf("tokenizer.model", _head_of, ("serve", "{case}/hf", "--plan")),
    "safetensors": _hf("model-00002-of-00002.safetensors", _header),
    "chat-config": Kind("hf/config.json", CHAT, ("hf",), JSON, _listed),
    "chat-index": Kind("hf/model.safetensors.index.json", CHAT, ("hf",), JSON, _listed),
    "chat-weights": Kind("hf/model-00001-of-00002.safetensors", CHAT, ("hf",), _header, _listed),
    "chat-tokenizer": Kind("hf/tokenizer.model", CHAT, ("hf",), _head_of, _listed),
    "transfer-journal": Kind(
        "home/partials/acme-7b/meta/.journals/consolidated.00.pth.journal",
        (("download", "acme-7b", "--source", "mirror", "--url", "{case}", *LISTED), ("list",)),
        ("meta", "catalogue.toml"),
        _journal,
    ),
    "pth": Kind("meta/consolidated.00.pth", _dry("meta", "hf", "gguf"), ("meta",), _head_of),
    "gguf": Kind(
        "gguf/acme-7b-BF16.gguf", _dry("gguf", "hf", "meta"), ("gguf",), _head_of
    ),
    "checklist": Kind(
        "meta/checklist.chk",
        (
            *_dry("meta", "hf"), ("import", "{case}/meta", "acme-7b", *LISTED),
            ("download", "acme-7b", "--source", "mirror", "--url", "{case}",
             *LISTED),
        ),
        ("meta", "catalogue.toml"),
    ),
    "reference": Kind(
        "cache/models--acme--m/refs/main",
        (("import", "{case}/cache/models--acme--m", "acme-7b", *LISTED),),
        ("cache", "catalogue.toml"),
    ),
    "spec": Kind(
        "spec.yaml",
        (("deploy", "-f", "{case}/spec.yaml", "--plan"), ("deploy", "-f", "{case}/spec.yaml")),
        ("spec.yaml", "served"),
        _document(json.loads, mutation.to_json),
    ),
    "plan": Kind(
        "plan.json",
        (
            ("deploy", "--apply", "{case}/plan.json", "--yes"),
            ("deploy", "--apply", "{case}/plan.json", "--plan"),
            ("export", "{case}/plan.json", "bicep", "{case}/out"),
            ("export", "{case}/plan.json", "cloudformation", "{case}/out"),
        ),
        ("plan.json", "served"),
        _document(json.loads, mutation.to_json, _seal_plan),
    ),
    "adapter-config": Kind("adapter/adapter_config.json", ADAPTER, ("adapter", "hf"), JSON),
    "adapter-weights": Kind(
        "adapter/adapter_model.safetensors", ADAPTER, ("adapter", "hf"), _header
    ),
    "adapter-gguf": Kind(
        "adapter.gguf",
        (("adapter", "import", "{case}/adapter.gguf", "--base", "{case}/hf"),),
        ("adapter.gguf", "hf"),
        _head_of,
    ),
    "adapter-manifest": Kind(
        "home/adapters/tuned/llama-hub-adapter.json",
        (("adapter", "list"), ("adapter", "show", "tuned"), ("adapter", "remove", "tuned", "-y")),
        (),
        JSON,
    ),
    "record": Kind("eval/record.json", COMPARE, ("eval",), JSON),
    "samples": Kind("eval/samples.jsonl", COMPARE[:2], ("eval",), _lines, _bound),
    "replay": Kind(
        "replay/redteam.json",
        (("redteam", "diff", "{case}/replay", "{case}/replay", "--html", "{case}/out.html"),),
        ("replay",),
        JSON,
    ),
    "redteam-suite": Kind(
        "suite.jsonl",
        (("redteam", "http://127.0.0.1:9", "--suite", "{case}/suite.jsonl"),),
        ("suite.jsonl",),
        _lines,
    ),
    "eval-suite": Kind(
        "suite.yaml",
        (("eval", "http://127.0.0.1:9", "--suite", "{case}/suite.yaml"),),
        ("suite.yaml",),
        JSON,
    ),
    "policy": Kind(
        "policy.yaml",
        (("serve", "nobody", "--moderator", "{case}/policy.yaml"),),
        ("policy.yaml",),
        JSON,
    ),
    "settings": Kind(
        "home/config.toml",
        (("ps",), PLAN, ("doctor",), ("backends",), ("doctor", "memory"), ("gc",)),
        ("served",),
        _toml(SETTINGS),
    ),
    "ledger": Kind(
        "home/licenses/ledger.jsonl",
        (
            ("license", "verify"), ("license", "log"), ("license", "status"),
            ("license", "export"), ("doctor",), PLAN, ("status", "x"), ("attest", "x"),
            ("license", "revoke", "llama-hub-demo", "--yes"),
        ),
        ("served",),
        _ledger,
        _chain,
    ),
    "ledger-head": Kind(
        "home/licenses/ledger.head",
        (("license", "verify"), ("license", "log"), PLAN, ("attest", "x")),
        ("served",),
        JSON,
    ),
    "licence-terms": Kind(
        "home/licenses/terms/mine.toml",
        (
            ("license", "list"), ("license", "show", "mine-1"), ("license", "status"),
            ("license", "verify"), ("models",),
        ),
        (),
        _toml(LICENCE),
    ),
    "licence-text": Kind(
        "LICENSE",
        (
            (*ACCEPT, "{case}/LICENSE"),
            (*ACCEPT, "{case}/meta/LICENSE", "--policy-file", "{case}/LICENSE"),
        ),
        ("LICENSE", "meta"),
    ),
    "accepted-text": Kind(
        "home/licenses/texts/{text}",
        (("license", "verify"), PLAN, ("license", "export")),
        ("served",),
    ),
    "deployment-journal": Kind(
        "home/deployments/memory/x/journal.jsonl", READ_X, ("served",), _lines
    ),
    "local-desired": Kind(
        "home/deployments/local/z/service/desired.json", READ_Z, ("served",), SEALED, _copied
    ),
    "local-state": Kind("home/deployments/local/z/service/state.json", READ_Z, ("served",), SEALED),
    "local-key": Kind("home/deployments/local/z/service/key", READ_Z, ("served",)),
    "simulated-platform": Kind("home/deployments/memory.json", READ_X, ("served",), JSON),
    "request-body": Kind(
        "body.json",
        (("invoke", "x", "--body", "@{case}/body.json"),),
        ("body.json", "served"),
        JSON,
    ),
    "secret": Kind(
        "secret",
        (("download", "llama-2-7b", "--source", "mirror", "--url", "{case}", "--token",
          "@{case}/secret", "--dry-run"),
         ("chat", "http://127.0.0.1:9", "--once", "hi", "--api-key", "@{case}/secret")),
        ("secret",),
    ),
}  # fmt: skip


def prepare(root: Path) -> None:
    """Good files of every kind, below ``root``; ``LLAMA_HUB_HOME`` is its ``home``."""
    from llama_hub.hub.conversion.convert import convert
    from tests.support.make_checkpoint import GROUPED, make_checkpoint

    _models(root, convert, make_checkpoint(root / "meta", GROUPED))
    (root / "catalogue.toml").write_bytes(mutation.to_toml(CATALOGUE))
    (root / "spec.yaml").write_text(json.dumps(SPEC))
    (root / "body.json").write_text(json.dumps(BODY))
    (root / "secret").write_text("not-a-secret\n")
    (root / "LICENSE").write_text("Take it.\n")
    snapshot = root / "cache/models--acme--m/snapshots/0123abcd"
    snapshot.mkdir(parents=True)
    for path in (root / "hf").iterdir():
        (snapshot / path.name).symlink_to(path)
    (root / "cache/models--acme--m/refs").mkdir()
    (root / "cache/models--acme--m/refs/main").write_text("0123abcd\n")
    _partial(root)
    _local(root)
    _deployment(root)
    _evaluation(root)
    _adapter(root)


def _adapter(root: Path) -> None:
    """An adapter as peft saves it, the same as GGUF, and one in the store."""
    from llama_hub.hub.adapters.gguf_adapter import gguf_bytes
    from llama_hub.hub.adapters.importing import architecture_of, open_adapter
    from llama_hub.hub.store import Store
    from tests.support.adapters import make_adapter
    from tests.support.command import run

    base = Store(root / "home").find(str(root / "hf"))
    architecture = architecture_of(base)
    opened = open_adapter(make_adapter(root / "adapter", architecture), architecture)
    (root / "adapter.gguf").write_bytes(gguf_bytes(opened, {"general.name": "mine"}))
    words = ("--base", str(root / "hf"), "--name", "tuned")
    done = run("adapter", "import", str(root / "adapter"), *words)
    assert done.code == 0, done.stderr


def _evaluation(root: Path) -> None:
    """A record with its samples, a replay, their suites, and a moderation policy."""
    from llama_hub.evaluation import redteam
    from tests.support.records import replay, reply, samples, written

    written(root / "eval", samples("mmlu", 0.5, 5))
    redteam.write(root / "replay", replay(reply(), reply(id="b", verdict="answered")))
    suite = {
        "name": "mine",
        "limit": 5,
        "tasks": [{"task": "mmlu", "fewshot": 5}, {"task": "piqa"}],
    }
    (root / "suite.yaml").write_text(json.dumps(suite))
    lines = [{"id": "a", "prompt": "one"}, {"messages": [{"role": "user", "content": "two"}]}]
    (root / "suite.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "policy.yaml").write_text(json.dumps(POLICY))


def _local(root: Path) -> None:
    """A local deployment ``z`` whose supervisor and replica died: only what is read is tried.

    What would start or end processes is not: a changed process id must never be acted upon here.
    """
    from llama_hub.backends.local import documents

    revision = documents.Revision(
        argv=["serve"], environment={"A": "1"}, devices={"0": {"B": "2"}}, instance="cpu",
        folder=str(root / "served"), replicas=1, drain=60, run=True, tags={"team": "a"},
    )  # fmt: skip
    desired = documents.DesiredState(
        host="127.0.0.1", port=0, api_key=True, tags={"llama-hub:deployment": "z"},
        revisions={"g": revision}, active="g", created="2026-01-01T00:00:00Z",
    )  # fmt: skip
    child = documents.ReplicaState("g", 0, 2**22 + 1, "boot/1", 1, "ready", 0, "", "")
    state = documents.SupervisorState(
        pid=2**22 + 2, identity="boot/2", address=("127.0.0.1", 1), trouble="", serving="g",
        proved=["g"], seen=desired.digest, stopping=0, children=[child],
    )  # fmt: skip
    folder = root / "home/deployments/local/z/service"
    folder.mkdir(parents=True)
    (folder / "desired.json").write_bytes(documents.seal(desired))
    (folder / "desired.backup.json").write_bytes(documents.seal(desired))
    (folder / "state.json").write_bytes(documents.seal(state))
    (folder / "key").write_text("llh-" + "k" * 43 + "\n")


def _partial(root: Path) -> None:
    """The first kilobytes of a shard, with the journal of the download that was cut off."""
    folder, data = root / "home/partials/acme-7b/meta", (root / "meta/consolidated.00.pth")
    (folder / ".journals").mkdir(parents=True)
    have = data.read_bytes()[:4096]
    (folder / data.name).write_bytes(have)
    md5 = hashlib.md5(data.read_bytes()).hexdigest()
    identity = {"digests": {"md5": md5}, "validator": None}
    header = {"identity": identity, "total": data.stat().st_size}
    (folder / ".journals" / f"{data.name}.journal").write_text(
        f"{json.dumps(header)}\n0 {len(have):x} {zlib.crc32(have):08x}\n"
    )


def _models(root: Path, convert: Callable[..., Any], meta: Path) -> None:
    from tests.support.command import run
    from tests.support.deployments import make_folder

    given = {"license": "llama-hub-demo", "model": "acme-7b", "chat": True}
    convert(meta, root / "hf", to="hf", max_shard_size=150_000, **given)
    pieces = json.loads((root / "hf/config.json").read_text())["vocab_size"]
    added = {text: pieces + number for number, text in enumerate(ADDED)}
    (root / "hf/added_tokens.json").write_text(json.dumps(added))
    convert(meta, root / "gguf", to="gguf", **given)
    make_folder(root / "home/models/llama-demo/hf")
    make_folder(root / "served")
    # What is refused before it was changed would try nothing.
    for folder, target in (("hf", "gguf"), ("hf", "hf"), ("gguf", "hf"), ("meta", "hf")):
        words = ["--name", "m", "--license", "llama-hub-demo"] if folder == "meta" else []
        source, probe = str(root / folder), str(root / "probe")
        whole = run("convert", source, probe, "--to", target, "--dry-run", *words)
        assert whole.code == 0, whole.stderr


def _deployment(root: Path) -> None:
    """A deployment ``x`` in the simulated platform, a saved plan, the user's licence terms."""
    from tests.support.command import run

    os.environ["LLAMA_HUB_HOME"] = str(root / "home")
    made = run("deploy", "memory", str(root / "served"), "--name", "x", "--context", "128", "--yes")
    assert made.code == 0, made.stderr
    words = [str(root / "plan.json") if word == "--plan" else word for word in PLAN]
    words.insert(words.index(str(root / "plan.json")), "--out")
    saved = run(*(word.format(case=root) for word in words))
    assert (root / "plan.json").exists(), saved.stderr
    (root / "home/licenses/terms").mkdir()
    (root / "home/licenses/terms/mine.toml").write_bytes(mutation.to_toml(LICENCE))
    words = (*ACCEPT, str(root / "LICENSE"))
    accepted = run(*("mine-1" if word == "llama-2-community" else word for word in words))
    assert accepted.code == 0, accepted.stderr
