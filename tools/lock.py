"""Write the lock files with hashes, or check that they are up to date.

    python -m tools.lock [--check]

``constraints.txt`` names the versions; pip refuses hashes beside a local project, so the digests
stand in files of their own, one for each extra, made by ``uv pip compile`` (the only program that
``--check`` does not need). torch and what only its CUDA build needs stand apart, so that the
choice between the CPU and the CUDA build is the choice of one file:

    pip install --require-hashes --no-deps -r deploy/locks/torch-cpu.txt -r deploy/locks/serve.txt

The head of each file carries a digest of what it was made from: ``--check`` needs no network and
exits 1 when a dependency or a pin has changed since.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "locks"
PYTHON = "3.11"  # the oldest that is supported; the locks hold for every newer one
TORCH_VERSION = "2.13.0"
# What only a torch with CUDA brings along.
CUDA_ONLY = re.compile(r"^(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
# https://download.pytorch.org/whl/cpu/torch/ publishes no listing that uv may read offline. The
# digest of the first wheel was computed from the file; the others are as that index lists them.
# macOS has one build, on PyPI.
TORCH_CPU_WHEELS = {
    "cp311-x86_64": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "cp311-aarch64": "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7",
    "cp312-x86_64": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
    "cp312-aarch64": "6f307c2c32d764ffc6ff6893b801fad6d4752f3e67966cb8abf1843427c02604",
    "cp313-x86_64": "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
    "cp313-aarch64": "0b8f7d0423027ae8b90c7977c627f3379f325363a08224dffad9b4b2d684a83d",
    "cp311-macos": "e76f9bcecc52b8ff711239a2f7547d5353df95878ab232f0773c1d95928b92f8",
    "cp312-macos": "2fe228aba290d14b9f31b049be550dbd469c3fd3013d7a19705b30454da97027",
    "cp313-macos": "33449899ce5496c1b84b4853179d94fd102028ae1407314d9fb956bb79e70d09",
}
# Lock file → extras of pyproject.toml. vLLM pins a torch of its own: an environment of its own.
EXTRAS = {
    "base": (),
    "serve": ("serve",),
    "azure": ("azure",),
    "sagemaker": ("sagemaker",),
    "all": ("all",),
    "test": ("all", "test"),
    "docs": ("docs",),
}


def inputs_digest() -> str:
    """SHA-256 of everything that decides what the locks hold."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    inputs = [
        project["project"]["dependencies"],
        project["project"]["optional-dependencies"],
        project["build-system"]["requires"],
        (ROOT / "constraints.txt").read_text(encoding="utf-8"),
        TORCH_CPU_WHEELS,
        {name: list(extras) for name, extras in EXTRAS.items()},
    ]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def compile_lock(*arguments: str, source: str = "pyproject.toml", text: str | None = None) -> str:
    """What ``uv pip compile`` makes of the project, without its own comments."""
    command = ["uv", "pip", "compile", source, "--quiet", "--generate-hashes", "--no-annotate"]
    done = subprocess.run(
        [*command, "--no-header", *arguments],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def entries(lock: str) -> list[str]:
    """A lock's requirements, each with the hashes that follow it."""
    return [entry for entry in re.split(r"(?m)^(?=\S)", lock) if entry.strip()]


def _universal(*arguments: str, source: str = "pyproject.toml", text: str | None = None) -> str:
    return compile_lock(
        "--universal", "--python-version", PYTHON, *arguments, source=source, text=text
    )


def locks() -> dict[str, str]:
    """File name → content of every lock file."""
    constrained = ("--constraint", "constraints.txt")
    made: dict[str, str] = {}
    cuda: list[str] = []
    for name, extras in EXTRAS.items():
        options = [word for extra in extras for word in ("--extra", extra)]
        found = entries(_universal(*constrained, *options))
        made[name] = "".join(entry for entry in found if not _only_cuda(entry, name))
        if name == "serve":
            cuda = [entry for entry in found if CUDA_ONLY.match(entry)]
    made["torch-cuda"] = "".join(cuda)
    made["torch-cpu"] = torch_cpu()
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    made["build"] = _universal(source="-", text="\n".join(requires))
    made["vllm"] = compile_lock(
        "--extra", "vllm", "--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_28"
    )
    head = f"# Made by `python -m tools.lock`; do not edit.\n# inputs: sha256:{inputs_digest()}\n"
    return {f"{name}.txt": head + text for name, text in made.items()}


def _only_cuda(entry: str, lock: str) -> bool:
    """Whether a requirement is left to torch's own locks; the tests compile Triton kernels."""
    return bool(CUDA_ONLY.match(entry)) and not (lock == "test" and entry.startswith("triton=="))


def torch_cpu() -> str:
    """The requirement of torch's CPU builds, whose index is not PyPI."""
    hashes = " \\\n".join(f"    --hash=sha256:{digest}" for digest in TORCH_CPU_WHEELS.values())
    return f"torch=={TORCH_VERSION} \\\n{hashes}\n"


def stale() -> list[str]:
    """Lock files that are missing or were made from something else."""
    digest = f"# inputs: sha256:{inputs_digest()}"
    names = [*EXTRAS, "torch-cuda", "torch-cpu", "build", "vllm"]
    files = [FOLDER / f"{name}.txt" for name in names]
    return [
        str(path.relative_to(ROOT))
        for path in files
        if not path.is_file() or digest not in path.read_text(encoding="utf-8").splitlines()[:2]
    ]


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        if old := stale():
            print(f"stale: {', '.join(old)}\nhint: pip install uv && python -m tools.lock")
        return 1 if old else 0
    FOLDER.mkdir(exist_ok=True)
    for name, text in locks().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
