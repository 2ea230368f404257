"""Files of torch before 1.6, as torch still writes them: the same tensors, never executed."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_hub.errors import IntegrityError, UnsafePickleError
from llama_hub.hub.checkpoints import open_checkpoint
from llama_hub.hub.checkpoints.pickle_index import read_index
from llama_hub.hub.conversion.convert import convert
from tests.support.hf_models import save


def legacy(value: object, path: Path) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=False)
    return path


def test_a_legacy_folder_holds_the_same_weights(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    with open_checkpoint(folder) as checkpoint:
        before = [b"".join(b.tobytes() for b in checkpoint.blocks(s)) for s in checkpoint.specs]
    tensors = load_file(folder / "model.safetensors")
    legacy(OrderedDict(tensors), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with open_checkpoint(folder) as checkpoint:
        after = [b"".join(b.tobytes() for b in checkpoint.blocks(s)) for s in checkpoint.specs]
    assert before == after


def test_views_of_one_storage_lie_where_torch_put_them(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float16).reshape(4, 6)
    values = {
        "whole": base,
        "part": base[1:3],
        "turned": torch.arange(6.0).reshape(2, 3).t(),
        "other": torch.ones(3),
    }
    path = legacy(values, tmp_path / "x.bin")
    data = path.read_bytes()
    for name, tensor in read_index(path).items():
        assert tensor.shape == tuple(values[name].shape)
        first = data[tensor.offset : tensor.offset + tensor.item_bytes]
        assert tensor.stride == values[name].stride()
        assert first == values[name].flatten()[:1].numpy().tobytes()


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_file_that_is_cut_or_too_long_is_damaged(tmp_path: Path, cut: int) -> None:
    path = legacy({"a": torch.ones(4000)}, tmp_path / "x.bin")
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    with pytest.raises(IntegrityError, match="damaged"):
        read_index(path)
    path.write_bytes(data + b"more")
    with pytest.raises(IntegrityError, match="damaged"):
        read_index(path)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch /tmp/never",)


def test_nothing_is_executed(tmp_path: Path) -> None:
    path = legacy({"a": torch.ones(3), "b": Evil()}, tmp_path / "x.bin")
    with pytest.raises(UnsafePickleError, match="system"):
        read_index(path)


def test_the_tar_form_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    (tmp_path / "storages").write_bytes(b"0")
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(tmp_path / "storages", "storages")
    with pytest.raises(IntegrityError, match="tar archive"):
        read_index(path)


def test_consolidated_safetensors_hold_what_the_shard_holds(tmp_path: Path) -> None:
    folder = tmp_path / "meta"
    made = convert(save(tmp_path / "model"), folder, to="meta", license="other-open")
    whole = tmp_path / "whole"
    whole.mkdir()
    save_file(torch.load(made.path / "consolidated.00.pth"), whole / "consolidated.safetensors")
    shutil.copy(made.path / "params.json", whole)
    with open_checkpoint(made.path) as one, open_checkpoint(whole) as other:
        assert one.architecture == other.architecture
        for spec in one.specs:
            pieces = [b"".join(b.tobytes() for b in x.blocks(spec)) for x in (one, other)]
            assert pieces[0] == pieces[1]
    shutil.copy(made.path / "consolidated.00.pth", whole)
    with pytest.raises(IntegrityError, match="which of the two"):
        open_checkpoint(whole)
