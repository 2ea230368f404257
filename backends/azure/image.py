"""The build context from which Azure ML makes the service's image in the cloud.

Two files: a Dockerfile and the installed package itself in an archive that is the
same byte for byte wherever it is made, so that its digest names the environment.
Azure ML takes at most 100 files and 1 MB; the demo model's weights stay out.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import requires
from importlib.resources import files
from importlib.resources.abc import Traversable

from llama_hub._version import __version__
from llama_hub.errors import ProvisioningError

PACKAGES = ("licenses", "hub", "inference", "deploy", "backends", "cli")
KEPT = (".py", ".toml", ".html", ".css", ".js", ".svg", ".typed")
LEFT_OUT = ("demo", "__pycache__")  # folders
MOST_BYTES = 1 << 20
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")
BASE = "python:3.12-slim-bookworm"

DOCKERFILE = """\
# llama-hub {version}: the service behind /health/live, /health/ready and /score on port 8080
FROM {base}
RUN pip install --no-cache-dir {requirements}
ADD llama_hub.tar.gz /opt/llama-hub/
ENV PYTHONPATH=/opt/llama-hub PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --create-home --uid 1000 llama
USER llama
EXPOSE 8080
ENTRYPOINT ["python", "-m", "llama_hub", "serve"]
"""


@cache
def context() -> dict[str, bytes]:
    """Path → content of the two files."""
    archive = _archive()
    if len(archive) > MOST_BYTES:
        raise ProvisioningError(
            f"the build context has {len(archive)} bytes; Azure ML takes {MOST_BYTES}",
            hint="give a ready image: --set options.image=<registry>/<name>:<tag>",
        )
    words = " ".join(f"'{requirement}'" for requirement in _requirements())
    text = DOCKERFILE.format(version=__version__, base=BASE, requirements=words)
    return {"Dockerfile": text.encode(), "llama_hub.tar.gz": archive}


def _requirements() -> list[str]:
    """What the service needs: the base dependencies and the extra ``serve``."""
    found = []
    for line in requires("llama-hub") or []:
        requirement, _, marker = line.partition(";")
        extra = _EXTRA.search(marker)
        if extra is None or extra[1] == "serve":
            found.append(requirement.strip())
    return sorted(found)


def _archive() -> bytes:
    package = files("llama_hub")
    inner: dict[str, bytes] = {}
    for entry in package.iterdir():
        if entry.is_file() and entry.name.endswith(KEPT):
            inner[f"llama_hub/{entry.name}"] = entry.read_bytes()
    for name in PACKAGES:
        inner.update(_below(files(f"llama_hub.{name}"), f"llama_hub/{name}"))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(inner):
            header = tarfile.TarInfo(path)
            header.size, header.mode = len(inner[path]), 0o644
            archive.addfile(header, io.BytesIO(inner[path]))
    return gzip.compress(raw.getvalue(), mtime=0)


def _below(folder: Traversable, at: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name not in LEFT_OUT:
            yield from _below(entry, f"{at}/{entry.name}")
        elif entry.is_file() and entry.name.endswith(KEPT):
            yield f"{at}/{entry.name}", entry.read_bytes()
