"""Colours and view fields stand in one place each, and the server writes them into the page."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from dashboard import app, pictures, theme
from dashboard.links import ViewState

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SHEETS = "\n".join(sheet.read_text() for sheet in ASSETS.glob("*.css"))
SCRIPTS = "\n".join(script.read_text() for script in ASSETS.glob("*.js"))


def test_every_variable_of_the_style_sheets_is_named_somewhere():
    used = set(re.findall(r"var\(--([a-z-]+)\)", SHEETS))
    defined = set(re.findall(r"--([a-z-]+):", theme.style() + pictures.scales() + SHEETS))
    defined |= set(re.findall(r"--([a-z-]+)['\"`]", SCRIPTS)) | {"clean-input", "adversarial-input"}
    assert used - defined == set()


def test_the_style_sheets_name_no_colour_of_a_palette_themselves():
    colours = {colour.lower() for palette in theme.PALETTES.values() for colour in dataclasses.astuple(palette)}
    assert set(re.findall(r"#[0-9a-f]{6}\b", (SHEETS + SCRIPTS).lower())) & colours == set()


def test_both_themes_name_the_same_colours():
    light, dark, _, _ = theme.style().splitlines()
    assert re.findall(r"--[a-z-]+", light) == re.findall(r"--[a-z-]+", dark)
    assert "--warning-bg: #FFF6E5;" in light


def test_paper_is_light_in_both_themes():
    light, dark, paper, _ = theme.style().splitlines()
    assert paper.startswith('@media print { html[data-theme="dark"]')
    assert (
        re.findall(r"--[a-z-]+: [^;]+", paper)
        == re.findall(r"--[a-z-]+: [^;]+", light)
        != re.findall(r"--[a-z-]+: [^;]+", dark)
    )


def test_the_bars_of_colours_are_those_of_the_pictures():
    viridis, difference = re.findall(r"gradient\(90deg, ([^)]+)\)", pictures.scales())
    assert viridis.split(", ")[0] == "#440154" and viridis.split(", ")[-1] == "#fde725"
    assert difference.split(", ")[0] == "#2d004b" and difference.split(", ")[-1] == "#7f3b08"


def test_the_page_carries_the_names_of_all_fields_of_a_view():
    (names,) = re.findall('name="view-fields" content="([^"]*)"', app.index())
    assert names.split(",") == [field.name for field in dataclasses.fields(ViewState)]
