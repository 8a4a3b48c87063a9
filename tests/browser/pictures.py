"""Draws the README's pictures from the embedded demo: `python -m tests.browser.pictures [--store DIR] OUT`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.browser import speed
from tests.browser.conftest import browser_path, launch, logged_in, settled, until

VIEW = "model=digits-standard&data=digits&label=4&attack=pgd-linf&layer=layer3.0"
PANELS = {"network": "#network-panel", "layer": ".layer-panel", "neuron": ".neuron-panel"}
CAUSAL_TEST = "model=digits-standard&data=digits&label=4&attack=pgd-linf&sample=group&patch=standout:16&study=curve"
COLOURS = 128
"""Of each picture: a third of the bytes, and no difference that can be seen."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the page and each of its levels into a folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.pictures", description=__doc__)
    parser.add_argument("--store", type=Path, help="folder of a store with the demo (default: a new one)")
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as empty,
        speed.running(options.store or Path(empty) / "store") as served,
        launch(browser_path()) as browser,
        speed.opened(browser, logged_in(browser, served), f"{served.url}/?{VIEW}") as (page, _),
    ):
        _draw(page, options.out)
        page.goto(f"{served.url}/?{CAUSAL_TEST}")
        _intervene(page, options.out)
    for name in ("page", "proof", *PANELS):
        path = options.out / f"{name}.png"
        Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    return 0


def _draw(page: Any, out: Path) -> None:
    settled(page)
    until(page, "Boolean(document.querySelector('#feature img')?.naturalWidth)", seconds=120)
    until(page, "document.querySelector('#response .js-plotly-plot').data.length === 2", seconds=120)
    page.set_viewport_size({"width": 1440, "height": 900})
    page.wait_for_timeout(1500)
    page.screenshot(path=out / "page.png")
    for name, selector in PANELS.items():
        page.locator(selector).screenshot(path=out / f"{name}.png")


def _intervene(page: Any, out: Path) -> None:
    until(page, "Boolean(document.querySelector('#causal-test .claim'))", seconds=120)
    until(page, "document.querySelectorAll('#study-tables table').length > 0", seconds=120)
    until(page, "document.querySelector('#study-figure .js-plotly-plot').data.length >= 5", seconds=120)
    page.wait_for_timeout(1500)
    page.set_viewport_size({"width": 1440, "height": 1300})
    page.wait_for_timeout(800)
    page.locator(".drawer-body").screenshot(path=out / "proof.png")


if __name__ == "__main__":
    sys.exit(main())
