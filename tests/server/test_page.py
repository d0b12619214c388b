"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import shutil
from pathlib import Path

import pytest

import dualpath
from dualpath.data.manifest import read_manifest
from dualpath.server.access import Keys
from tests.serving.conftest import running

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason="no Chromium at /usr/bin/chromium (apt install chromium)"
)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    page = browser.new_page(base_url=server.url, viewport={"width": 1280, "height": 800})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if "Content Security" in m.text else None)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert problems == []
    assert all(url.startswith((server.url, "blob:", "data:")) for url in asked), asked
    page.close()


def scores(page) -> list[float]:
    texts = page.locator("#results .score").all_inner_texts()
    return [float(text.removesuffix(" %")) for text in texts]


def search(page, words: str) -> None:
    page.fill("#words", words)
    page.press("#words", "Enter")
    page.wait_for_selector("#results li")


def test_words_find_images_best_first_and_the_address_can_be_shared(page, client):
    page.goto("/")
    heading = page.get_by_role("heading", name="Search 100 images")
    heading.wait_for()
    assert heading.is_visible()
    search(page, "a red star")
    assert len(scores(page)) == 30
    assert scores(page) == sorted(scores(page), reverse=True)
    assert "30 of 100 images, best first" in page.inner_text("#status")
    wanted = client.get("/v1/search", params={"q": "a red star", "top": 30}).json()["hits"]
    shown = page.locator("#results button").evaluate_all("all => all.map(b => b.dataset.id)")
    assert shown == [hit["id"] for hit in wanted]
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("#results li")
    assert page.input_value("#words") == "a red star"
    page.click("#more")
    page.wait_for_function("() => document.querySelectorAll('#results li').length == 60")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#results img')][0].naturalWidth > 0"
    )


def test_a_dropped_and_a_chosen_image_find_themselves(page, photos):
    item = read_manifest(photos).items[9]
    page.goto("/")
    page.set_input_files("#file", item.path)
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
            [event, list(item.path.read_bytes())],
        )
        page.wait_for_selector("#results li")
        assert scores(page)[0] == 1
        page.click("#home")
        page.wait_for_selector("#message:visible")


def test_a_file_that_is_no_image_is_told(page, tmp_path):
    (tmp_path / "x.png").write_text("no image")
    page.goto("/")
    page.set_input_files("#file", tmp_path / "x.png")
    page.wait_for_selector("#message:visible >> text=not an image that can be read")
    page.get_by_role("button", name="Try again").wait_for()


def test_filters_narrow_and_can_be_taken_back(page):
    page.goto("/?q=a+red+star")
    page.wait_for_selector("#results li")
    chip = page.locator("[data-filter='kind:count']")
    chip.click()
    page.wait_for_function("() => !document.body.classList.contains('busy')")
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


def test_detail_shows_captions_and_metadata_and_leads_to_similar_ones(page, client):
    page.goto("/?q=a+red+star")
    page.locator("#results button").nth(2).click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    wanted = client.get("/v1/search", params={"q": "a red star", "top": 3}).json()["hits"][2]
    assert wanted["captions"][0] in dialog.inner_text()
    assert wanted["metadata"]["kind"] in page.inner_text("#detail-metadata")
    assert f"item={wanted['id']}" in page.url
    page.reload()
    dialog.wait_for()
    page.get_by_role("button", name="More like this").click()
    page.wait_for_url("**similar=*")
    page.wait_for_selector("#results li")
    similar = client.get(f"/v1/items/{wanted['id']}/similar", params={"top": 30}).json()["hits"]
    page.wait_for_function("() => !document.body.classList.contains('busy')")
    shown = page.locator("#results button").evaluate_all("all => all.map(b => b.dataset.id)")
    assert shown == [hit["id"] for hit in similar]


def test_everything_works_from_the_keyboard(page):
    page.goto("/")
    page.wait_for_selector("#message:visible")
    page.locator("#home").focus()
    page.keyboard.press("/")
    page.keyboard.type("two small stars")
    page.keyboard.press("Enter")
    page.wait_for_selector("#results li")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    focused = "document.activeElement.dataset.id"
    second = page.locator("#results button").nth(1).get_attribute("data-id")
    assert page.evaluate(focused) == second
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail", state="hidden")
    assert page.evaluate(focused) == second


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page, scheme):
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


def test_a_phone_needs_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/?q=a+red+star")
    page.wait_for_selector("#results li")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_empty_gallery_and_a_server_that_is_gone_are_told(browser, bundle, photos, tmp_path):
    folder = shutil.copytree(photos / "images", tmp_path / "images")
    with dualpath.Gallery.open(tmp_path / "gallery", model=dualpath.load(bundle)) as gallery:
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


def test_where_a_key_is_needed_the_page_asks_for_it(browser, gallery_folder, tmp_path):
    key = Keys(tmp_path / "keys.json").add("page", "read")
    options = ("--keys", tmp_path / "keys.json")
    with running(gallery_folder, tmp_path / "log", *options) as server:
        page = browser.new_page(base_url=server.url)
        page.goto("/?q=a+red+star")
        page.get_by_role("textbox", name="Key").fill("dp_wrong")
        page.get_by_role("button", name="Look at the gallery").click()
        page.get_by_text("This key does not fit.").wait_for()
        page.get_by_role("textbox", name="Key").fill(key)
        page.get_by_role("button", name="Look at the gallery").click()
        page.wait_for_selector("#results li")
        page.wait_for_function(
            "() => [...document.querySelectorAll('#results img')][0].naturalWidth > 0"
        )
        assert page.evaluate("document.cookie") == ""
        page.close()


def test_words_typed_while_the_page_still_loads_are_kept(browser, server):
    page = browser.new_page(base_url=server.url)
    page.route("**/v1/about", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.goto("/", wait_until="domcontentloaded")
    page.fill("#words", "a red star")
    page.get_by_role("heading", name="Search 100 images").wait_for()
    assert page.input_value("#words") == "a red star"
    page.close()


def test_unlikely_matches_are_told_apart_and_can_be_left_out(browser, judged):
    page = browser.new_page(base_url=judged.url, viewport={"width": 390, "height": 800})
    page.goto("/")
    search(page, "a red star")
    percentages = scores(page)
    assert page.locator("#results .score").first.inner_text().endswith(" %")
    likely = page.get_by_role("button", name="likely only")
    likely.click()
    page.wait_for_url("**likely=1**")
    page.wait_for_function("() => !document.body.classList.contains('busy')")
    assert scores(page) == [p for p in percentages if p >= 50]
    page.fill("#words", "zzz qqq")
    page.press("#words", "Enter")
    page.wait_for_function("() => !document.body.classList.contains('busy')")
    if not scores(page):
        page.get_by_role("button", name="Show the nearest").click()
        page.wait_for_selector("#results li")
        assert "Perhaps none of them fits" in page.inner_text("#status")
    page.close()
