// The page: what is searched for stands in the address, so that it can be shared and gone back to.
const $ = (id) => document.getElementById(id);
const PAGE = 30, MOST = 500, LIKELY = 0.5;
let about = null, image = null, imageUrl = null, top_ = PAGE, running = null, shown = [];

// ---- state: ?q=words&similar=id&f=field:value&likely=1&item=id ------------------------------
function state() {
  const p = new URLSearchParams(location.search);
  return { q: p.get("q") ?? "", similar: p.get("similar"), item: p.get("item"), likely: p.has("likely"), chosen: p.getAll("f") };
}

function go(changes, { replace = false } = {}) {
  const s = { ...state(), ...changes }, p = new URLSearchParams();
  if (s.q) p.set("q", s.q);
  if (s.similar) p.set("similar", s.similar);
  for (const f of s.chosen) p.append("f", f);
  if (s.likely) p.set("likely", "1");
  if (s.item) p.set("item", s.item);
  const url = p.size ? `/?${p}` : "/";
  history[replace ? "replaceState" : "pushState"](null, "", url);
}

// ---- the API --------------------------------------------------------------------------------
class Refused extends Error {}

async function api(path, options = {}) {
  let answer;
  try {
    answer = await fetch(`/v1${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is it still running?");
  }
  if (answer.status === 401) { askForKey(); throw new Refused("An API key is needed."); }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Refused(told.detail ?? `The server answered ${answer.status}.`);
  }
  return answer.status === 204 ? null : answer.json();
}

function where(chosen) {
  const byField = new Map();
  for (const f of chosen) {
    const cut = f.indexOf(":"), name = f.slice(0, cut), value = f.slice(cut + 1);
    const kind = about?.fields[name];
    if (!kind) continue;
    const literal = kind === "text" ? `'${value.replaceAll("'", "''")}'` : value;
    byField.set(name, [...(byField.get(name) ?? []), literal]);
  }
  return [...byField].map(([name, v]) => `"${name.replaceAll('"', '""')}" in (${v.join(", ")})`).join(" and ");
}

async function run({ keepTop = false, keepWords = false } = {}) {
  running?.abort();
  running = new AbortController();
  if (!keepTop) top_ = PAGE;
  const s = state(), signal = running.signal, options = new URLSearchParams({ top: top_ });
  const filter = where(s.chosen);
  if (filter) options.set("where", filter);
  if (!keepWords) $("words").value = s.q;
  drawFilters(s);
  showImage(s);
  document.title = s.q ? `${s.q} · DualPath` : "Search images";
  if (!about) return;
  if (!image && !s.q && !s.similar) return welcome();
  document.body.classList.add("busy");
  $("status").textContent = "Searching …";
  try {
    const begun = performance.now();
    let found;
    if (image) {
      const body = new FormData();
      body.append("file", image);
      found = await api(`/search/image?${options}`, { method: "POST", body, signal });
    } else if (s.similar) {
      found = await api(`/items/${encodeURIComponent(s.similar)}/similar?${options}`, { signal });
    } else {
      options.set("q", s.q);
      if (s.likely && about.calibrated) options.set("min_probability", LIKELY);
      found = await api(`/search?${options}`, { signal });
    }
    draw(found, s, performance.now() - begun);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refused)) throw error;
    draw({ hits: [] }, s, 0);
    message("That did not work", error.message, [["Try again", () => run()]]);
    $("status").textContent = `Error: ${error.message}`;
  } finally {
    if (signal === running.signal) document.body.classList.remove("busy");
  }
}

// ---- drawing --------------------------------------------------------------------------------
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function message(title, text, actions = []) {
  const buttons = actions.map(([label, act]) => element("button", { type: "button", onclick: act }, label));
  $("message").replaceChildren(element("h2", {}, title), element("p", {}, text), ...buttons);
  $("message").hidden = false;
}

