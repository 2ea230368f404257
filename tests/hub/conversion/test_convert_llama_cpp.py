"""llama.cpp as a judge: its greedy tokens on our GGUF are those of Meta's formulation.

Optional: install the prebuilt llama.cpp of node-llama-cpp somewhere,

    npm install --ignore-scripts node-llama-cpp @node-llama-cpp/linux-x64

and name that folder in NODE_LLAMA_CPP.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import sentencepiece

import llama_hub.hub
from llama_hub.hub.conversion.convert import convert
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
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_greedy_tokens_are_meta_s(tmp_path: Path, dtype: str) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(DEMO.parent / "tokenizer.model"))
    prompt = [1, *model.encode("[INST] Tell me a story. [/INST]")]
    sequence = list(prompt)
    for _ in range(24):
        sequence.append(int(logits(DEMO, sequence)[-1].argmax()))
    convert(DEMO, tmp_path / "out", to="gguf", dtype=dtype)
    (path,) = (tmp_path / "out").glob("*.gguf")
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
