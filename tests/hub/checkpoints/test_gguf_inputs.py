"""GGUF files as people have them: versions, tied output, parts, every type; gguf is the judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.checkpoints import numeric, open_checkpoint
from llama_hub.hub.checkpoints.gguf import TYPES, open_gguf, read_header
from llama_hub.hub.checkpoints.source import Checkpoint
from llama_hub.hub.conversion.convert import convert
from tests.support import gguf_files
from tests.support.gguf_files import WIDE, File

QUANTISED = [name for name, _, size in TYPES.values() if size > 4]


def read(source: Checkpoint) -> dict[str, np.ndarray]:
    """Every tensor as float32, by its canonical name."""
    found = {}
    for spec in source.specs:
        blocks = [
            numeric.to_float32(block, source.dtype_of(spec.name)).copy()
            for block in source.blocks(spec)
        ]
        found[spec.name] = np.concatenate(blocks).reshape(spec.shape)
    return found


def assert_same(path: Path, expected: dict[str, np.ndarray], *, dequantize: bool = False) -> None:
    with open_checkpoint(path, dequantize=dequantize) as source:
        found = read(source)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(tmp_path: Path, version: int) -> None:
    path = tmp_path / "m.gguf"
    expected = gguf_files.write(path)
    gguf_files.with_version(path, version)
    assert_same(path, expected)


def test_the_embedding_is_the_output_of_a_tied_model(tmp_path: Path) -> None:
    expected = gguf_files.write(tmp_path / "m.gguf", File(tied=True))
    assert_same(tmp_path, expected)


def test_a_tied_quantised_model_lists_what_is_stored(tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "m.gguf", File(kind="Q8_0", tied=True))
    with open_checkpoint(tmp_path, quantised=True) as source:
        names = [run.name for run in source.stored]
    assert "tok_embeddings.weight" in names
    assert "output.weight" not in names


@pytest.mark.parametrize("kind", QUANTISED)
def test_every_quantised_type_is_read_as_gguf_reads_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.gguf"
    expected = gguf_files.write(path, File(kind=kind))
    with pytest.raises(IntegrityError, match="quantised") as refused:
        open_checkpoint(path)
    assert "--dequantize" in refused.value.hint
    assert_same(path, expected, dequantize=True)
    with open_checkpoint(path, dequantize=True) as source:
        assert source.dequantised == {kind: 16}
        assert source.dtype == "float32"


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    wide = np.zeros((256, gguf.quants.quant_shape_to_byte_shape((256, 256), 20)[-1]), np.uint8)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", wide, raw_dtype=gguf.GGMLQuantizationType.IQ4_NL)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(IntegrityError, match="IQ4_NL") as refused:
        read_header(path)
    assert "Q4_K_M" in refused.value.hint


# ------------------------------------------------------------------ parts


SPLIT = File(split=8)


def parts_of(folder: Path, wanted: File = SPLIT) -> list[Path]:
    gguf_files.write(folder / "m.gguf", wanted)
    return sorted(folder.glob("m-*.gguf"))


def test_a_split_model_is_read_from_its_folder_and_from_any_part(tmp_path: Path) -> None:
    expected = gguf_files.write(tmp_path / "m.gguf", File(split=8))
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) == 3
    for path in (tmp_path, *parts):
        assert_same(path, expected)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    parts[1].unlink()
    with pytest.raises(NotFoundError, match="m-00002-of-00003"):
        open_gguf(parts[0])


def test_parts_of_different_models_do_not_mix(tmp_path: Path) -> None:
    parts = parts_of(tmp_path / "a")
    others = parts_of(tmp_path / "b", File(recipe=replace(WIDE, n_layers=3), split=10))
    assert len(others) == len(parts) == 3
    others[2].replace(parts[2])
    with pytest.raises(IntegrityError, match="another part|tensors, not the"):
        open_gguf(parts[0])


def test_a_part_under_another_s_name_is_refused(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(IntegrityError, match=r"split\.no"):
        open_gguf(parts[0])


def test_a_renamed_part_is_refused(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    parts[0].rename(tmp_path / "other.gguf")
    with pytest.raises(IntegrityError, match=r"one of 3 parts"):
        open_gguf(tmp_path / "other.gguf")


@pytest.mark.parametrize("count", [0, 1 << 15])
def test_an_impossible_number_of_parts_is_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "m.gguf"
    gguf_files.write(path, File(keys={"split.count": count}))
    with pytest.raises(IntegrityError, match=r"split\.count"):
        open_gguf(path)


def test_a_later_part_cannot_change_the_function(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    data = parts[1].read_bytes()
    key = b"llama.rope.freq_base"
    pair = len(key).to_bytes(8, "little") + key + (6).to_bytes(4, "little") + b"\0\0\x80\x3f"
    count = int.from_bytes(data[16:24], "little") + 1
    # The tensors move by the pair's length, which is no multiple of the alignment: pad the key.
    parts[1].write_bytes(data[:16] + count.to_bytes(8, "little") + pair + data[24:] + bytes(32))
    with pytest.raises(IntegrityError, match=r"llama\.rope\.freq_base"):
        open_gguf(parts[0])


@pytest.mark.parametrize("alignment", [64, 256])
def test_parts_that_are_aligned_as_only_the_first_says(tmp_path: Path, alignment: int) -> None:
    expected = gguf_files.write(tmp_path / "m.gguf", File(split=5, alignment=alignment))
    assert_same(tmp_path, expected)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K"])
def test_a_scale_that_is_no_number_is_refused_by_the_tensor_s_name(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "m.gguf"
    gguf_files.write(path, File(kind=kind))
    at = read_header(path).tensors["blk.1.ffn_up.weight"].offset
    data = bytearray(path.read_bytes())
    data[at : at + 2] = b"\x00\x7c"  # infinite
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"layers\.1\.feed_forward\.w3"):
        convert(path, tmp_path / "hf", to="hf", license="other-open", dequantize=True)


def test_two_models_in_a_folder_must_be_told_apart(tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "a.gguf")
    expected = gguf_files.write(tmp_path / "b.gguf", File(recipe=replace(WIDE, seed=1)))
    with pytest.raises(NotFoundError, match=r"a\.gguf, b\.gguf"):
        open_checkpoint(tmp_path)
    assert_same(tmp_path / "b.gguf", expected)
