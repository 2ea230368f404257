"""The container context: its Dockerfiles, its pins, and its entry point as a process.

No container engine is at hand, so nothing here proves that a build succeeds. The entry point
runs from the unpacked archive with each platform's variables; the platforms' own mounts
(``/opt/ml/model``, ``/repository``) are stood in for by ``LLAMA_HUB_MODEL_DIR``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_hub.deploy import image
from llama_hub.errors import UsageError
from tests.support.command import run
from tests.support.demo_model import demo_folder
from tests.support.tiers import family


def test_the_context_is_complete_and_passes_its_own_lint(tmp_path: Path) -> None:
    done = run("image", "write", str(tmp_path / "ctx"), "--json")
    assert done.code == 0, done.stderr
    names = {path.name for path in (tmp_path / "ctx").iterdir()}
    assert names == {one["path"] for one in done.json["files"]}
    assert {"sbom-cpu.cdx.json", "sbom-cuda.cdx.json"} <= names
    for name in ("Dockerfile", "Dockerfile.cuda"):
        assert image.lint((tmp_path / "ctx" / name).read_text()) == []
    assert run("image", "write", str(tmp_path / "ctx")).code == 0  # again, over itself


def test_the_same_package_gives_the_same_bytes() -> None:
    first = image.archive()
    image.archive.cache_clear()
    assert first == image.archive()
    names = tarfile.open(fileobj=io.BytesIO(first)).getnames()
    assert "llama_hub/cli/main.py" in names
    assert "llama_hub/inference/service/app.py" in names
    assert not any("__pycache__" in name or "consolidated" in name for name in names)


def test_every_file_that_the_image_installs_is_known_by_its_digest() -> None:
    made = image.context()
    for variant, torch in (("Dockerfile", "torch-cpu.txt"), ("Dockerfile.cuda", "torch-cuda.txt")):
        text = made[variant].decode()
        assert "--no-deps --require-hashes" in text
        assert f"COPY {torch} requirements.txt" in text
        assert b"\ntorch==2.13.0 \\\n    --hash=sha256:" in b"\n" + made[torch]
    listed = made["requirements.txt"].decode()
    for name in ("safetensors", "sentencepiece", "uvicorn", "typer", "httpx"):
        assert f"\n{name}==" in listed
    assert "\ntorch==" not in listed


def test_bases_are_known_by_their_digest() -> None:
    for base in (image.CPU_BASE, image.CUDA_BASE):
        assert re.search(r"^[\w.]+\.\w+/.+:[\w.-]+@sha256:[0-9a-f]{64}$", base)


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_the_bill_of_materials_lists_what_the_image_installs(variant: str) -> None:
    made = image.context() | image.boms()
    bom = json.loads(made[f"sbom-{variant}.cdx.json"])
    listed = {one["bom-ref"]: one for one in bom["components"]}
    assert len(listed) == len(bom["components"])
    for lock in (f"torch-{variant}.txt", "requirements.txt"):
        for name, version in re.findall(r"^([\w.-]+)==(\S+) [^;]*$", made[lock].decode(), re.M):
            component = listed[f"pkg:pypi/{name}@{version}"]
            (reference,) = component["externalReferences"]
            for known in reference["hashes"]:
                assert known["content"].encode() in made[lock]
    assert not any("pywin32" in name or "colorama" in name for name in listed)
    base = {"cpu": image.CPU_BASE, "cuda": image.CUDA_BASE}[variant]
    assert listed[base]["hashes"][0]["content"] == base.rpartition(":")[2]
    (own,) = [one for one in bom["components"] if one["name"] == "llama2-hub"]
    assert own["hashes"][0]["content"] == hashlib.sha256(made[image.ARCHIVE]).hexdigest()


def test_the_bill_of_materials_is_valid() -> None:
    validation = pytest.importorskip(
        "cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed"
    )
    from cyclonedx.schema import SchemaVersion

    for data in image.boms().values():
        text = data.decode()
        assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_every_dependency_is_pinned() -> None:
    lines = image.requirements()
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    names = {line.split("==")[0] for line in lines}
    assert {"torch", "safetensors", "sentencepiece", "uvicorn", "typer"} <= names
    assert not {"pytest", "boto3", "azure-ai-ml", "llama2-hub"} & names


GOOD = image.context()["Dockerfile"].decode()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (image.CPU_BASE, "python:latest", "not pinned"),
        (image.CPU_BASE, "python", "not pinned"),
        ('ENTRYPOINT ["/opt/venv/bin/python", "-m", "llama_hub"]', "ENTRYPOINT llama-hub", "shell"),
        ("ARG RUN_AS=10001", "ARG RUN_AS=0", "root"),
        ("USER ${RUN_AS}\n", "", "root"),
        ("EXPOSE", "ENV HF_TOKEN=hf_x\nEXPOSE", "secret"),
        ("--no-cache-dir ", "", "cache"),
        (f"ADD {image.ARCHIVE}", "ADD https://example.org/x", "network"),
        (
            "-r /opt/llama-hub/torch-cpu.txt -r /opt/llama-hub/requirements.txt",
            "torch",
            "not pinned",
        ),
        ("--require-hashes ", "", "digests"),
    ],
)
def test_lint_finds(old: str, new: str, problem: str) -> None:
    assert old in GOOD
    assert any(problem in found for found in image.lint(GOOD.replace(old, new)))


CUDA_GOOD = image.context()["Dockerfile.cuda"].decode()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (image.CUDA_BASE, "nvidia/cuda:12.8.1-base-ubuntu24.04", "CUDA 12.8"),
        (image.CUDA_BASE, "nvidia/cuda:13.1.0-runtime-ubuntu24.04", "CUDA 13.1"),
        ("gcc ", "", "without gcc"),
        ("libc6-dev ", "", "without libc6-dev"),
        ("python3-dev ", "", "without python3-dev"),
        (f"    HOME={image.STATE}", "    HOME=/", "HOME is not"),
        (f"    TRITON_CACHE_DIR={image.STATE}/triton \\\n", "", "TRITON_CACHE_DIR"),
        (f"TORCHINDUCTOR_CACHE_DIR={image.STATE}", "TORCHINDUCTOR_CACHE_DIR=/opt", "INDUCTOR"),
    ],
)
def test_lint_finds_what_keeps_kernels_from_being_compiled(
    old: str, new: str, problem: str
) -> None:
    assert image.lint(CUDA_GOOD) == []
    assert old in CUDA_GOOD
    assert any(problem in found for found in image.lint(CUDA_GOOD.replace(old, new)))


def test_each_variant_serves_on_its_own_kind_of_device(tmp_path: Path) -> None:
    """So that a GPU image without a GPU ends with its reason, and is not a slow service."""
    assert variables(CUDA_GOOD, tmp_path)["LLAMA_HUB_DEVICE"] == "cuda"
    assert variables(GOOD, tmp_path)["LLAMA_HUB_DEVICE"] == "cpu"


def test_the_cpu_variant_has_a_compiler_too() -> None:
    assert any("without gcc" in found for found in image.lint(GOOD.replace("gcc ", "")))


def test_the_context_leaves_room_below_what_azure_ml_takes() -> None:
    """1 MB in all; what grows it is the package alone, and no file that a service never reads."""
    assert sum(map(len, image.context().values())) < 900_000
    with tarfile.open(fileobj=io.BytesIO(image.archive())) as packed:
        assert not [name for name in packed.getnames() if "/locks/" in name]


def test_the_cuda_of_the_base_is_that_of_the_wheels() -> None:
    """As the lock says that the image installs them."""
    lock = (files("llama_hub.deploy") / "locks/torch-cuda.txt").read_text()
    (runtime,) = re.findall(r"^nvidia-cuda-runtime==(\d+\.\d+)", lock, re.MULTILINE)
    assert runtime == image.CUDA
    assert f":{runtime}." in image.CUDA_BASE


def variables(dockerfile: str, root: Path) -> dict[str, str]:
    """What ``ENV`` says, with the place for state below ``root`` instead of ``/tmp``."""
    joined = dockerfile.replace("\\\n", " ")
    (line,) = (each for each in joined.splitlines() if each.startswith("ENV "))
    pairs = dict(word.partition("=")[::2] for word in line.split()[1:])
    return {name: value.replace("/tmp", str(root), 1) for name, value in pairs.items()}


STUB = """\
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "stub", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_stub(void) { return PyModule_Create(&module); }
"""
KERNEL = """\
import triton
import triton.language as tl
@triton.jit
def double(x):
    tl.store(x, tl.load(x) * 2)
