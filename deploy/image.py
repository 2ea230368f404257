"""A container that starts the service in any of the clouds: the context to build it from.

================  =============================================================
``Dockerfile``    for the CPU
``Dockerfile.cuda``  for NVIDIA devices
``requirements.txt``  every dependency but torch, each file of it by its digest
``torch-cpu.txt``, ``torch-cuda.txt``  the builds of torch, likewise
``llama_hub.tar.bz2``  this very package, the same bytes wherever it is made
``sbom-cpu.cdx.json``, ``sbom-cuda.cdx.json``  what each image is made of (CycloneDX)
================  =============================================================

The entry point is one for all: SageMaker calls ``IMAGE serve``, Azure ML and
Hugging Face call the image as it is, and ``serve`` finds out from its
surroundings where the model is and on which port to answer. It runs without
root; SageMaker's own containers run as root, ``--build-arg RUN_AS=0`` gives that.

A wheel's kernels for the CPU go along with the package. Other kernels, and all of a checkout's,
are compiled where they run, once: both images have a C compiler, the CUDA
one also Python's headers, which Triton's launchers need. What is compiled goes
below ``STATE``, the one place that any user may write to; a volume mounted there
keeps it from one start to the next. The CUDA base is of the CUDA version that
PyTorch's wheels bring along, so that a driver that is too old is refused when the
container starts, not overlooked by a service that then runs on the CPU.
"""

from __future__ import annotations

import bz2
import functools
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from llama_hub import __version__
from llama_hub.deploy.image_sbom import bom
from llama_hub.distribution import NAME, install_command
from llama_hub.errors import UsageError
from llama_hub.files import write_atomic
from llama_hub.kernel_build import PREBUILT

# Amazon's copy of Docker's official images has their digests, and no limit on anonymous pulls.
CPU_BASE = (
    "public.ecr.aws/docker/library/python:3.12.14-slim-bookworm"
    "@sha256:392307d22300de8b5986851a12d9176dfc0fc073e65bf6523ebd7dcbeb23564e"
)
CUDA = "13.0"  # that PyTorch's wheels are built for
CUDA_BASE = (
    f"docker.io/nvidia/cuda:{CUDA}.2-base-ubuntu24.04"
    "@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701"
)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
ARCHIVE = "llama_hub.tar.bz2"
PACKAGES = ("licenses", "hub", "inference", "evaluation", "deploy", "backends", "cli")
# Folders that no service reads: the demo's weights; digests of wheels, which hardly compress.
LEFT_OUT = ("demo", "locks", "__pycache__")
PORT = 8080
STATE = "/tmp/llama-hub"

_TEMPLATE = """\
# llama-hub {version}, {variant}: OpenAI, SageMaker, Azure ML and Hugging Face routes on port {port}
FROM {base}
LABEL org.opencontainers.image.title="llama-hub" \\
      org.opencontainers.image.version="{version}" \\
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true"
{system}COPY {torch} requirements.txt /opt/llama-hub/
RUN python3 -m venv /opt/venv \\
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes {index}\\
    -r /opt/llama-hub/{torch} -r /opt/llama-hub/requirements.txt
ADD {archive} /opt/llama-hub/
ENV PATH=/opt/venv/bin:$PATH \\
    PYTHONPATH=/opt/llama-hub \\
    PYTHONUNBUFFERED=1 \\
    PYTHONDONTWRITEBYTECODE=1 \\
    HOME={state} \\
    LLAMA_HUB_HOME={state} \\
    TRITON_CACHE_DIR={state}/triton \\
    TORCHINDUCTOR_CACHE_DIR={state}/inductor \\
    LLAMA_HUB_DEVICE={device} \\
    HF_HUB_DISABLE_TELEMETRY=1
ARG RUN_AS=10001
USER ${{RUN_AS}}
EXPOSE {port}
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/venv/bin/python", "-m", "llama_hub"]
CMD ["serve"]
"""
_PACKAGES = """\
RUN apt-get update \\
    && apt-get install --no-install-recommends --yes {packages} \\
    && rm -rf /var/lib/apt/lists/*
"""
CPU_PACKAGES = ("gcc", "libc6-dev")
CUDA_PACKAGES = (*CPU_PACKAGES, "python3", "python3-dev", "python3-venv")


def context(cpu_base: str = CPU_BASE, cuda_base: str = CUDA_BASE) -> dict[str, bytes]:
    """File name → content of the whole context; ``UsageError`` if a base is not pinned."""
    made = {
        "Dockerfile": _dockerfile("CPU", cpu_base, CPU_PACKAGES, f"--extra-index-url {CPU_INDEX} "),
        "Dockerfile.cuda": _dockerfile("CUDA", cuda_base, CUDA_PACKAGES, ""),
    }
    for name, text in made.items():
        problems = lint(text)
        if problems:
            raise UsageError(f"{name}: {'; '.join(problems)}")
    return {name: text.encode() for name, text in made.items()} | {
        "requirements.txt": _lock("serve"),
        "torch-cpu.txt": _lock("torch-cpu"),
        "torch-cuda.txt": _lock("torch-cuda"),
        ".dockerignore": b"*\n!requirements.txt\n!torch-*.txt\n!llama_hub.tar.bz2\n",
        ARCHIVE: archive(),
    }