function fit(hit) {
  return hit.probability === null ? hit.score.toFixed(2) : `${Math.round(100 * hit.probability)} %`;
}

function spokenFit(hit) {
  return hit.probability === null ? `score ${fit(hit)}` : `${fit(hit)} likely to fit`;
}

function describe(hit) {
  return hit.captions[0] ?? hit.name;
}

function draw(found, s, milliseconds) {
  const before = shown.length;
  shown = found.hits;
  $("message").hidden = true;
  $("results").replaceChildren(...shown.map((hit, number) => {
    const aspect = Math.min(3, Math.max(0.4, hit.width / hit.height));
    const image = element("img", {
      src: `${hit.image}?size=512`, loading: number < 12 ? "eager" : "lazy", decoding: "async", alt: "",
      onerror: (event) => event.target.closest("li").classList.add("gone"),
    });
    const label = `${describe(hit)}, ${spokenFit(hit)}`;
    const item = element("li", {},
      element("button", { type: "button", "aria-label": label, "data-id": hit.id, onclick: () => open(hit.id) }, image),
      element("span", { class: "score", "aria-hidden": "true", title: `cosine ${hit.score.toFixed(3)}` }, fit(hit)));
    item.style.flex = `${aspect} 1 calc(var(--row) * ${aspect})`;
    item.style.maxWidth = `calc(var(--row) * ${aspect} * 1.8)`;
    return item;
  }));
  const few = shown.length === 0;
  $("more").hidden = shown.length < top_ || top_ >= MOST || shown.length === before && before > PAGE;
  $("status").textContent = few ? "No images." :
    `${shown.length} of ${found.total.toLocaleString("en")} images, best first, in ${Math.round(milliseconds)} ms` +
    (shown[0].probability !== null && shown[0].probability < LIKELY ? ". Perhaps none of them fits: even the best is unlikely." : "");
  if (few && s.likely && s.q && !s.chosen.length && found.total) {
    return message("Nothing here is likely to fit these words", "There may be no such image in the gallery. The nearest ones can still be looked at.",
      [["Show the nearest", () => { go({ likely: false }); run(); }]]);
  }
  if (few && found.total !== undefined) {
    message("No image fits these filters", "Every image has a score for any words, so it is the filters that leave none.",
      s.chosen.length ? [["Remove the filters", () => { go({ chosen: [] }); run(); }]] : []);
  }
}

function welcome() {
  shown = [];
  $("results").replaceChildren();
  $("more").hidden = true;
  $("status").textContent = "";
  if (about.images === 0) {
    return message("The gallery is empty", "Index a folder of images with: dualpath gallery add GALLERY FOLDER");
  }
  message(`Search ${about.images.toLocaleString("en")} images`,
    "Say what the image shows, or drop, paste or choose an image to find similar ones. Press / to begin.");
}

function likelyChip({ q, likely }) {
  if (!about?.calibrated || !q) return [];
  return [element("fieldset", {}, element("legend", {}, "match"), element("button", {
    type: "button", class: "chip", "aria-pressed": String(likely), "data-filter": "likely",
    title: "Leave out images that are less likely than not to fit the words",
    onclick: () => { go({ likely: !likely }); run().then(() => document.querySelector("[data-filter=likely]")?.focus()); },
  }, "likely only"))];
}

function drawFilters(s) {
  const { chosen } = s;
  const groups = (about?.facets ?? []).map((facet) => element("fieldset", {},
    element("legend", {}, facet.name),
    ...facet.values.map(({ value, count }) => {
      const f = `${facet.name}:${value}`, on = chosen.includes(f);
      return element("button", {
        type: "button", class: "chip", "aria-pressed": String(on), "data-filter": f,
        onclick: () => {
          const { chosen } = state();
          go({ chosen: on ? chosen.filter((one) => one !== f) : [...chosen, f] });
          run().then(() => document.querySelector(`[data-filter="${CSS.escape(f)}"]`)?.focus());
        },
      }, String(value), " ", element("small", {}, count.toLocaleString("en")));
    })));
  $("filters").replaceChildren(...likelyChip(s), ...groups);
}

