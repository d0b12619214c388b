"""The published page in a real browser: Debian's Chromium, driven by Playwright."""

import json
import os
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dualpath
from dualpath.data.manifest import read_manifest
from dualpath.data.tokenizer import Tokenizer
from tests.search_page import check_keyboard

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = "/usr/bin/chromium"
NOT_BUSY = "() => !document.body.classList.contains('busy')"
EXACT = "() => document.documentElement.dataset.vectors === 'exact'"
TIE = 2e-5  # of cosines
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(CHROMIUM).exists(),
        reason="no Chromium at /usr/bin/chromium (apt install chromium)",
    ),
]


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


def is_error(message: Any) -> bool:
    """Return whether a console message is an error, except a note of ONNX Runtime on the CPU."""
    return message.type == "error" and "Unknown CPU vendor" not in message.text


@pytest.fixture
def page(browser: "Browser", site_url: str) -> "Iterator[Page]":
    """A page without errors, whose requests go to its own folder and contain no words."""
    page = browser.new_page(base_url=site_url, viewport={"width": 1280, "height": 800})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if is_error(m) else None)
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    yield page
    assert problems == []
    assert all(url.startswith(site_url) for url in urls), urls
    with_words = [url for url in urls if "?" in url and not url.startswith(f"{site_url}?")]
    assert with_words == []
    page.close()


def open_page(page: "Page", address: str = "./") -> None:
    page.goto(address)
    page.wait_for_function(EXACT)


def shown_ids(page: "Page") -> list[str]:
    ids: list[str] = page.locator("#results button").evaluate_all(
        "all => all.map(button => button.dataset.id)"
    )
    return ids


SEARCH = """async ([queries, top]) => {
  const { api } = await import("./assets/api.js");
  const results = [];
  for (const q of queries) {
    results.push((await api(`/search?${new URLSearchParams({ q, top })}`)).hits);
  }
  return results;
}"""


def assert_same_ranking(found: list[dict[str, Any]], expected: list[dualpath.Hit]) -> None:
    """Compare ids and scores; images whose scores tie may be in any order."""
    assert len(found) == len(expected)
    for hit, other in zip(found, expected, strict=True):
        assert hit["score"] == pytest.approx(other.score, abs=TIE)
    scores = {hit["id"].partition("-")[0]: hit["score"] for hit in found}
    for other in expected:
        score = scores.get(other.image.content[:16], found[-1]["score"])
        assert score == pytest.approx(other.score, abs=TIE)


def test_the_ten_nearest_images_of_200_queries_are_those_of_python(
    page: "Page", gallery_folder: Path, shapes: Path
) -> None:
    captions = list(read_manifest(shapes).images.captions)
    queries = random.Random(0).sample(captions, 190)
    queries += [
        "",
        "x",
        "A DOG",
        "red",
        "ÉTOILE rouge",
        "red-star",
        "星",
        "🔴 circle",
        "a\tb",
        "1 2",
    ]
    open_page(page)
    found = page.evaluate(SEARCH, [queries, 10])
    with dualpath.Gallery.open(gallery_folder) as gallery:
        for query, hits in zip(queries, found, strict=True):
            assert_same_ranking(hits, gallery.search(query, top=10))


def test_words_find_images_and_the_address_repeats_the_search(page: "Page") -> None:
    open_page(page)
    page.get_by_role("heading", name="Search 100 images").wait_for()
    page.fill("#words", "a red star")
    page.press("#words", "Enter")
    page.wait_for_selector("#results li")
    assert "30 of 100 images, best first" in page.inner_text("#status")
    ids, address = shown_ids(page), page.url
    assert address.endswith("/some/path/?q=a+red+star")
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("#results li")
    page.wait_for_function("() => document.querySelector('#results img').naturalWidth > 0")
    assert page.input_value("#words") == "a red star"
    assert len(shown_ids(page)) == len(ids) == 30
    page.click("#more")
    page.wait_for_function("() => document.querySelectorAll('#results li').length == 60")
    page.click("#home")
    page.get_by_role("heading", name="Search 100 images").wait_for()
    assert page.url.endswith("/some/path/")


def test_filters_limit_the_results(page: "Page", gallery_folder: Path) -> None:
    open_page(page, "./?q=a+red+star")
    page.locator("[data-filter='kind:count']").click()
    page.wait_for_selector("[data-filter='kind:count'][aria-pressed=true]")
    page.wait_for_function(NOT_BUSY)
    with dualpath.Gallery.open(gallery_folder) as gallery:
        expected = gallery.search("a red star", top=30, where="kind = 'count'")
    assert sorted(shown_ids(page)) == sorted(hit.image.content[:16] for hit in expected)
    assert "f=kind%3Acount" in page.url
    page.goto("./?q=x&f=kind:none")
    page.wait_for_selector("#message >> text=No image fits these filters")