def boms(cpu_base: str = CPU_BASE, cuda_base: str = CUDA_BASE) -> dict[str, bytes]:
    """File name → what each of the two images is made of; not part of what is sent to a cloud."""
    serve = _lock("serve")
    return {
        "sbom-cpu.cdx.json": bom(cpu_base, archive(), (_lock("torch-cpu"), serve)),
        "sbom-cuda.cdx.json": bom(cuda_base, archive(), (_lock("torch-cuda"), serve)),
    }


def _lock(name: str) -> bytes:
    """A list of packages with the digests of their files, as this release was tested with."""
    return files("llama_hub.deploy").joinpath("locks", f"{name}.txt").read_bytes()


def write(folder: Path, cpu_base: str = CPU_BASE, cuda_base: str = CUDA_BASE) -> list[Path]:
    """Write the context, and what it is made of, into ``folder``.

    It must be new, empty or an earlier context; ``UsageError`` if it holds other files.
    """
    made = context(cpu_base, cuda_base) | boms(cpu_base, cuda_base)
    strange = {path.name for path in folder.iterdir()} - set(made) if folder.is_dir() else set()
    if strange:
        raise UsageError(
            f"{folder} holds other files: {', '.join(sorted(strange)[:3])}",
            hint="name a new folder",
        )
    for name, data in made.items():
        write_atomic(folder / name, data)
    return [folder / name for name in made]


@functools.cache
def requirements() -> tuple[str, ...]:
    """``llama2-hub[serve]`` and all it needs, each at the version that is installed here.

    Looked up once per process: each look reads the metadata of some thirty distributions.

    For images that bring a torch of their own, to which no digest of ours belongs.
    """
    lines: dict[str, str] = {}
    _collect(NAME, frozenset({"serve"}), lines)
    lines.pop(NAME, None)
    return tuple(f"{name}=={version}" for name, version in sorted(lines.items()))


def _collect(name: str, extras: frozenset[str], found: dict[str, str]) -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    key = canonicalize_name(name)
    if key in found and not extras:
        return
    try:
        installed = distribution(name)
    except PackageNotFoundError as error:
        raise UsageError(
            f"{name} is not installed, so its version cannot be pinned",
            hint=install_command("serve"),
        ) from error
    found[key] = installed.version.partition("+")[0]  # 2.13.0+cpu is the same release
    for line in installed.requires or []:
        needed = Requirement(line)
        if _applies(needed, extras):
            _collect(needed.name, frozenset(needed.extras), found)


def _applies(needed: object, extras: frozenset[str]) -> bool:
    """Whether a requirement holds in the container: Linux, and the extras asked for."""
    marker = getattr(needed, "marker", None)
    if marker is None:
        return True
    surroundings = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    return any(marker.evaluate({**surroundings, "extra": extra}) for extra in (*extras, ""))


@functools.cache
def archive() -> bytes:
    """The installed package in a tar file that depends on its content only.

    In bzip2's form, which ``ADD`` unpacks by itself: a quarter smaller than gzip's, of which every
    system has its own writer.

    One for a whole process: a plan and what comes of it are about the same bytes.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in sorted(sources()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(data))
    return bz2.compress(buffer.getvalue())


def sources() -> Iterator[tuple[str, bytes]]:
    root = files("llama_hub")
    for entry in root.iterdir():
        if entry.is_file():
            yield f"llama_hub/{entry.name}", entry.read_bytes()
    for package in PACKAGES:
        yield from _below(files(f"llama_hub.{package}"), f"llama_hub/{package}")
    prebuilt = root.joinpath(PREBUILT)  # of a wheel; a checkout has none
    for entry in prebuilt.iterdir() if prebuilt.is_dir() else ():
        if entry.name.endswith(".so"):
            yield f"llama_hub/{PREBUILT}/{entry.name}", entry.read_bytes()


def _below(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name not in LEFT_OUT:
            yield from _below(entry, f"{path}/{entry.name}")
        elif entry.is_file() and not entry.name.endswith((".pyc", ".so")):
            yield f"{path}/{entry.name}", entry.read_bytes()


def _dockerfile(variant: str, base: str, packages: tuple[str, ...], index: str) -> str:
    return _TEMPLATE.format(
        version=__version__,
        variant=variant,
        base=base,
        system=_PACKAGES.format(packages=" ".join(packages)),
        state=STATE,
        torch=f"torch-{variant.lower()}.txt",
        device=variant.lower(),  # a GPU image without a GPU says so and ends
        index=index,
        archive=ARCHIVE,
        port=PORT,
    )


def lint(text: str) -> list[str]:
    """What is wrong with a Dockerfile of ours, in words; empty if nothing is."""
    instructions = _instructions(text)
    return [problem for rule in _RULES if (problem := rule(instructions))]


Instructions = list[tuple[str, str]]


def _instructions(text: str) -> Instructions:
    """Keyword and argument of each instruction, continued lines joined, comments dropped."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    instructions = []
    for line in joined.splitlines():
        keyword, _, rest = line.strip().partition(" ")
        if keyword:
            instructions.append((keyword.upper(), " ".join(rest.split())))
    return instructions


