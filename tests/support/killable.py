"""A download in a process of its own, for a test to kill: FOLDER URL NAME MD5 CONNECTIONS."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from llama_hub.hub.sources.web import HttpTree
from llama_hub.hub.transfer.fetch import fetch
from llama_hub.hub.transfer.journal import BLOCK
from llama_hub.hub.transfer.remote_file import RemoteFile
from llama_hub.hub.transfer.retry import Cancel, Policy
from llama_hub.progress import NO_PROGRESS


def main() -> None:
    """Bring the file to ``FOLDER/NAME`` with its journal beside it."""
    folder, url, name, md5, connections = Path(sys.argv[1]), *sys.argv[2:5], int(sys.argv[5])
    policy = Policy(connections=connections, span=None if connections == 1 else BLOCK, ramp=0)
    with closing(HttpTree(url, policy)) as place:
        file = RemoteFile(name, place.request(name), None, {"md5": md5})
        fetch(
            file,
            folder / name,
            folder / "journal",
            policy,
            progress=NO_PROGRESS,
            cancel=Cancel(),
        )


if __name__ == "__main__":
    main()
