"""The web page in a real browser: Debian's Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

import dualpath
from dualpath.data.manifest import read_manifest
from dualpath.server.access import KeyFile
from tests.search_page import check_keyboard
from tests.server.conftest import Server, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = "/usr/bin/chromium"
NOT_BUSY = "() => !document.body.classList.contains('busy')"
FIRST_IMAGE_LOADED = "() => [...document.querySelectorAll('#results img')][0].naturalWidth > 0"
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


@pytest.fixture
def page(browser: "Browser", server: Server) -> "Iterator[Page]":
    """A page that must not have errors and must not send requests to other servers."""
    page = browser.new_page(base_url=server.url, viewport={"width": 1280, "height": 800})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if "Content Security" in m.text else None)
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    yield page
    assert problems == []
    assert all(url.startswith((server.url, "blob:", "data:")) for url in urls), urls
    page.close()


def scores(page: "Page") -> list[float]:
    texts = page.locator("#results .score").all_inner_texts()
    return [float(text.removesuffix(" %")) for text in texts]


def shown_ids(page: "Page") -> list[str]:
    ids: list[str] = page.locator("#results button").evaluate_all(
        "all => all.map(button => button.dataset.id)"
    )
    return ids


def search(page: "Page", words: str) -> None:
    page.fill("#words", words)
    page.press("#words", "Enter")
    page.wait_for_selector("#results li")


def test_words_find_images_and_the_address_of_the_page_repeats_the_search(
    page: "Page", client: httpx.Client
) -> None:
    page.goto("/")
    heading = page.get_by_role("heading", name="Search 100 images")
    heading.wait_for()
    assert heading.is_visible()
    search(page, "a red star")
    assert len(scores(page)) == 30
    assert scores(page) == sorted(scores(page), reverse=True)
    assert "30 of 100 images, best first" in page.inner_text("#status")
    expected = client.get("/v1/search", params={"q": "a red star", "top": 30}).json()["hits"]
    assert shown_ids(page) == [hit["id"] for hit in expected]
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("#results li")
    assert page.input_value("#words") == "a red star"
    page.click("#more")
    page.wait_for_function("() => document.querySelectorAll('#results li').length == 60")
    page.wait_for_function(FIRST_IMAGE_LOADED)


def test_an_image_that_is_chosen_dropped_or_pasted_finds_itself(page: "Page", photos: Path) -> None:
    image = read_manifest(photos).images[9]
    page.goto("/")
    page.set_input_files("#file", image.path)
    page.wait_for_selector("#results li")
    assert scores(page)[0] == 1
    assert page.locator("#query-image").is_visible()
    page.click("#clear-image")
    page.wait_for_selector("#message:visible")
    for event in ("drop", "paste"):
        page.evaluate(
            """async ([kind, bytes]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], "x.png", { type: "image/png" }));
              const options = { bubbles: true, cancelable: true };
              document.getElementById("words").dispatchEvent(kind == "drop"
                ? new DragEvent("drop", { ...options, dataTransfer: data })
                : new ClipboardEvent("paste", { ...options, clipboardData: data }));
            }""",
            [event, list(image.path.read_bytes())],
        )
        page.wait_for_selector("#results li")
        assert scores(page)[0] == 1
        page.click("#home")
        page.wait_for_selector("#message:visible")


def test_a_file_that_is_not_an_image_shows_an_error(page: "Page", tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("not an image")
    page.goto("/")
    page.set_input_files("#file", tmp_path / "x.png")
    page.wait_for_selector("#message:visible >> text=not an image that can be read")
    page.get_by_role("button", name="Try again").wait_for()


def test_filters_limit_the_results_and_can_be_removed(page: "Page") -> None:
    page.goto("/?q=a+red+star")
    page.wait_for_selector("#results li")
    chip = page.locator("[data-filter='kind:count']")
    chip.click()
    page.wait_for_function(NOT_BUSY)
    page.wait_for_selector("[data-filter='kind:count'][aria-pressed=true]")
    total = int(page.locator("[data-filter='kind:count'] small").inner_text())
    page.wait_for_function(
        f"() => document.querySelectorAll('#results li').length == {min(30, total)}"
    )
    assert "f=kind%3Acount" in page.url
    page.goto("/?q=a+red+star&f=kind:count&f=count:1&f=count:2")
    page.wait_for_selector("#message:visible, #results li")
    page.goto("/?q=x&f=kind:none")
    page.wait_for_selector("#message >> text=No image fits these filters")
    page.get_by_role("button", name="Remove the filters").click()
    page.wait_for_selector("#results li")
    page.go_back()
    page.wait_for_selector("#message >> text=No image fits these filters")


def test_an_image_shows_its_captions_and_metadata_and_finds_similar_images(
    page: "Page", client: httpx.Client
) -> None:
    page.goto("/?q=a+red+star")
    page.locator("#results button").nth(2).click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    expected = client.get("/v1/search", params={"q": "a red star", "top": 3}).json()["hits"][2]
    assert expected["captions"][0] in dialog.inner_text()
    assert expected["metadata"]["kind"] in page.inner_text("#detail-metadata")
    assert f"item={expected['id']}" in page.url
    page.reload()
    dialog.wait_for()
    page.get_by_role("button", name="More like this").click()
    page.wait_for_url("**similar=*")
    page.wait_for_selector("#results li")
    similar = client.get(f"/v1/items/{expected['id']}/similar", params={"top": 30}).json()["hits"]
    page.wait_for_function(NOT_BUSY)
    assert shown_ids(page) == [hit["id"] for hit in similar]


def test_the_page_works_with_the_keyboard(page: "Page") -> None:
    page.goto("/")
    page.wait_for_selector("#message:visible")
    check_keyboard(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_accessibility_problem(page: "Page", scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    for width, address in ((1280, "/"), (1280, "/?q=a+red+star"), (390, "/?q=a+red+star")):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(address)
        page.wait_for_selector("#results li, #message:visible")
        found = axe.run(page).response["violations"]
        bad = [v["id"] for v in found if v["impact"] in ("serious", "critical")]
        assert bad == [], axe.run(page).generate_report()
    page.locator("#results button").first.click()
    page.get_by_role("dialog").wait_for()
    found = axe.run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_the_page_fits_the_width_of_a_phone(page: "Page") -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/?q=a+red+star")
    page.wait_for_selector("#results li")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_empty_gallery_and_a_stopped_server_show_messages(
    browser: "Browser", bundle: Path, photos: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(photos / "images", tmp_path / "images")
    with dualpath.Gallery.open(tmp_path / "gallery", model=bundle) as gallery:
        gallery.add(folder)
        gallery.remove(folder)
    with running(tmp_path / "gallery", tmp_path / "log") as server:
        page = browser.new_page(base_url=server.url)
        page.goto("/")
        page.wait_for_selector("#message >> text=The gallery is empty")
    page.fill("#words", "a star")
    page.press("#words", "Enter")
    page.wait_for_selector("#message >> text=The server does not answer")
    page.close()


def test_the_page_asks_for_a_key_if_the_server_requires_one(
    browser: "Browser", gallery_folder: Path, tmp_path: Path
) -> None:
    key = KeyFile(tmp_path / "keys.json").add("page", "read")
    options = ("--keys", tmp_path / "keys.json")
    with running(gallery_folder, tmp_path / "log", *options) as server:
        page = browser.new_page(base_url=server.url)
        page.goto("/?q=a+red+star")
        page.get_by_role("textbox", name="Key").fill("dp_wrong")
        page.get_by_role("button", name="Open the gallery").click()
        page.get_by_text("This key is not valid.").wait_for()
        page.get_by_role("textbox", name="Key").fill(key)
        page.get_by_role("button", name="Open the gallery").click()
        page.wait_for_selector("#results li")
        page.wait_for_function(FIRST_IMAGE_LOADED)
        assert page.evaluate("document.cookie") == ""
        page.close()


def test_words_typed_while_the_page_loads_are_not_lost(browser: "Browser", server: Server) -> None:
    page = browser.new_page(base_url=server.url)
    page.route("**/v1/about", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.goto("/", wait_until="domcontentloaded")
    page.fill("#words", "a red star")
    page.get_by_role("heading", name="Search 100 images").wait_for()
    assert page.input_value("#words") == "a red star"
    page.close()


def test_the_page_shows_probabilities_and_can_hide_unlikely_images(
    browser: "Browser", calibrated_server: Server
) -> None:
    page = browser.new_page(base_url=calibrated_server.url, viewport={"width": 390, "height": 800})
    page.goto("/")
    search(page, "a red star")
    percentages = scores(page)
    assert page.locator("#results .score").first.inner_text().endswith(" %")
    likely = page.get_by_role("button", name="likely only")
    likely.click()
    page.wait_for_url("**likely=1**")
    page.wait_for_function(NOT_BUSY)
    assert scores(page) == [p for p in percentages if p >= 50]
    page.fill("#words", "zzz qqq")
    page.press("#words", "Enter")
    page.wait_for_function(NOT_BUSY)
    if not scores(page):
        page.get_by_role("button", name="Show the nearest").click()
        page.wait_for_selector("#results li")
        assert "Maybe no image fits" in page.inner_text("#status")
    page.close()
