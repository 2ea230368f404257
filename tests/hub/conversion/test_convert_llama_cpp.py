"""llama.cpp as a judge: its greedy tokens on our GGUF are those of Meta's formulation, and its
quantiser makes of our file the very tensors that ours makes.

Optional: install the prebuilt llama.cpp of node-llama-cpp somewhere,

    npm install --ignore-scripts node-llama-cpp @node-llama-cpp/linux-x64

and name that folder in NODE_LLAMA_CPP.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece

import llama_hub.hub
from llama_hub.hub.checkpoints import gguf
from llama_hub.hub.checkpoints.gguf_types import FILE_TYPES
from llama_hub.hub.conversion.convert import convert
from tests.support.make_checkpoint import TINY, make_checkpoint
from tests.support.meta_forward import logits

FOLDER = Path(os.environ.get("NODE_LLAMA_CPP", "/nowhere"))
DEMO = Path(llama_hub.hub.__file__).parent / "sources/demo/llama-demo-chat"
PROGRAM = """
import {getLlama} from "node-llama-cpp";
const [,, modelPath, prompt, count, text] = process.argv;
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 1});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({contextSize: 256});
const out = [];
for await (const token of context.getSequence().evaluate(JSON.parse(prompt), {temperature: 0})) {
    out.push(token);
    if (out.length >= Number(count)) break;
}
console.log(JSON.stringify({out, text: model.tokenize(text), bos: model.tokens.bos}));
process.exit(0);
"""

pytestmark = pytest.mark.skipif(
    not (FOLDER / "node_modules/node-llama-cpp").is_dir(),
    reason="NODE_LLAMA_CPP names no folder with node-llama-cpp",
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("dtype", "split"), [("F32", None), ("BF16", None), ("F32", 2_000_000)])
def test_greedy_tokens_are_meta_s(tmp_path: Path, dtype: str, split: int | None) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(DEMO.parent / "tokenizer.model"))
    prompt = [1, *model.encode("[INST] Tell me a story. [/INST]")]
    sequence = list(prompt)
    for _ in range(24):
        sequence.append(int(logits(DEMO, sequence)[-1].argmax()))
    made = convert(DEMO, tmp_path / "m.gguf", to="gguf", dtype=dtype, split_max_size=split)
    path = made.path
    assert (path.name == "m.gguf") == (split is None)
    program = FOLDER / f"judge-{os.getpid()}.mjs"
    text = "Tell me  a story.\n 12 é😀"
    try:
        program.write_text(PROGRAM)
        done = subprocess.run(
            ["node", program.name, str(path), json.dumps(prompt), "24", text],
            cwd=FOLDER, capture_output=True, text=True, check=True, timeout=500,
        )  # fmt: skip
    finally:
        program.unlink()
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"out": sequence[len(prompt) :], "text": model.encode(text), "bos": 1}


# libllama is called in a process of its own. The structure's beginning has not changed for years:
# threads, file type, two tensor types, flags; what follows keeps its defaults.
QUANTISE = """
import ctypes, sys
from pathlib import Path
folder = Path(sys.argv[1])
for pattern in ("libggml-base*.so", "libggml.v*.so", "libllama.v*.so"):
    (path,) = folder.glob(pattern)
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
class Parameters(ctypes.Structure):
    _fields_ = [("threads", ctypes.c_int), ("type", ctypes.c_int), ("rest", ctypes.c_byte * 256)]
library.llama_model_quantize_default_params.restype = Parameters
parameters = library.llama_model_quantize_default_params()
parameters.threads, parameters.type = 1, int(sys.argv[4])
library.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
library.llama_model_quantize.restype = ctypes.c_uint32
given = sys.argv[2].encode(), sys.argv[3].encode()
sys.exit(library.llama_model_quantize(*given, ctypes.byref(parameters)))
"""
SHAPES = {
    "many layers": replace(TINY, dim=256, n_layers=19, ffn_dim=512, n_kv_heads=2),
    "tied": replace(TINY, dim=256, n_layers=9, ffn_dim=512),
    "odd rows": replace(TINY, dim=160, n_layers=9, ffn_dim=288),
    "as 70B": replace(TINY, dim=256, n_layers=80, n_heads=8, n_kv_heads=2, ffn_dim=256),
}


def tied(source: Path, folder: Path) -> Path:
    """The same model with its embedding as its output, in Hugging Face's layout."""
    from safetensors.torch import load_file, save_file

    convert(source, folder, to="hf", license="llama-hub-demo")
    (folder / "llama-hub.json").unlink()
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [name for name in FILE_TYPES if name not in gguf.FLOAT_TYPES])
def test_llama_cpp_makes_the_same_tensors(tmp_path: Path, shape: str, name: str) -> None:
    source = make_checkpoint(tmp_path / "in", SHAPES[shape])
    if shape == "tied":
        source = tied(source, tmp_path / "tied")
    plain = convert(source, tmp_path / "plain.gguf", to="gguf", license="llama-hub-demo").path
    ours = convert(
        source, tmp_path / "ours.gguf", to="gguf", dtype=name, license="llama-hub-demo"
    ).path
    theirs = tmp_path / "theirs.gguf"
    binaries = FOLDER / "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64"
    arguments = [str(binaries), str(plain), str(theirs), str(FILE_TYPES[name][0])]
    subprocess.run(
        [sys.executable, "-c", QUANTISE, *arguments], check=True, capture_output=True, timeout=500
    )
    expected = gguf.read_header(theirs).tensors
    found = gguf.read_header(ours).tensors
    assert {n: t.kind for n, t in found.items()} == {n: t.kind for n, t in expected.items()}
    with theirs.open("rb") as left, ours.open("rb") as right:
        for key, tensor in expected.items():
            left.seek(tensor.offset)
            right.seek(found[key].offset)
            assert left.read(tensor.size) == right.read(tensor.size), key