function showImage(s) {
  const source = imageUrl ?? (s.similar ? `/v1/items/${s.similar}/image?size=128` : null);
  $("query-image").hidden = $("clear-image").hidden = !source;
  if (source) $("query-image").src = source;
  else $("query-image").removeAttribute("src");
}

// ---- one image ----------------------------------------------------------------------------
function open(id) { go({ item: id }); detail(); }

async function detail() {
  const { item } = state(), dialog = $("detail");
  if (!item) { if (dialog.open) dialog.close(); return; }
  let told;
  try {
    told = await api(`/items/${encodeURIComponent(item)}`);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    go({ item: null }, { replace: true });
    $("status").textContent = `Error: ${error.message}`;
    return;
  }
  $("detail-title").textContent = told.name;
  $("detail-image").src = `${told.image}?size=1600`;
  $("detail-image").alt = describe(told);
  $("detail-captions").replaceChildren(...told.captions.map((caption) => element("li", {}, caption)));
  $("detail-metadata").replaceChildren(...Object.entries({ ...told.metadata, size: `${told.width} × ${told.height}` })
    .flatMap(([name, value]) => [element("dt", {}, name),
      element("dd", {}, Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value))]));
  $("similar").onclick = () => { forgetImage(); go({ item: null, q: "", similar: told.id }); dialog.close(); run(); };
  if (!dialog.open) dialog.showModal();
}

$("close").onclick = () => $("detail").close();
$("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
$("detail").addEventListener("close", () => {
  const { item } = state();
  if (item) go({ item: null });
  document.querySelector(`[data-id="${item}"]`)?.focus();
});

// ---- words and images in ------------------------------------------------------------------
function forgetImage() {
  if (imageUrl) URL.revokeObjectURL(imageUrl);
  image = imageUrl = null;
}

function searchWith(file) {
  if (!file) return;
  forgetImage();
  image = file;
  imageUrl = URL.createObjectURL(file);
  go({ q: "", similar: null, item: null });
  run();
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  forgetImage();
  go({ q: $("words").value.trim(), similar: null, item: null });
  run();
});
$("home").addEventListener("click", (event) => {
  event.preventDefault();
  forgetImage();
  go({ q: "", similar: null, item: null, chosen: [] });
  run();
});
$("clear-image").onclick = () => { forgetImage(); go({ similar: null }); run(); $("words").focus(); };
$("pick").onclick = () => $("file").click();
$("file").onchange = () => { searchWith($("file").files[0]); $("file").value = ""; };
$("more").onclick = () => {
  const last = shown.at(-1)?.id;
  top_ = Math.min(MOST, top_ * 2);
  run({ keepTop: true }).then(() => document.querySelector(`[data-id="${last}"]`)?.focus());
};
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) { event.preventDefault(); searchWith(file); }
});
document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  searchWith(event.dataTransfer.files[0]);
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
    const all = [...$("results").querySelectorAll("button")];
    all[all.indexOf(event.target) + step]?.focus();
  }
});
addEventListener("popstate", () => { forgetImage(); run(); detail(); });

// ---- a key, where one is needed -------------------------------------------------------------
function askForKey() { if (!$("door").open) $("door").showModal(); }

$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/v1/session", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key: $("key").value }),
  });
  $("key-problem").textContent = answer.ok ? "" : answer.status === 429 ? "Too many tries; wait a minute." : "This key does not fit.";
  if (answer.ok) { $("key").value = ""; $("door").close(); begin(); }
});

async function begin() {
  try {
    about = await api("/about");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return message("The gallery cannot be searched", error.message, [["Try again", begin]]);
  }
  await run({ keepWords: !state().q }); // somebody may be typing already
  await detail();
}
begin();