def test_an_image_shows_its_captions_and_finds_similar_images(
    page: "Page", gallery_folder: Path
) -> None:
    open_page(page, "./?q=a+red+star")
    page.locator("#results button").nth(2).click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    id_ = page.url.partition("item=")[2]
    with dualpath.Gallery.open(gallery_folder) as gallery:
        image = next(
            hit.image for hit in gallery.search("star", top=100) if hit.image.content[:16] == id_
        )
        similar = [hit.image.content[:16] for hit in gallery.similar(image.id, top=5)]
    assert image.captions[0] in dialog.inner_text()
    assert image.metadata["kind"] in page.inner_text("#detail-metadata")
    page.reload()
    dialog.wait_for()
    page.get_by_role("button", name="More like this").click()
    page.wait_for_url("**similar=*")
    page.wait_for_selector("#results li")
    page.wait_for_function(NOT_BUSY)
    assert set(shown_ids(page)[:3]) <= set(similar)
    assert id_ not in shown_ids(page)


def test_the_page_works_with_the_keyboard(page: "Page") -> None:
    open_page(page)
    check_keyboard(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_accessibility_problem(page: "Page", scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    # axe itself is added to the page as a script, which the policy of the page would refuse.
    for width, address in ((1280, "./"), (1280, "./?q=a+red+star"), (390, "./?q=a+red+star")):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(address)
        page.wait_for_selector("#results li, #message:visible")
        found = axe.run(page).response["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
    page.locator("#results button").first.click()
    page.get_by_role("dialog").wait_for()
    found = axe.run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_the_page_fits_the_width_of_a_phone(page: "Page") -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    open_page(page, "./?q=a+red+star")
    page.wait_for_selector("#results li")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_policy_of_the_page_refuses_other_servers_and_inline_scripts(
    browser: "Browser", site_url: str
) -> None:
    page = browser.new_page()
    page.goto(site_url)
    blocked = page.evaluate(
        """async () => {
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
          const fetched = await fetch("http://127.0.0.1:1/").then(() => true, () => false);
          return [window.ran === undefined, !fetched];
        }"""
    )
    assert blocked == [True, True]
    policy = page.locator("meta[http-equiv]").get_attribute("content") or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy.replace("'wasm-unsafe-eval'", "")
    page.close()


def test_a_file_that_is_missing_becomes_a_message(browser: "Browser", site_url: str) -> None:
    page = browser.new_page()
    page.route("**/vectors.bin", lambda route: route.fulfill(status=404))
    page.goto(f"{site_url}?q=star")
    page.wait_for_selector("#message >> text=vectors.bin cannot be loaded (status 404)")
    page.close()


# ---- the tokenizer ------------------------------------------------------------------------------
WORDS = ["a", "dog", "don't", "été", "собака", "犬", "🐕", "σας", "i̇", "ﬁ", "हिन्दी", "1", "Dog"]
SKIPPED = ("Cs", "Cn", "Co")
# Assigned code points, because both libraries know them; without lone surrogates.
SIGNS = st.characters(exclude_categories=SKIPPED)
SEPARATORS = st.text(" -.,()?'\t\u00a0\u3000\u200b", max_size=3)
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(SIGNS, max_size=12) | SEPARATORS).map("".join)
# Lists of 50 strings each. 200 lists, 10,000 strings, take a minute: set this variable.
LISTS = int(os.environ.get("DUALPATH_TOKENIZER_LISTS", "20"))
ENCODE = """async ([settings, file, texts]) => {
  const { createTokenizer } = await import("./assets/tokenizer.js");
  const encode = createTokenizer(settings, file);
  return texts.map(encode);
}"""


@pytest.mark.parametrize(("mode", "marks"), [("modern", True), ("paper", True), ("paper", False)])
def test_the_tokenizer_of_the_page_gives_the_ids_of_python(
    page: "Page", mode: Any, marks: bool, tmp_path: Path
) -> None:
    tokenizer = Tokenizer(WORDS, mode, max_words=12, split_question_marks=marks)
    tokenizer.save(tmp_path / "tokenizer.json")
    file = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    page.goto("./")

    @settings(max_examples=LISTS, database=None, deadline=None, derandomize=True)
    @given(st.lists(TEXTS, min_size=50, max_size=50))
    def check(sentences: list[str]) -> None:
        found = page.evaluate(ENCODE, [{"mode": mode, "max_words": 12}, file, sentences])
        for sentence, row, ids in zip(sentences, tokenizer.encode(sentences), found, strict=True):
            assert ids == row[row != 0].tolist(), repr(sentence)

    check()


@pytest.mark.parametrize(("mode", "marks"), [("modern", True), ("paper", True), ("paper", False)])
def test_the_tokenizer_of_the_page_splits_at_the_same_characters(
    page: "Page", mode: Any, marks: bool, tmp_path: Path
) -> None:
    tokenizer = Tokenizer(["a", "b", "ab"], mode, max_words=4, split_question_marks=marks)
    tokenizer.save(tmp_path / "tokenizer.json")
    file = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    signs = [
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in SKIPPED
    ]
    sentences = [f"a{sign}b" for sign in signs]
    page.goto("./")
    found = page.evaluate(ENCODE, [{"mode": mode, "max_words": 4}, file, sentences])
    rows = tokenizer.encode(sentences)
    different = [
        f"U+{ord(sign):04X}"
        for sign, row, ids in zip(signs, rows, found, strict=True)
        if ids != row[row != 0].tolist()
    ]
    assert different == []
