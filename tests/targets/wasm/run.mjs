// Runs the module and prints what it prints: node run.mjs MODULE.
import { readFileSync, writeSync } from "node:fs";

let memory;
const host = {
  print: (text, len) => writeSync(1, new Uint8Array(memory.buffer, text, len)),
};
const { instance } = await WebAssembly.instantiate(readFileSync(process.argv[2]), { host });
memory = instance.exports.memory;
if (!instance.exports.has_vectors()) {
  console.error("the module has no vectors: it was built without simd128");
  process.exit(1);
}
process.exit(instance.exports.run() ? 0 : 1);
