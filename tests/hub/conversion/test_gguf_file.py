"""One GGUF file by its name: as the destination, as the source, and with nothing beside it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from llama_hub.errors import IntegrityError, NotFoundError, UsageError
from llama_hub.hub import gguf_file
from llama_hub.hub.checkpoints import gguf_types
from llama_hub.hub.conversion.convert import Conversion, convert, into_store, served
from llama_hub.hub.conversion.plan import ConversionRequest
from llama_hub.hub.manifest import Format
from llama_hub.hub.store import Store
from llama_hub.hub.verify import verify
from tests.support import foreign, gguf_files
from tests.support.gguf_files import File
from tests.support.make_checkpoint import TINY, make_checkpoint

LICENSE = "llama-hub-demo"
RECIPE = replace(TINY, dim=256, ffn_dim=512)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("source") / "acme-chat", RECIPE)


def to_file(source: Path, destination: Path, **options: object) -> Conversion:
    return convert(source, destination, to="gguf", license=LICENSE, **options)  # type: ignore[arg-type]


def test_the_file_gets_its_name_and_the_licence_lies_beside_it(
    source: Path, tmp_path: Path
) -> None:
    made = to_file(source, tmp_path / "new" / "m.gguf", dtype="q4_K_m", verify=True)
    assert made.path == tmp_path / "new" / "m.gguf"
    names = ["LICENSE", "NOTICE", "USE_POLICY.md", "m.gguf", "m.llama-hub.json"]
    assert foreign.names(tmp_path / "new") == names
    assert (tmp_path / "new/LICENSE").read_bytes() == (source / "LICENSE").read_bytes()
    assert made.lacks == ()
    fields = gguf.GGUFReader(made.path).fields
    assert fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert made.manifest == gguf_file.recorded(made.path)
    assert verify(made.path, deep=True).ok


def test_what_others_have_beside_it_stays_theirs(source: Path, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("MIT\n")
    (tmp_path / "README.md").write_text("mine\n")
    before = foreign.tree(tmp_path)
    first = to_file(source, tmp_path / "a.gguf")
    second = to_file(source, tmp_path / "b.gguf", dtype="Q8_0")
    after = foreign.tree(tmp_path)
    assert {name: after[name] for name in before} == before
    assert (tmp_path / "a.LICENSE").read_bytes() == (source / "LICENSE").read_bytes()
    assert (tmp_path / "b.LICENSE").is_file()
    for made in (first, second):
        assert verify(made.path).ok


def test_the_same_licence_is_not_written_again(source: Path, tmp_path: Path) -> None:
    first = to_file(source, tmp_path / "a.gguf")
    before = foreign.tree(tmp_path)
    second = to_file(source, tmp_path / "b.gguf", dtype="Q8_0")
    after = foreign.tree(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"b.gguf", "b.llama-hub.json"}
    for made in (first, second):
        assert verify(made.path).ok


def test_a_split_file_is_named_after_the_destination(source: Path, tmp_path: Path) -> None:
    made = to_file(source, tmp_path / "m.gguf", split_max_size=1_000_000)
    parts = sorted(path.name for path in tmp_path.glob("*.gguf"))
    assert made.path.name == parts[0] == f"m-00001-of-{len(parts):05d}.gguf"
    assert len(parts) > 1
    for part in (tmp_path / parts[0], tmp_path / parts[-1]):
        assert verify(part).ok
    (tmp_path / parts[-1]).write_bytes(b"")
    assert [check.path for check in verify(made.path).damaged] == [parts[-1]]
    with pytest.raises(UsageError, match="there already"):
        to_file(source, tmp_path / "m.gguf")


def test_a_file_that_is_there_is_not_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("precious")
    with pytest.raises(UsageError, match="there already"):
        to_file(source, tmp_path / "m.gguf")
    assert foreign.names(tmp_path) == ["m.gguf"]


def test_a_folder_s_format_does_not_go_into_a_file(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--to is hf"):
        convert(source, tmp_path / "m.gguf", to="hf", license=LICENSE)


def test_an_edited_manifest_is_noticed(source: Path, tmp_path: Path) -> None:
    made = to_file(source, tmp_path / "m.gguf")
    path = gguf_file.manifest_path(made.path)
    path.write_text(path.read_text().replace(LICENSE, "other-open"))
    with pytest.raises(IntegrityError, match="edited"):
        verify(made.path)


def test_a_damaged_file_is_noticed(source: Path, tmp_path: Path) -> None:
    made = to_file(source, tmp_path / "m.gguf")
    foreign.damage(tmp_path, "m.gguf")
    found = verify(made.path)
    assert [check.path for check in found.damaged] == ["m.gguf"]


# ------------------------------------------------------------------ as a source


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("llama-2-7b-chat.Q4_K_M.gguf", "llama-2-7b-chat"),
        ("llama-2-7b-q4_0.gguf", "llama-2-7b"),
        ("m-Q8_0-00002-of-00003.gguf", "m"),
        ("vicuna-13b-v1.5.gguf", "vicuna-13b-v1.5"),
        ("Q8_0.gguf", "Q8_0"),
    ],
)
def test_the_model_is_called_like_its_file_without_type_and_part(file: str, name: str) -> None:
    assert gguf_types.model_name(Path(file)) == name


def test_the_way_back_gives_the_same_tensors(source: Path, tmp_path: Path) -> None:
    made = to_file(source, tmp_path / "m.gguf")
    back = convert(made.path, tmp_path / "back", to="meta", verify=True)
    straight = convert(source, tmp_path / "straight", to="meta", license=LICENSE)
    assert made.manifest is not None
    assert back.manifest is not None
    assert straight.manifest is not None
    assert back.manifest.tensors == straight.manifest.tensors
    assert back.manifest.parent == made.manifest.digest
    assert back.manifest.license == LICENSE
    assert (tmp_path / "back/LICENSE").read_bytes() == (source / "LICENSE").read_bytes()


def test_a_lone_file_is_described_by_its_bytes(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "acme-chat.Q8_0.gguf"
    shutil.copyfile(to_file(source, tmp_path / "x" / "m.gguf", dtype="Q8_0").path, path)
    shutil.rmtree(tmp_path / "x")
    found = Store().find(str(path))
    assert found.manifest.license == LICENSE  # as the file's own key says
    assert found.manifest.model == "acme-chat"
    assert found.id.startswith("acme-chat-")  # never the place of another model
    assert [entry.path for entry in found.manifest.files] == [path.name]
    assert verify(path).ok
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert Store().find(str(path)).manifest.digest != found.manifest.digest


def test_a_stranger_s_file_has_the_strictest_licence(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "free.gguf"
    gguf_files.write(path, File(keys={"general.license": "mit"}))
    assert Store().find(str(path)).manifest.license == "llama-2-community"


def test_a_lone_quantised_file_is_unpacked_once_for_serving(
    home: Path, source: Path, tmp_path: Path
) -> None:
    path = to_file(source, tmp_path / "m.gguf", dtype="Q4_K_M").path
    shutil.copyfile(source / "tokenizer.model", tmp_path / "tokenizer.model")
    store = Store()
    made = served(store, str(path))
    assert made.manifest.format == "hf"
    assert made.manifest.made_by["dequantized"] == {"Q4_K": 13, "Q6_K": 3}
    assert made.manifest.made_by["parameters"]["dtype"] == "float16"
    assert made.manifest.parent == store.find(str(path)).manifest.digest
    inode = (made.path / "config.json").stat().st_ino
    assert (served(store, str(path)).path / "config.json").stat().st_ino == inode


def test_a_file_that_is_not_what_its_manifest_says_is_not_served(
    home: Path, source: Path, tmp_path: Path
) -> None:
    path = to_file(source, tmp_path / "m.gguf").path
    foreign.damage(tmp_path, "m.gguf")
    with pytest.raises(IntegrityError, match="not what its manifest says"):
        into_store(Store(), Store().find(str(path)), to="hf")


def test_a_file_that_is_replaced_meanwhile_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_hub.hub.conversion import run

    path = to_file(source, tmp_path / "m.gguf").path
    gguf_file.manifest_path(path).unlink()
    describe = run._describe

    def replaced(*given: object) -> object:
        foreign.damage(tmp_path, "m.gguf")
        return describe(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "_describe", replaced)
    with pytest.raises(IntegrityError, match="was changed"):
        convert(path, tmp_path / "out", to="meta", license=LICENSE)


def test_a_missing_part_of_a_lone_file_is_exit_6(tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "m.gguf", File(split=8))
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    with pytest.raises(NotFoundError, match="m-00003-of-00003"):
        Store().find(str(tmp_path / "m-00001-of-00003.gguf"))


def test_a_tied_output_stays_tied(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    expected = gguf_files.write(tmp_path / "m.gguf", File(tied=True))
    made = convert(tmp_path / "m.gguf", tmp_path / "hf", to="hf", license="other-open", verify=True)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["tie_word_embeddings"] is True
    (weights,) = (tmp_path / "hf").glob("*.safetensors")
    found = load_file(weights)
    assert "lm_head.weight" not in found
    table = expected["tok_embeddings.weight"].astype(np.float16)
    assert np.array_equal(found["model.embed_tokens.weight"], table)
    back = convert(tmp_path / "hf", tmp_path / "back.gguf", to="gguf", verify=True)
    names = [tensor.name for tensor in gguf.GGUFReader(back.path).tensors]
    assert "output.weight" not in names
    untied = convert(back.path, tmp_path / "meta", to="meta", verify=True)
    assert made.manifest is not None
    assert back.manifest is not None
    assert untied.manifest is not None
    assert made.manifest.tensors == back.manifest.tensors == untied.manifest.tensors
    assert "output.weight" in {tensor.name for tensor in made.manifest.tensors}
    for path in (tmp_path / "hf", back.path, tmp_path / "meta"):
        assert verify(path, deep=True).ok


@pytest.mark.parametrize("name", ["Q4_K_M", "Q8_0"])
def test_a_tied_embedding_is_quantised_as_the_output_is(tmp_path: Path, name: str) -> None:
    gguf_files.write(tmp_path / "m.gguf", File(tied=True))
    made = convert(
        tmp_path / "m.gguf", tmp_path / "q.gguf", to="gguf", dtype=name, license="other-open",
        verify=True,
    )  # fmt: skip
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(made.path).tensors}
    assert kinds["token_embd.weight"] == ("Q8_0" if name == "Q8_0" else "Q6_K")
    assert "output.weight" not in kinds
    assert verify(made.path, deep=True).ok
    hf = convert(made.path, tmp_path / "hf", to="hf", dequantize=True, verify=True)
    assert json.loads((hf.path / "config.json").read_text())["tie_word_embeddings"] is True


def test_a_file_with_a_tail_of_nothing_is_not_read_for_hours(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    gguf_files.write(path)
    with path.open("r+b") as file:
        file.truncate(1 << 36)  # a hole
    with pytest.raises(IntegrityError, match="behind its tensors"):
        Store().find(str(path))


@pytest.mark.parametrize("name", ["Q4_K_M", "Q6_K", "Q5_0", "F16"])
def test_a_dry_run_tells_the_exact_size(source: Path, tmp_path: Path, name: str) -> None:
    options = {"dtype": name, "split_max_size": 400_000}
    planned = to_file(source, tmp_path / "m.gguf", dry_run=True, **options)
    assert not list(tmp_path.glob("*.gguf"))
    to_file(source, tmp_path / "m.gguf", **options)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.gguf")}
    assert dict(planned.files) == sizes
    assert len(sizes) > 1


# ------------------------------------------------------------------ the same numbers, packed


@pytest.mark.parametrize(("kind", "scheme", "bits"), [("Q4_0", "int4", 4), ("Q8_0", "int8", 8)])
def test_blocks_of_the_core_s_own_layout_keep_their_numbers(
    tmp_path: Path, kind: str, scheme: str, bits: int
) -> None:
    from safetensors.numpy import load_file

    from llama_hub.hub.conversion.quantize import unpack

    expected = gguf_files.write(tmp_path / "m.gguf", File(kind=kind))
    made = convert(
        tmp_path / "m.gguf", tmp_path / "hf", to="hf", license="other-open", dequantize=True,
        dtype="float16", quantize=scheme, group_size=32, verify=True,
    )  # fmt: skip
    assert made.verified
    assert made.errors == {}  # nothing was rounded
    (weights,) = (tmp_path / "hf").glob("*.safetensors")
    found = load_file(weights)
    for ours, theirs, heads in (
        ("mlp.down_proj", "feed_forward.w2", 0),
        ("self_attn.q_proj", "attention.wq", 4),
        ("self_attn.k_proj", "attention.wk", 2),
    ):
        stem = f"model.layers.1.{ours}.weight"
        numbers = unpack(found[f"{stem}_packed"], bits).astype(np.float32)
        scales = found[f"{stem}_scale"].astype(np.float32).repeat(32, axis=1)
        whole = expected[f"layers.1.{theirs}.weight"]
        if heads:  # in Hugging Face's row order
            whole = whole.reshape(heads, -1, 2, whole.shape[1]).swapaxes(1, 2).reshape(whole.shape)
        assert np.array_equal(numbers * scales, whole)


@pytest.mark.parametrize(("kind", "scheme"), [("Q4_0", "int4"), ("Q8_0", "int8"), ("Q4_K", None)])
def test_serving_keeps_what_the_core_can_compute_with(
    home: Path, tmp_path: Path, kind: str, scheme: str | None
) -> None:
    gguf_files.write(tmp_path / "m.gguf", File(kind=kind, keys={"llama_hub.license": LICENSE}))
    made = served(Store(), str(tmp_path / "m.gguf"), packed=True)
    assert made.manifest.quantization == scheme
    assert served(Store(), str(tmp_path / "m.gguf")).manifest.quantization is None


def test_a_scale_that_is_no_number_is_not_packed(tmp_path: Path) -> None:
    from llama_hub.hub.checkpoints.gguf import read_header

    path = tmp_path / "m.gguf"
    gguf_files.write(path, File(kind="Q8_0"))
    at = read_header(path).tensors["blk.1.ffn_up.weight"].offset
    data = bytearray(path.read_bytes())
    data[at : at + 2] = b"\x01\x7c"  # NaN
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"layers\.1\.feed_forward\.w3"):
        convert(
            path, tmp_path / "hf", to="hf", license="other-open", dequantize=True,
            dtype="float16", quantize="int8", group_size=32,
        )  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["Q3_K", "Q4_K", "Q8_0"])
def test_a_quantised_file_is_split_and_joined_as_it_is(
    tmp_path: Path, kind: str, tied: bool
) -> None:
    original = tmp_path / "m.gguf"
    keys = {"llama_hub.license": "other-open", "general.file_type": 12}
    gguf_files.write(original, File(kind=kind, tied=tied, keys=keys))
    parts = convert(
        original, tmp_path / "p.gguf", to="gguf", split_max_size=100_000, verify=True
    ).path
    assert parts.name.startswith("p-00001-of-")
    joined = convert(parts, tmp_path / "j.gguf", to="gguf", verify=True)
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(original).tensors}
    after = {tensor.name: tensor for tensor in gguf.GGUFReader(joined.path).tensors}
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].tensor_type == tensor.tensor_type
        assert np.array_equal(after[name].data, tensor.data), name
    assert gguf.GGUFReader(joined.path).fields["general.file_type"].contents() == 12
    assert joined.manifest is not None
    assert "dequantized" not in joined.manifest.made_by
    assert verify(joined.path, deep=True).ok


def test_our_own_file_comes_back_the_same(source: Path, tmp_path: Path) -> None:
    made = to_file(source, tmp_path / "m.gguf", dtype="Q4_K_M")
    parts = convert(made.path, tmp_path / "p.gguf", to="gguf", split_max_size=300_000)
    joined = convert(parts.path, tmp_path / "j.gguf", to="gguf")
    assert joined.path.read_bytes() == made.path.read_bytes()
    assert made.manifest is not None
    assert joined.manifest is not None
    assert joined.manifest.tensors == made.manifest.tensors


@pytest.mark.parametrize(
    ("to", "dtype", "quantize", "meant"),
    [
        ("gguf", "q4_k_m", None, ("Q4_K_M", None)),
        ("gguf", "Q5_k", None, ("Q5_K_M", None)),
        ("gguf", "BFLOAT16", None, ("bfloat16", None)),
        ("gguf", "f16", None, ("F16", None)),
        ("hf", "Float32", "INT8", ("float32", "int8")),
        ("meta", "BFloat16", None, ("bfloat16", None)),
    ],
)
def test_types_are_named_in_any_case(
    to: Format, dtype: str, quantize: str | None, meant: tuple[str, str | None]
) -> None:
    wanted = ConversionRequest(to, dtype, quantize)
    wanted.check()
    assert (wanted.dtype, wanted.quantize) == meant


@pytest.mark.parametrize(("to", "dtype"), [("hf", "q4_k_m"), ("gguf", "q4_k_x"), ("meta", "Q8_0")])
def test_types_of_other_formats_are_refused(to: Format, dtype: str) -> None:
    with pytest.raises(UsageError, match=dtype):
        ConversionRequest(to, dtype).check()
