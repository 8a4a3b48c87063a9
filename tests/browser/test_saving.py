"""Whatever is shown can be saved from one menu: charts as PNG, SVG and CSV, tables as CSV, tiles and maps as PNG."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.conftest import WITHOUT_TOUR, settled, until
from tests.browser.test_journeys import PAIR

pytestmark = pytest.mark.browser
ALL = {
    "case": {"The pictures": "PNG", "Before and after": "CSV"},
    "network": {"River and curves": "PNG SVG CSV", "Exact numbers of every layer": "CSV"},
    "layer": {"Tiles": "PNG", "Numbers of every channel": "CSV", "All combinations": "CSV"},
    "neuron": {
        "Inputs and maps": "PNG",
        "Patches": "PNG",
        "Connections": "CSV",
        "Feature": "PNG",
        "Growth": "PNG SVG CSV",
        "Histogram": "PNG SVG CSV",
        "Numbers": "CSV",
    },
    "checks": {"Faithfulness checks": "CSV", "Activation patching": "CSV"},
    "test": {"Causal test": "CSV", "Image by image": "CSV"},
    "study": {"Plot of the study": "PNG SVG CSV"},
    "layers": {"Exact numbers of every layer": "CSV"},
}
"""By panel what its menu offers, and as what."""


@pytest.fixture(scope="module")
def shown(chromium, served, cookies):
    """A view with a causal test and a study, everything drawn; one page for all tests, since none changes it."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    context.add_cookies(cookies)
    context.add_init_script(WITHOUT_TOUR)
    page = context.new_page()
    page.goto(f"{served.url}/?{PAIR}&layer=layer3.0&channel=3&patch=standout:16&study=curve&drawer=closed")
    settled(page)
    until(page, "Boolean(document.querySelector('#feature img')?.naturalWidth)")
    until(page, "document.querySelector('#response .js-plotly-plot').data.length === 2")
    until(page, "document.querySelectorAll('#causal-test table').length > 0")
    until(page, "document.querySelectorAll('#study-tables table').length > 0")
    until(page, "document.querySelector('#study-figure .js-plotly-plot').data.length >= 5")
    yield page
    context.close()


def open_menu(page, panel: str):
    """Open the menu of a panel, in its drawer where it has one."""
    drawers = [node.get_attribute("data-drawer") for node in page.locator("[data-drawer]").all()]
    opened = page.locator("[data-drawer][aria-expanded=true]")
    opened = opened.get_attribute("data-drawer") if opened.count() else None
    wanted = panel if panel in drawers else None
    if opened != wanted:
        page.locator(f"[data-drawer={wanted or opened}]").click()
        until(page, f"document.body.classList.contains('has-drawer') === {str(wanted is not None).lower()}")
    menu = page.locator(f"details[data-save={panel}]")
    if not menu.evaluate("node => node.open"):
        menu.locator("summary").click()
    return menu


def saved(page, panel: str, title: str, form: str, folder: Path) -> Path:
    """Save one thing and return the file."""
    menu = open_menu(page, panel)
    with page.expect_download() as waited:
        menu.get_by_role("button", name=f"{title} as {form}", exact=True).click()
    path = folder / waited.value.suggested_filename
    waited.value.save_as(path)
    return path


@pytest.mark.parametrize("panel", ALL)
def test_every_chart_and_table_of_a_panel_is_offered(shown, panel):
    menu = open_menu(shown, panel)
    lines = menu.locator("li").evaluate_all("all => all.map(one => [...one.children].map(node => node.innerText))")
    offered = {title: " ".join(forms.split()) for title, forms in lines}
    assert ALL[panel].items() <= offered.items()
    shown.keyboard.press("Escape")


CASES = [(panel, title, form) for panel, all_ in ALL.items() for title, forms in all_.items() for form in forms.split()]


@pytest.mark.parametrize(("panel", "title", "form"), CASES)
def test_what_is_saved_can_be_read(shown, tmp_path, panel, title, form):
    path = saved(shown, panel, title, form, tmp_path)
    assert re.fullmatch(r"faultline_digits-standard_digits_class-3_pgd-linf-24-255_\d+_.+\.(png|svg|csv)", path.name)
    assert ("layer3.0" in path.name) == (panel in ("layer", "neuron"))
    if form == "PNG":
        picture = Image.open(path).convert("L")
        assert min(picture.size) > 100 and len(picture.getcolors(256) or range(257)) > 8
    elif form == "SVG":
        text = "".join(ElementTree.parse(path).getroot().itertext())
        assert "Faultline: class 3" in text and "evidence" in text
    else:
        heads, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
        assert rows and {len(row) for row in rows} == {len(heads)}


def test_the_values_of_a_chart_are_those_that_are_drawn(shown, tmp_path):
    path = saved(shown, "network", "River and curves", "CSV", tmp_path)
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    drawn = shown.evaluate(
        """() => { const plot = document.querySelector('#network-river .js-plotly-plot'), { columns } = plot.layout.meta;
            const { x, y } = plot._fullData.find(one => one.name === 'distance');
            return [...x].map((place, k) => [columns[place] || 'answer', y[k]]); }"""
    )
    written = [(row["layer"], float(row["value"])) for row in rows if row["series"] == "distance"]
    assert [layer for layer, _ in written] == [layer for layer, _ in drawn]
    assert [value for _, value in written] == pytest.approx([value for _, value in drawn], rel=1e-11)


def test_no_cell_begins_like_a_formula_and_numbers_stay_numbers(shown):
    rows = [["=cmd()", "+1+cmd()", "-x", "@x", "\tx"], [-0.5, "-0.5", "+16 %", "−3", 'a"b']]
    text = shown.evaluate("rows => window.faultline.saving.csv(rows)", rows)
    assert list(csv.reader(io.StringIO(text))) == [
        ["'=cmd()", "'+1+cmd()", "'-x", "'@x", "'\tx"],
        ["-0.5", "-0.5", "+16 %", "-3", 'a"b'],
    ]
