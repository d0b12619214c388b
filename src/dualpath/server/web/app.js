// The search page: reads the state from the address, searches, and draws the results.
import { RequestError, SEARCHES_BY_IMAGE, api, filterExpression, imageUrl, startSession } from "./api.js";
import { changeState, readState } from "./state.js";

const $ = (id) => document.getElementById(id);
const PAGE = 30, MAX_RESULTS = 500, LIKELY = 0.5;
let gallery = null; // the response of /v1/about
let queryImage = null, queryImageUrl = null; // an image file to search with
let top_ = PAGE, request = null, hits = [];

// ---- searching --------------------------------------------------------------------------------
async function search({ keepTop = false, keepInput = false } = {}) {
  request?.abort();
  request = new AbortController();
  if (!keepTop) top_ = PAGE;
  const s = readState(), signal = request.signal;
  if (!keepInput) $("words").value = s.q;
  drawFilters(s);
  drawQueryImage(s);
  document.title = s.q ? `${s.q} · DualPath` : "Search images";
  if (!gallery) return;
  if (!queryImage && !s.q && !s.similar) return drawWelcome();
  document.body.classList.add("busy");
  $("status").textContent = "Searching …";
  try {
    const start = performance.now();
    const results = await requestHits(s, signal);
    drawResults(results, s, performance.now() - start);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof RequestError)) throw error;
    drawResults({ hits: [] }, s, 0);
    drawMessage("The search failed", error.message, [["Try again", () => search()]]);
    $("status").textContent = `Error: ${error.message}`;
  } finally {
    if (signal === request.signal) document.body.classList.remove("busy");
  }
}

function requestHits(s, signal) {
  const options = new URLSearchParams({ top: top_ });
  const filter = filterExpression(s.selected, gallery.fields);
  if (filter) options.set("where", filter);
  if (queryImage) {
    const body = new FormData();
    body.append("file", queryImage);
    return api(`/search/image?${options}`, { method: "POST", body, signal });
  }
  if (s.similar) return api(`/items/${encodeURIComponent(s.similar)}/similar?${options}`, { signal });
  options.set("q", s.q);
  if (s.likely && gallery.calibrated) options.set("min_probability", LIKELY);
  return api(`/search?${options}`, { signal });
}

// ---- drawing ----------------------------------------------------------------------------------
function element(tag, attributes = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) created.addEventListener(name.slice(2), value);
    else if (value !== null) created.setAttribute(name, value);
  }
  created.append(...children);
  return created;
}

function drawMessage(title, text, actions = []) {
  const buttons = actions.map(([label, act]) => element("button", { type: "button", onclick: act }, label));
  $("message").replaceChildren(element("h2", {}, title), element("p", {}, text), ...buttons);
  $("message").hidden = false;
}

function scoreText(hit) {
  return hit.probability === null ? hit.score.toFixed(2) : `${Math.round(100 * hit.probability)} %`;
}

function spokenScore(hit) {
  return hit.probability === null ? `score ${scoreText(hit)}` : `${scoreText(hit)} likely to fit`;
}

function describe(image) {
  return image.captions[0] ?? image.name;
}

function resultItem(hit, number) {
  const aspect = Math.min(3, Math.max(0.4, hit.width / hit.height));
  const image = element("img", {
    src: imageUrl(hit.id, 512), loading: number < 12 ? "eager" : "lazy", decoding: "async", alt: "",
    onerror: (event) => event.target.closest("li").classList.add("missing"),
  });
  const label = `${describe(hit)}, ${spokenScore(hit)}`;
  const item = element("li", {},
    element("button", { type: "button", "aria-label": label, "data-id": hit.id, onclick: () => openDetail(hit.id) }, image),
    element("span", { class: "score", "aria-hidden": "true", title: `cosine ${hit.score.toFixed(3)}` }, scoreText(hit)));
  item.style.flex = `${aspect} 1 calc(var(--row) * ${aspect})`;
  item.style.maxWidth = `calc(var(--row) * ${aspect} * 1.8)`;
  return item;
}

function drawResults(results, s, milliseconds) {
  const before = hits.length;
  hits = results.hits;
  $("message").hidden = true;
  $("results").replaceChildren(...hits.map(resultItem));
  const none = hits.length === 0;
  $("more").hidden = hits.length < top_ || top_ >= MAX_RESULTS || hits.length === before && before > PAGE;
  $("status").textContent = none ? "No images." :
    `${hits.length} of ${results.total.toLocaleString("en")} images, best first, in ${Math.round(milliseconds)} ms` +
    (hits[0].probability !== null && hits[0].probability < LIKELY ? ". Maybe no image fits: even the best one is unlikely." : "");
  if (none && s.likely && s.q && !s.selected.length && results.total) {
    return drawMessage("No image is likely to fit these words", "The gallery may have no such image. You can still see the nearest ones.",
      [["Show the nearest", () => { changeState({ likely: false }); search(); }]]);
  }
  if (none && results.total !== undefined) {
    drawMessage("No image fits these filters", "Words alone always find images, so the filters exclude all of them.",
      s.selected.length ? [["Remove the filters", () => { changeState({ selected: [] }); search(); }]] : []);
  }
}

function drawWelcome() {
  hits = [];
  $("results").replaceChildren();
  $("more").hidden = true;
  $("status").textContent = "";
  if (gallery.images === 0) {
    return drawMessage("The gallery is empty", "Index a folder of images with: dualpath gallery add GALLERY FOLDER");
  }
  drawMessage(`Search ${gallery.images.toLocaleString("en")} images`,
    SEARCHES_BY_IMAGE ? "Describe an image in words. Or drop, paste or choose an image to find similar ones. Press / to start."
      : "Describe an image in words. The search runs in your browser: no word leaves it. Press / to start.");
}

