// What the page asks a server for, answered in the browser from the files of this folder.
import { createEncoder } from "./encoder.js";
import { createTokenizer } from "./tokenizer.js";
import { Vectors } from "./vectors.js";

export class RequestError extends Error {}
export const SEARCHES_BY_IMAGE = false;

const DATA = new URL("../data/", import.meta.url), IMAGES = new URL("../images/", import.meta.url);

async function read(name, kind) {
  let response;
  try {
    response = await fetch(new URL(name, DATA));
  } catch {
    throw new RequestError(`${name} cannot be loaded. Check the connection, and that the page is opened from a web server.`);
  }
  if (!response.ok) throw new RequestError(`${name} cannot be loaded (status ${response.status}).`);
  return response[kind]();
}

// Everything is requested at once, when the page opens.
const about = read("gallery.json", "json");
const images = read("images.json", "json");
const vectors = Promise.all([about, read("scales.bin", "arrayBuffer"), read("vectors.bin", "arrayBuffer")])
  .then(([{ dim }, scales, high]) => new Vectors(dim, new Float32Array(scales), new Int8Array(high)));
const tokenizer = Promise.all([about, read("tokenizer.json", "json")])
  .then(([{ text }, file]) => createTokenizer(text, file));
const encoder = read("text_encoder.onnx", "arrayBuffer").then(createEncoder);
const rowOf = images.then((all) => new Map(all.map((image, row) => [image.id, row])));
for (const promise of [images, vectors, tokenizer, encoder, rowOf]) promise.catch(() => null); // reported by the search

// The second 8 bits of the vectors are requested when the first search can run.
Promise.all([vectors, encoder, tokenizer]).then(async ([rows]) => {
  rows.low = new Int8Array(await read("residuals.bin", "arrayBuffer"));
  document.documentElement.dataset.vectors = "exact";
}).catch(() => null);

let imageFiles = new Map();
images.then((all) => { imageFiles = new Map(all.map((image) => [image.id, image])); }, () => null);

export function imageUrl(id, size) {
  const image = imageFiles.get(id);
  if (!image) return "";
  return new URL(size > 512 && image.original ? image.original : `${id}.webp`, IMAGES).href;
}

export async function api(path) {
  const url = new URL(path, "http://page"), parts = url.pathname.split("/").slice(1).map(decodeURIComponent);
  if (parts[0] === "about") { await images; return about; }
  if (parts[0] === "search") return search(await embed(url.searchParams.get("q")), url.searchParams, true);
  const all = await images, row = (await rowOf).get(parts[1]);
  if (row === undefined) throw new RequestError("The gallery has no such image.");
  if (parts[2] !== "similar") return all[row];
  return search((await vectors).row(row), url.searchParams, false, row);
}

async function embed(text) { return (await encoder)((await tokenizer)(text)); }

async function search(query, options, isText, excluded = null) {
  const [{ calibration, images: total }, all, rows] = await Promise.all([about, images, vectors]);
  const filters = JSON.parse(options.get("where") ?? "[]");
  const accepts = (row) => row !== excluded && filters.every(([name, values]) => {
    const value = all[row].metadata[name];
    return value !== undefined && value !== null && values.includes(String(value));
  });
  const least = Number(options.get("min_probability") ?? 0);
  const hits = rows.search(query, Number(options.get("top")), filters.length || excluded !== null ? accepts : null)
    .map(([row, score]) => ({ ...all[row], score, probability: isText ? probability(calibration, score) : null }))
    .filter((hit) => (hit.probability ?? 0) >= least || !least);
  return { hits, total };
}

function probability(calibration, score) {
  return calibration ? 1 / (1 + Math.exp(-(calibration.slope * score + calibration.intercept))) : null;
}

// The selected values ("field:value") as a filter of `search`: [[field, [value, ...]], ...].
export function filterExpression(selected, fields) {
  const byField = new Map();
  for (const choice of selected) {
    const colon = choice.indexOf(":"), name = choice.slice(0, colon), value = choice.slice(colon + 1);
    if (fields[name]) byField.set(name, [...(byField.get(name) ?? []), value]);
  }
  return byField.size ? JSON.stringify([...byField]) : "";
}

export async function startSession() { return 200; } // nobody needs a key
