// The text encoder: an ONNX graph in WebAssembly, in this page, with one thread (several threads
// need response headers that static hosts do not send).
import * as ort from "../runtime/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("../runtime/", import.meta.url).href;

export async function createEncoder(graph) {
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  const [input] = session.inputNames, [output] = session.outputNames;
  let last = Promise.resolve();

  async function run(ids) {
    const padded = ids.length ? ids : [0]; // an empty text is one position of padding
    const batch = new ort.Tensor("int64", BigInt64Array.from(padded, BigInt), [1, padded.length]);
    const features = (await session.run({ [input]: batch }))[output].data;
    const norm = Math.max(Math.hypot(...features), 1e-12);
    return Float32Array.from(features, (value) => value / norm);
  }

  // Returns the unit vector of a text. A session runs one text at a time.
  return (ids) => { last = last.catch(() => null).then(() => run(ids)); return last; };
}
