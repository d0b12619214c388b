// Requests to the API. An error of a request has a message that the page can show.
export class RequestError extends Error {}

// Whether a search can start from an image that the user has.
export const SEARCHES_BY_IMAGE = true;

// The address of an image whose longer side has about `size` pixels.
export function imageUrl(id, size) { return `/v1/items/${id}/image?size=${size}`; }

export async function api(path, options = {}) {
  let response;
  try {
    response = await fetch(`/v1${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The server does not answer. Is it still running?");
  }
  if (response.status === 401) {
    document.dispatchEvent(new Event("keyrequired"));
    throw new RequestError("An API key is required.");
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new RequestError(body.detail ?? `The server answered ${response.status}.`);
  }
  return response.status === 204 ? null : response.json();
}

// Start a session with an API key. Returns the status of the response.
export async function startSession(key) {
  const response = await fetch("/v1/session", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key }),
  });
  return response.status;
}

// Write the selected values ("field:value") as a filter of the API. `fields` has the type of each field.
export function filterExpression(selected, fields) {
  const byField = new Map();
  for (const choice of selected) {
    const colon = choice.indexOf(":"), name = choice.slice(0, colon), value = choice.slice(colon + 1);
    const type = fields[name];
    if (!type) continue;
    const literal = type === "text" ? `'${value.replaceAll("'", "''")}'` : value;
    byField.set(name, [...(byField.get(name) ?? []), literal]);
  }
  return [...byField].map(([name, values]) => `"${name.replaceAll('"', '""')}" in (${values.join(", ")})`).join(" and ");
}
