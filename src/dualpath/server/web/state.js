// The state of the page is in its address: ?q=words&similar=id&f=field:value&likely=1&item=id
// So a search can be bookmarked and shared, and the browser's back button works.
export function readState() {
  const p = new URLSearchParams(location.search);
  return { q: p.get("q") ?? "", similar: p.get("similar"), item: p.get("item"), likely: p.has("likely"), selected: p.getAll("f") };
}

export function changeState(changes, { replace = false } = {}) {
  const s = { ...readState(), ...changes }, p = new URLSearchParams();
  if (s.q) p.set("q", s.q);
  if (s.similar) p.set("similar", s.similar);
  for (const f of s.selected) p.append("f", f);
  if (s.likely) p.set("likely", "1");
  if (s.item) p.set("item", s.item);
  const url = p.size ? `?${p}` : location.pathname;
  history[replace ? "replaceState" : "pushState"](null, "", url);
}
