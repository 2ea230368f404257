"""One local deployment for a test, ended with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_hub.backends.local.processes import identity
from llama_hub.errors import NotFoundError
from tests.support.local import Local, until


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path)
    yield made
    state = made.folder.state()
    try:
        made.delete()
    except NotFoundError:
        pass
    for child in state.children if state else []:
        if child.pid:
            until(lambda child=child: identity(child.pid) != child.identity)