"""
BUILD = """\
import sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.build import compile_module_from_src
root = Path(sys.argv[1])
sys.path.insert(0, str(root))
from kernel import double
source = ASTSource(double, {"x": "*fp32"}, {}, {})
print("ptx" in triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm)
print(compile_module_from_src((root / "stub.c").read_text(), "stub").__name__)
"""


@pytest.mark.parametrize("compiler", [True, False])
def test_kernels_are_compiled_below_the_place_for_state(compiler: bool, tmp_path: Path) -> None:
    """With the image's variables alone; without a compiler Triton's own words say why.

    That the image's user may write there and nowhere else is not tried: becoming that user would
    need an interpreter that it can read.
    """
    pytest.importorskip("triton")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        pytest.skip("this Python has no headers")
    (tmp_path / "kernel.py").write_text(KERNEL)
    (tmp_path / "stub.c").write_text(STUB)
    path = os.defpath if compiler else str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)],
        env={**variables(CUDA_GOOD, tmp_path), "PATH": path, "PYTHONPATH": ":".join(sys.path)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
    )
    if compiler:
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["True", "stub"]
    else:
        assert "C compiler" in done.stderr
    assert {each.name for each in tmp_path.iterdir()} <= {"kernel.py", "stub.c", "llama-hub"}
    assert (tmp_path / "llama-hub/triton").is_dir()


def test_an_unpinned_base_and_a_folder_with_other_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not pinned"):
        image.write(tmp_path / "x", cpu_base="python:latest")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        image.write(tmp_path)


def words(instruction: str) -> list[str]:
    line = next(one for one in GOOD.splitlines() if one.startswith(instruction + " "))
    found: list[str] = json.loads(line.removeprefix(instruction))
    return found


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    with tarfile.open(fileobj=io.BytesIO(image.archive())) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return demo_folder(tmp_path_factory.mktemp("home")).path


PLATFORMS: dict[str, tuple[list[str], dict[str, str], str]] = {
    # What the platform puts behind the image's name, its variables, its own route.
    "sagemaker": (["serve"], {"LLAMA_HUB_PLATFORM": "sagemaker"}, "/ping"),
    "azureml": ([], {}, "/health/ready"),
    "huggingface": ([], {"LLAMA_HUB_PLATFORM": "huggingface"}, "/health"),
}


@pytest.mark.parametrize("platform", family(PLATFORMS, everyday=1))
def test_the_entry_point_serves_under_each_platforms_conventions(
    platform: str, unpacked: Path, model: Path, tmp_path: Path
) -> None:
    arguments, variables, health = PLATFORMS[platform]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = "AZUREML_MODEL_DIR" if platform == "azureml" else "LLAMA_HUB_MODEL_DIR"
    bind = "SAGEMAKER_BIND_TO_PORT" if platform == "sagemaker" else "LLAMA_HUB_PORT"
    assert words("ENTRYPOINT")[0].endswith("/python")
    command = [sys.executable, *words("ENTRYPOINT")[1:], *(arguments or words("CMD"))]
    with subprocess.Popen(
        [*command],
        cwd="/",
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(unpacked),
            "LLAMA_HUB_HOME": str(tmp_path / "home"),
            "LLAMA_HUB_HOST": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            folder: str(model if platform != "azureml" else model.parent),
            bind: str(port),
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                wait_until_ready(client, health, process)
                assert answer(client, platform)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.read()


def wait_until_ready(client: httpx.Client, path: str, process: Any) -> None:
    end = time.monotonic() + 100
    while time.monotonic() < end:
        assert process.poll() is None, process.stdout.read().decode()
        try:
            if client.get(path).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{path} never said 200")


def answer(client: httpx.Client, platform: str) -> Any:
    route = {"sagemaker": "/invocations", "azureml": "/score"}.get(platform, "/v1/chat/completions")
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
    answered = client.post(route, json=body)
    assert answered.status_code == 200, answered.text
    return answered.json()
