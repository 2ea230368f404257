"""Who may read what we write, and what a child may read of its parent."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from llama_hub.child_environment import child_environment, is_allowed
from llama_hub.errors import IntegrityError, UsageError
from llama_hub.files import PRIVATE, locked, open_regular, private_folder, write_atomic

NEEDED = """
    PATH HOME LANG LC_ALL TZ TMPDIR LD_LIBRARY_PATH VIRTUAL_ENV XDG_CACHE_HOME PYTHONPATH
    CUDA_VISIBLE_DEVICES CUDA_HOME NVIDIA_VISIBLE_DEVICES NCCL_DEBUG OMP_NUM_THREADS
    MKL_NUM_THREADS GLOO_SOCKET_IFNAME TRITON_CACHE_DIR TORCHINDUCTOR_CACHE_DIR SSL_CERT_FILE
    TOKENIZERS_PARALLELISM HF_HOME HF_HUB_OFFLINE LLAMA_HUB_HOME LLAMA_HUB_MAX_QUEUE
    LLAMA_HUB_CATALOG VLLM_USE_V1
""".split()
SECRET = """
    HF_TOKEN HUGGING_FACE_HUB_TOKEN AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
    AWS_PROFILE AZURE_CLIENT_SECRET AZURE_CLIENT_ID AZURE_TENANT_ID OPENAI_API_KEY GITHUB_TOKEN
    ANTHROPIC_API_KEY WANDB_API_KEY NVIDIA_API_KEY VLLM_API_KEY LLAMA_HUB_API_KEY LLAMA_HUB_META_URL
    LLAMA_HUB_REGISTRY_PASSWORD PGPASSWORD GOOGLE_APPLICATION_CREDENTIALS HTTP_PROXY https_proxy
    SSH_AUTH_SOCK KUBECONFIG DATABASE_URL CUDA_ACCESS_TOKEN XDG_SESSION_COOKIE_KEY MY_OWN
""".split()


@pytest.mark.parametrize("name", NEEDED)
def test_a_child_gets_what_computing_needs(name: str) -> None:
    assert child_environment({name: "x"}) == {name: "x"}


@pytest.mark.parametrize("name", SECRET)
def test_a_child_gets_no_secret(name: str) -> None:
    assert not is_allowed(name)
    assert child_environment({name: "x"}, PATH="/bin") == {"PATH": "/bin"}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_folder_is_private_from_its_top_down(tmp_path: Path) -> None:
    old = tmp_path / "shared" / "top"
    old.mkdir(parents=True, mode=0o755)
    private_folder(old / "middle" / "leaf", old)
    assert [mode_of(old / part) for part in ("", "middle", "middle/leaf")] == [0o700] * 3
    assert mode_of(tmp_path / "shared") == 0o777 & ~_umask()
    private_folder(old / "middle" / "leaf", old)


def test_a_folder_of_somebody_else_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    private_folder(theirs)
    assert mode_of(theirs) == 0o755


def test_private_files_and_locks_have_no_bits_for_others(tmp_path: Path) -> None:
    write_atomic(tmp_path / "state", b"", mode=PRIVATE)
    with locked(tmp_path / "lock", mode=PRIVATE):
        pass
    assert mode_of(tmp_path / "state") == mode_of(tmp_path / "lock") == 0o600


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("name", ["folder", "link", "/", "/dev/null", "/dev/stdout", "/dev/fd/1"])
def test_no_folder_and_no_device_is_ever_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/null")
    with pytest.raises(UsageError, match="is a folder or a device"):
        write_atomic(tmp_path / name, b"x")
    assert Path("/dev/null").is_char_device()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("target", ["/proc/kmsg", "/proc/self/environ", "/proc/version"])
def test_what_the_system_makes_up_is_no_file_of_bytes(target: str, tmp_path: Path) -> None:
    """It is "regular" and has no size; a read that would wait gives ``None``."""
    (tmp_path / "model.safetensors").symlink_to(target)
    with pytest.raises(IntegrityError, match="the system makes up|no file"):
        open_regular(tmp_path / "model.safetensors")


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with os.fdopen(open_regular(tmp_path / "empty"), "rb") as file:
        assert file.read() == b""
