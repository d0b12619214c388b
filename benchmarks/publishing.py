"""Measures a published gallery in Chromium: the first answer after opening, and later answers.

    python benchmarks/publishing.py --site site --screenshots shots

The folder is served over loopback by Python's web server, without compression. Each opening uses a
new browser context, so nothing is cached. A query is measured in the page from the call of the
search to its results: tokenizer, text encoder, comparison with every vector.
"""

import argparse
import functools
import json
import statistics
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = "/usr/bin/chromium"
EXACT = "() => document.documentElement.dataset.vectors === 'exact'"
MEASURE = """async (queries) => {
  const { api } = await import("./assets/api.js");
  const times = [];
  for (const q of queries) {
    const start = performance.now();
    await api(`/search?${new URLSearchParams({ q, top: 30 })}`);
    times.push(performance.now() - start);
  }
  return times;
}"""


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, *_: object) -> None:
        pass


def first_answer(browser: "Browser", url: str, query: str) -> float:
    """Return the seconds from opening the address of a search until its results are shown."""
    context = browser.new_context()
    page = context.new_page()
    start = time.perf_counter()
    page.goto(f"{url}?q={query}", wait_until="commit")
    page.wait_for_selector("#results li")
    seconds = time.perf_counter() - start
    context.close()
    return seconds


def screenshots(page: "Page", folder: Path, url: str, query: str) -> None:
    """Write the page at the widths of a desktop and a phone, light and dark, and one image."""
    folder.mkdir(parents=True, exist_ok=True)
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{url}?q={query}")
        page.wait_for_selector("#results li")
        page.wait_for_timeout(500)
        page.screenshot(path=folder / f"published-{width}-{scheme}.png")
    page.locator("#results button").first.click()
    page.get_by_role("dialog").wait_for()
    page.wait_for_timeout(300)
    page.screenshot(path=folder / "published-390-detail.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--site", type=Path, required=True, help="folder of gallery publish")
    parser.add_argument("--openings", type=int, default=5)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--screenshots", type=Path, help="folder of screenshots to write")
    options = parser.parse_args()
    images = json.loads((options.site / "data/images.json").read_text("utf-8"))
    captions = [caption for image in images for caption in image["captions"]] or ["a dog"]
    queries = captions[:: max(1, len(captions) // options.queries)][: options.queries]
    handler = functools.partial(QuietHandler, directory=str(options.site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        first = [first_answer(browser, url, queries[0]) for _ in range(options.openings)]
        page = browser.new_page()
        page.goto(url)
        page.wait_for_function(EXACT)
        later = page.evaluate(MEASURE, queries)
        percentile = sorted(later)[int(0.95 * len(later))]
        print(f"{len(images):,} images, {len(queries)} queries")
        print(f"first answer, s:     median {statistics.median(first):.2f}, max {max(first):.2f}")
        print(
            f"later answers, ms:   median {statistics.median(later):.1f}, p95 {percentile:.1f}, "
            f"max {max(later):.1f}"
        )
        if options.screenshots:
            screenshots(page, options.screenshots, url, queries[0])
        browser.close()
        server.shutdown()


if __name__ == "__main__":
    main()
