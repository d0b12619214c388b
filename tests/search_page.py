"""What the page of the server and a published page must both do."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page


def check_keyboard(page: "Page") -> None:
    """Search, move between results, open and close one, on a page that is open."""
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