function likelyFilter({ q, likely }) {
  if (!gallery?.calibrated || !q) return [];
  return [element("fieldset", {}, element("legend", {}, "match"), element("button", {
    type: "button", class: "chip", "aria-pressed": String(likely), "data-filter": "likely",
    title: "Hide images that fit the words with a probability below 50 %",
    onclick: () => { changeState({ likely: !likely }); search().then(() => document.querySelector("[data-filter=likely]")?.focus()); },
  }, "likely only"))];
}

function drawFilters(s) {
  const groups = (gallery?.facets ?? []).map((facet) => element("fieldset", {},
    element("legend", {}, facet.name),
    ...facet.values.map(({ value, count }) => {
      const choice = `${facet.name}:${value}`, isSelected = s.selected.includes(choice);
      return element("button", {
        type: "button", class: "chip", "aria-pressed": String(isSelected), "data-filter": choice,
        onclick: () => {
          const { selected } = readState();
          changeState({ selected: isSelected ? selected.filter((other) => other !== choice) : [...selected, choice] });
          search().then(() => document.querySelector(`[data-filter="${CSS.escape(choice)}"]`)?.focus());
        },
      }, String(value), " ", element("small", {}, count.toLocaleString("en")));
    })));
  $("filters").replaceChildren(...likelyFilter(s), ...groups);
}

function drawQueryImage(s) {
  const source = queryImageUrl ?? (s.similar ? imageUrl(s.similar, 128) : null);
  $("query-image").hidden = $("clear-image").hidden = !source;
  if (source) $("query-image").src = source;
  else $("query-image").removeAttribute("src");
}

// ---- one image --------------------------------------------------------------------------------
function openDetail(id) { changeState({ item: id }); drawDetail(); }

async function drawDetail() {
  const { item } = readState(), dialog = $("detail");
  if (!item) { if (dialog.open) dialog.close(); return; }
  let image;
  try {
    image = await api(`/items/${encodeURIComponent(item)}`);
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    changeState({ item: null }, { replace: true });
    $("status").textContent = `Error: ${error.message}`;
    return;
  }
  $("detail-title").textContent = image.name;
  $("detail-image").src = imageUrl(image.id, 1600);
  $("detail-image").alt = describe(image);
  $("detail-captions").replaceChildren(...image.captions.map((caption) => element("li", {}, caption)));
  $("detail-metadata").replaceChildren(...Object.entries({ ...image.metadata, size: `${image.width} × ${image.height}` })
    .flatMap(([name, value]) => [element("dt", {}, name),
      element("dd", {}, Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value))]));
  $("similar").onclick = () => { clearQueryImage(); changeState({ item: null, q: "", similar: image.id }); dialog.close(); search(); };
  if (!dialog.open) dialog.showModal();
}

$("close").onclick = () => $("detail").close();
$("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
$("detail").addEventListener("close", () => {
  const { item } = readState();
  if (item) changeState({ item: null });
  document.querySelector(`[data-id="${item}"]`)?.focus();
});

// ---- input of words and images ------------------------------------------------------------------
function clearQueryImage() {
  if (queryImageUrl) URL.revokeObjectURL(queryImageUrl);
  queryImage = queryImageUrl = null;
}

function searchByImage(file) {
  if (!file) return;
  clearQueryImage();
  queryImage = file;
  queryImageUrl = URL.createObjectURL(file);
  changeState({ q: "", similar: null, item: null });
  search();
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearQueryImage();
  changeState({ q: $("words").value.trim(), similar: null, item: null });
  search();
});
$("home").addEventListener("click", (event) => {
  event.preventDefault();
  clearQueryImage();
  changeState({ q: "", similar: null, item: null, selected: [] });
  search();
});
$("clear-image").onclick = () => { clearQueryImage(); changeState({ similar: null }); search(); $("words").focus(); };
$("pick").hidden = !SEARCHES_BY_IMAGE;
$("pick").onclick = () => $("file").click();
$("file").onchange = () => { searchByImage($("file").files[0]); $("file").value = ""; };
$("more").onclick = () => {
  const last = hits.at(-1)?.id;
  top_ = Math.min(MAX_RESULTS, top_ * 2);
  search({ keepTop: true }).then(() => document.querySelector(`[data-id="${last}"]`)?.focus());
};
if (SEARCHES_BY_IMAGE) document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((pasted) => pasted.type.startsWith("image/"));
  if (file) { event.preventDefault(); searchByImage(file); }
});
if (SEARCHES_BY_IMAGE) document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
if (SEARCHES_BY_IMAGE) document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  searchByImage(event.dataTransfer.files[0]);
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) {
    event.preventDefault();
    $("words").focus();
    $("words").select();
  }
  if (event.key === "ArrowDown" && event.target === $("words")) $("results").querySelector("button")?.focus();
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step && event.target.dataset.id) {
    const buttons = [...$("results").querySelectorAll("button")];
    buttons[buttons.indexOf(event.target) + step]?.focus();
  }
});
addEventListener("popstate", () => { clearQueryImage(); search(); drawDetail(); });

// ---- an API key, if the server requires one -----------------------------------------------------
document.addEventListener("keyrequired", () => { if (!$("key-dialog").open) $("key-dialog").showModal(); });

$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const status = await startSession($("key").value);
  $("key-problem").textContent =
    status < 300 ? "" : status === 429 ? "Too many attempts. Wait a minute." : "This key is not valid.";
  if (status < 300) { $("key").value = ""; $("key-dialog").close(); start(); }
});

async function start() {
  try {
    gallery = await api("/about");
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    return drawMessage("The gallery cannot be searched", error.message, [["Try again", start]]);
  }
  await search({ keepInput: !readState().q }); // the user may be typing already
  await drawDetail();
}
start();
