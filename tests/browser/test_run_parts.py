"""The parts around Inside the model in the browser: flows, models side by side, work that buttons ask for, a damaged file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import planted_runs, stores
from tests.browser import conftest
from tests.browser.conftest import Watched, until

pytestmark = pytest.mark.browser
CUBE = "cube-candidate-squares.npy"


@pytest.fixture(scope="module")
def run(small_demo_store, tmp_path_factory):
    plan = planted_runs.PLAN + '\n[curve]\nattack = "pgd-linf"\nepsilons = ["4/255", "8/255"]\n'
    return planted_runs.finish(stores.copied(small_demo_store, tmp_path_factory.mktemp("parts") / "store"), plan)


@pytest.fixture
def opened(chromium, serving, run, login) -> Iterator[Watched]:
    for watched in conftest.watching(chromium, login):
        watched.page.goto(f"{serving.url}/?page=audits&run={run.id}")
        until(watched.page, "document.querySelector('#confusion-flows table')")
        yield watched


def lead(name: str) -> str:
    return f"document.querySelector('#{name}-lead')?.textContent"


def test_a_choice_is_followed_by_every_part_and_a_cell_opens_an_image(opened, run):
    page = opened.page
    until(page, "document.querySelectorAll('#confusion-curve .point').length > 2")
    page.locator("[data-inside=classes][data-value='3']").click()
    for name in ("confusion", "against", "held-out"):
        until(page, f"{lead(name)}.includes('class 3')")
    assert page.locator(".confusion-matrix tbody tr").count() == 1
    page.locator(".confusion-matrix tbody a").first.press("Enter")
    page.wait_for_url(lambda url: "outcome=fooled" in url and "label=3" in url and "sample=" in url)
    page.go_back()
    until(page, f"{lead('confusion')}.includes('class 3')")


def test_the_parts_of_a_run_are_reached_by_the_keyboard_and_only_those_that_are_there(opened):
    page = opened.page
    shown = [text for text in page.locator("#run-parts button").all_inner_texts() if text]
    assert shown == ["Result", "Where", "Causal test", "Classes", "Baseline", "Images", "Details and checks"]
    page.locator("#run-parts button", has_text="Images").press("Enter")
    until(page, "document.querySelector('#images').getBoundingClientRect().top < 120")
    assert page.locator("#run-parts").bounding_box()["y"] < 120, "it stays in sight"
    page.evaluate("document.querySelector('#against').hidden = true")
    assert not page.locator("#run-parts button", has_text="Baseline").is_visible()


def test_buttons_match_and_test_and_their_answers_stay(opened, run):
    page = opened.page
    page.locator("#matching [data-matching=begin]").click()
    until(page, "document.querySelector('#matching .table-scroll table')")
    page.locator("#held-out [data-held-out=begin][data-count='8']").click()
    until(page, "document.querySelector('#held-out .twin')")
    assert page.locator("#held-out [data-held-out=begin]").count() == 4
    page.reload()
    until(page, "document.querySelector('#matching .table-scroll table') && document.querySelector('#held-out .twin')")


def test_a_damaged_file_is_named_and_mended_by_a_button(opened, run):
    page = opened.page
    path = run.place.result / CUBE
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] + b"x" * 40)
    page.reload()
    until(page, f"document.querySelector('#rebuild')?.textContent.includes('{CUBE}')")
    until(page, f"document.querySelector('#inside-lead')?.textContent.includes('{CUBE}')")
    page.locator("[data-rebuild=begin]").click()
    until(page, "document.querySelector('#inside-maps table') && document.querySelector('#rebuild-part')?.hidden")
    assert path.read_bytes() == whole


def test_a_link_to_a_run_that_is_gone_is_said_once(opened, serving):
    page = opened.page
    page.goto(f"{serving.url}/?page=audits&run={'0' * 32}")
    until(page, "document.querySelector('#audit')?.textContent.includes('does not hold')")
    for name in ("inside", "confusion", "against", "held-out-part", "rebuild-part"):
        until(page, f"document.querySelector('#{name}')?.hidden")
