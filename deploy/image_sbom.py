"""The bill of materials of an image: its base, this package, and every package with its digests.

CycloneDX 1.6, made from the same lists that the image installs from, so that it says what was
asked for and checked; what Debian's or Ubuntu's base brings along is told by its digest. The same
content gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from llama_hub import __version__
from llama_hub.distribution import NAME

NAMESPACE = uuid.UUID("f1e0cf3a-8e0c-5b7e-9d0e-6d6c6c616d61")  # of the serial numbers
# Where the image runs; lines for other systems are not installed.
TARGET = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "python_version": "3.12",
    "python_full_version": "3.12.14",
}


def bom(base: str, archive: bytes, locks: Sequence[bytes]) -> bytes:
    """The document, as JSON; ``archive`` is this package as the image unpacks it."""
    components = [
        _base(base),
        {
            "type": "application",
            "bom-ref": f"pkg:pypi/{NAME}@{__version__}",
            "name": NAME,
            "version": __version__,
            "purl": f"pkg:pypi/{NAME}@{__version__}",
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(archive).hexdigest()}],
        },
        *(component for lock in locks for component in _packages(lock.decode())),
    ]
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "bom-ref": "image", "name": f"{NAME}-image"},
            "tools": {
                "components": [{"type": "application", "name": NAME, "version": __version__}]
            },
        },
        "components": components,
        "dependencies": [
            {"ref": "image", "dependsOn": [component["bom-ref"] for component in components]}
        ],
    }
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(NAMESPACE, content)}"
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _base(image: str) -> dict[str, Any]:
    name, _, digest = image.partition("@")
    repository, _, tag = name.rpartition(":")
    registry, _, path = repository.rpartition("/")
    component: dict[str, Any] = {
        "type": "container",
        "bom-ref": image,
        "name": repository,
        "version": tag,
    }
    if digest:
        where = f"&repository_url={registry}" if registry else ""
        component["purl"] = f"pkg:oci/{path}@{digest.replace(':', '%3A')}?tag={tag}{where}"
        component["hashes"] = [{"alg": "SHA-256", "content": digest.partition(":")[2]}]
    return component


def _packages(lock: str) -> Iterator[dict[str, Any]]:
    """A component for each line of a lock that holds on ``TARGET``."""
    from packaging.requirements import Requirement

    for entry in lock.replace("\\\n", " ").splitlines():
        if entry.startswith("#") or not entry.strip():
            continue
        line, *options = re.split(r"\s+--hash=", entry.strip())
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate(TARGET):
            continue
        version = str(needed.specifier).removeprefix("==")
        purl = f"pkg:pypi/{needed.name}@{version}"
        hashes = [{"alg": "SHA-256", "content": option.partition(":")[2]} for option in options]
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": needed.name,
            "version": version,
            "purl": purl,
            # One of these files is installed, whichever fits the machine.
            "externalReferences": [
                {
                    "type": "distribution",
                    "url": f"https://pypi.org/project/{needed.name}/{version}/",
                    "hashes": hashes,
                }
            ],
        }
