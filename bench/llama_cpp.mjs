// One llama.cpp contestant of bench/inference.py, through npm's node-llama-cpp.
//   node llama_cpp.mjs MODULE_FOLDER MODEL.gguf THREADS CONTEXT
// Reads {"prompt": [ids], "tokens": n} lines; answers {"first": seconds, "rest": seconds}.
import path from "node:path";
import readline from "node:readline";
import {pathToFileURL} from "node:url";

const [folder, modelPath, threads, context] = process.argv.slice(2);
const entry = path.join(folder, "node_modules", "node-llama-cpp", "dist", "index.js");
const {getLlama} = await import(pathToFileURL(entry).href);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath});
const room = await model.createContext({
    contextSize: Number(context), batchSize: 512, threads: Number(threads), sequences: 1
});
const sequence = room.getSequence();
process.stdout.write(JSON.stringify({ready: llama.systemInfo}) + "\n");

for await (const line of readline.createInterface({input: process.stdin})) {
    const {prompt, tokens} = JSON.parse(line);
    await sequence.clearHistory();
    const begun = performance.now();
    let first = 0;
    let count = 0;
    for await (const _ of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        count += 1;
        if (count === 1)
            first = performance.now();
        if (count === tokens)
            break;
    }
    const rest = (performance.now() - first) / 1000;
    process.stdout.write(JSON.stringify({first: (first - begun) / 1000, rest, count}) + "\n");
}
