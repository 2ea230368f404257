"""The ``score.py`` of Azure ML's stock inference server: our service behind ``init`` and ``run``.

Copied as it is into a deployment's code folder, with the package ``llama_hub`` beside it; it needs
nothing but the standard library and, in the interpreter that ``LLAMA_HUB_PYTHON`` names (else this
one), what the package's extra ``serve`` requires. The service runs as a child process on loopback
and does the batching, so that the server's threads only pass bodies on.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TIMEOUT = 180  # seconds; the platform's own limit for a request
_service: subprocess.Popen[str] | None = None
_url = ""


def init() -> None:
    """Start the service on the mounted model and wait until it is ready.

    ``RuntimeError`` if it ends before.
    """
    global _service, _url
    python = os.environ.get("LLAMA_HUB_PYTHON", sys.executable)
    command = [python, "-m", "llama_hub", "serve", "--json", "--no-api-key"]
    variables = os.environ | {"LLAMA_HUB_HOST": "127.0.0.1", "LLAMA_HUB_PORT": "0"}
    # What the server's own environment holds must not reach another interpreter's imports.
    if python != sys.executable:
        variables.pop("PYTHONPATH", None)
    paths = [str(Path(__file__).parent.resolve()), variables.get("PYTHONPATH", "")]
    variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    _service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables)
    atexit.register(_service.terminate)
    assert _service.stdout is not None
    line = _service.stdout.readline()
    if not line:
        raise RuntimeError(f"the service ended with status {_service.wait()}; see the log above")
    _url = json.loads(line)["url"]


def run(raw: str | bytes) -> Any:
    """One request; the service's answer with the service's status."""
    from azureml_inference_server_http.api.aml_response import AMLResponse  # type: ignore[import-not-found]

    data = raw.encode() if isinstance(raw, str) else raw
    request = urllib.request.Request(
        f"{_url}/score", data, {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return AMLResponse(json.loads(answer.read()), 200, json_str=True)
    except urllib.error.HTTPError as error:
        return AMLResponse(json.loads(error.read()), error.code, json_str=True)
