"""What can be done on the three levels: fold, draw beside, walk the samples, probe a map, choose a combination."""

from __future__ import annotations

import pytest

from engine import CONTROLS
from tests.browser.conftest import choose, settled, until
from tests.browser.test_journeys import PAIR, query

pytestmark = pytest.mark.browser
COLUMNS = "document.querySelector('#network-river .js-plotly-plot').layout.meta.columns.length"


@pytest.fixture
def page(watched, served):
    """The demo's pair with all of its checks."""
    watched.page.goto(f"{served.url}/?{PAIR}&layer=layer3.0&channel=3")
    settled(watched.page)
    watched.page.wait_for_selector("#layer-tiles button", state="attached")
    return watched.page


def click_text(page, text: str) -> None:
    """Click a text of the river where it is drawn."""
    place = page.evaluate(
        """text => {
            const texts = [...document.querySelectorAll('#network-river .annotation-text')];
            const found = texts.find(one => one.textContent.startsWith(text));
            found.scrollIntoView({ block: 'center' });
            const box = found.getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2];
        }""",
        text,
    )
    page.mouse.click(*place)


def test_a_stage_folds_and_unfolds_by_its_name_and_the_link_says_so(page):
    before = page.evaluate(COLUMNS)
    click_text(page, "layer2 ")
    until(page, f"{COLUMNS} < {before}")
    until(page, "new URLSearchParams(location.search).get('folded') === 'layer2'")
    click_text(page, "layer2 ")
    until(page, f"{COLUMNS} === {before}")
    until(page, "!new URLSearchParams(location.search).has('folded')")


def test_another_strength_is_drawn_beside_and_survives_a_reload(page):
    choose(page, "versus-select", "8\\/255$")
    until(page, "document.querySelector('#beside')?.textContent?.startsWith('Compared with pgd-linf 8/255')")
    until(page, "Boolean(document.querySelector('#network-river .js-plotly-plot')._fullLayout.yaxis4)")
    frame = "document.querySelector('.river-frame')"
    until(page, f"{frame}.scrollHeight > {frame}.clientHeight")
    page.reload()
    until(page, "document.querySelector('#beside')?.textContent?.startsWith('Compared with pgd-linf 8/255')")
    choose(page, "versus-select", "^nothing$")
    until(page, "document.querySelector('#beside')?.textContent === ''")
    until(page, f"{frame}.scrollHeight === {frame}.clientHeight")


def test_the_strip_leads_from_sample_to_sample_and_back_again(page):
    page.wait_for_selector("#sample-strip .thumbnail")
    first = query(page)["sample"]
    second = page.locator("#sample-strip .thumbnail").nth(1).get_attribute("data-sample")
    page.get_by_role("button", name="Next sample").click()
    until(page, f"new URLSearchParams(location.search).get('sample') === '{second}'")
    until(page, f"document.querySelector('#sample-strip [aria-current]')?.dataset.sample === '{second}'")
    page.go_back()
    until(page, f"new URLSearchParams(location.search).get('sample') === '{first}'")


def test_the_strip_is_one_stop_for_the_keyboard(page):
    page.wait_for_selector("#sample-strip .thumbnail")
    assert page.locator("#sample-strip .thumbnail[tabindex='0']").count() == 1
    page.locator("#sample-strip .thumbnail[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    second = page.locator("#sample-strip .thumbnail").nth(1).get_attribute("data-sample")
    page.keyboard.press("Enter")
    until(page, f"new URLSearchParams(location.search).get('sample') === '{second}'")


def test_a_position_of_a_map_tells_what_it_answers_and_sees_by_mouse_and_by_key(page):
    map_ = page.locator("#neuron-card .answers").first
    map_.scroll_into_view_if_needed()
    box = map_.bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + 2)
    until(page, "document.querySelector('#neuron-probe').textContent.startsWith('Row 0, column 0: clean')")
    assert page.locator("#neuron-card .seen .probe").count() == 2
    assert page.locator("#neuron-card .answers .probe").count() == 2
    map_.focus()
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('#neuron-probe').textContent.startsWith('Row 0, column 1: clean')")


def test_a_map_is_laid_over_its_input(page):
    over = page.get_by_role("button", name="Map over input")
    over.click()
    assert over.get_attribute("aria-pressed") == "true"
    assert page.locator("#neuron-card .over").first.is_visible()
    page.locator("summary[data-term=layer-more]").click()
    page.locator("#layer-mode").get_by_text("over the input").click()
    until(page, "document.querySelector('#layer-tiles').classList.contains('is-overlay')")


def test_a_combination_of_datapaths_shows_exactly_its_maps(page):
    page.locator("summary[data-term=layer-more]").click()
    page.locator(".popover summary").click()
    until(page, "Boolean(document.querySelector('#layer-euler svg'))")
    every = page.locator("#layer-tiles button").count()
    counts = [int(text) for text in page.locator("#layer-upset .figure").all_inner_texts()]
    assert sum(counts) == every
    page.locator("#layer-upset button").nth(1).click()
    until(page, f"document.querySelectorAll('#layer-tiles button').length === {counts[1]}")
    page.locator("#layer-upset button").nth(1).click()
    until(page, f"document.querySelectorAll('#layer-tiles button').length === {every}")


def test_the_visualized_feature_and_the_response_appear_by_themselves(page):
    until(page, "Boolean(document.querySelector('#feature img')?.naturalWidth)", seconds=120)
    until(page, "document.querySelector('#response .js-plotly-plot').data.length === 2", seconds=120)
    page.locator("[data-tab=feature]").click()
    until(page, "document.querySelector('#feature').innerText.includes('drives the channel to')")


def test_the_audits_page_opens_by_its_tab_and_by_its_link(page, served):
    page.get_by_role("button", name="Audits").click()
    until(page, "document.querySelector('#audit-list').textContent.includes('python -m engine audit')")
    assert not page.locator("#network-panel").is_visible()
    page.go_back()
    until(page, "document.body.dataset.page === 'explain'")
    page.goto(f"{served.url}/?page=audits")
    until(page, "document.body.dataset.page === 'audits'")
    until(page, "document.querySelector('#audit-list').textContent.includes('python -m engine audit')")


def test_a_causal_test_is_made_shown_beside_its_controls_and_found_again_by_its_link(page):
    page.get_by_role("button", name="Test 16 channels").click()
    until(
        page,
        "document.querySelector('#causal-test h3')?.textContent.includes('16 channels whose attack conductance stands out most')",
        seconds=60,
    )
    names = page.locator("#causal-test .causal-test-table:not(.members-table) tbody th").all_inner_texts()
    assert names[0].startswith("Chosen channels")
    assert names[1].split()[0].startswith("Random")
    assert len(names) == 1 + len(CONTROLS)
    claim = page.locator("#causal-test .claim").inner_text()
    assert "as many random channels of the same layers" in claim
    assert query(page)["patch"] == "standout:16"
    page.reload()
    until(page, f"document.querySelector('#causal-test .claim')?.textContent.length === {len(claim)}")
    page.locator("[data-drawer=test]").click()
    page.locator("#neuron-card [data-patch]").click()
    until(
        page, "document.querySelector('#causal-test h3')?.textContent.includes('feature map 3 of layer3.0')", seconds=60
    )
    page.get_by_role("button", name="the other way round").click()
    until(page, "document.querySelector('#causal-test h3')?.textContent.includes('adversarial values')", seconds=60)