def _all(instructions: Instructions, keyword: str) -> list[str]:
    return [rest for known, rest in instructions if known == keyword]


def _unpinned(instructions: Instructions) -> str:
    for base in _all(instructions, "FROM"):
        image = base.split(" ")[0]
        tag = image.rsplit("/", 1)[-1].partition(":")[2]
        if "@sha256:" not in image and (not re.search(r"\d+\.\d+", tag) or tag == "latest"):
            return f"the base {image} is not pinned to a version or a digest"
    return "" if _all(instructions, "FROM") else "there is no base"


def _not_exec_form(instructions: Instructions) -> str:
    for keyword in ("ENTRYPOINT", "CMD"):
        for rest in _all(instructions, keyword):
            try:
                words = json.loads(rest)
            except ValueError:
                words = None
            if not isinstance(words, list) or not words:
                return f"{keyword} is not in exec form, so signals would end at a shell"
    return "" if _all(instructions, "ENTRYPOINT") else "there is no ENTRYPOINT"


def _is_root(instructions: Instructions) -> str:
    users = _all(instructions, "USER")
    arguments = dict(rest.partition("=")[::2] for rest in _all(instructions, "ARG"))
    last = users[-1] if users else "root"
    name = arguments.get(last.strip("${}"), last) if last.startswith("$") else last
    return "it runs as root" if name.split(":")[0] in ("root", "0") else ""


def _secrets(instructions: Instructions) -> str:
    for keyword in ("ENV", "ARG"):
        for rest in _all(instructions, keyword):
            if re.search(r"\w*(TOKEN|SECRET|PASSWORD|API_KEY)\w*\s*=", rest, re.IGNORECASE):
                return f"{keyword} holds a secret, which stays in the image: {rest.split('=')[0]}"
    return ""


def _left_behind(instructions: Instructions) -> str:
    for rest in _all(instructions, "RUN"):
        if "pip install" in rest and "--no-cache-dir" not in rest:
            return "pip keeps its cache in the image"
        if "apt-get install" in rest and "rm -rf /var/lib/apt/lists" not in rest:
            return "apt's lists stay in the image"
        if re.search(r"\bpip install\b", rest) and not re.search(r"-r \S+|==", rest):
            return f"packages are not pinned: {rest}"
        if re.search(r"\bpip install\b", rest) and "--require-hashes" not in rest:
            return "packages are not checked by their digests"
    return ""


def _remote(instructions: Instructions) -> str:
    urls = [rest for rest in _all(instructions, "ADD") if re.match(r"\w+://", rest)]
    return f"ADD takes something from the network unchecked: {urls[0]}" if urls else ""


def _other_cuda(instructions: Instructions) -> str:
    for base in _all(instructions, "FROM"):
        match = re.search(r"cuda[:-](\d+\.\d+)", base)
        if match and match[1] != CUDA:
            return (
                f"the base has CUDA {match[1]} and PyTorch's wheels {CUDA}: a driver that is new "
                "enough for the base may be too old for them"
            )
    return ""


def _no_compiler(instructions: Instructions) -> str:
    cuda = any("cuda" in base for base in _all(instructions, "FROM"))
    commands = " ".join(_all(instructions, "RUN")).split()
    missing = sorted(set(CUDA_PACKAGES if cuda else CPU_PACKAGES) - set(commands))
    return f"kernels cannot be compiled without {', '.join(missing)}" if missing else ""


def _nowhere_to_write(instructions: Instructions) -> str:
    variables = dict(
        each.partition("=")[::2] for rest in _all(instructions, "ENV") for each in rest.split()
    )
    for name in ("HOME", "LLAMA_HUB_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        if not variables.get(name, "").startswith("/tmp/"):
            return (
                f"{name} is not a folder below /tmp, so a user other than root cannot write to it"
            )
    return ""


_RULES: tuple[Callable[[Instructions], str], ...] = (
    _unpinned, _not_exec_form, _is_root, _secrets, _left_behind, _remote, _other_cuda,
    _no_compiler, _nowhere_to_write,
)  # fmt: skip
