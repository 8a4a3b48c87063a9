"""The three levels on ImageNet: MobileNetV2 and the giant pandas of ../shared/data, added by the documented commands."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import ROOT, Watched, logged_in, require, start, stop, until, watching

FOLDER = ROOT.parent / "shared" / "data" / "imagenet"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.shared_data,
    pytest.mark.skipif(
        not FOLDER.is_dir() and os.environ.get("SHARED_DATA_REQUIRED") != "1", reason="../shared/data is not here"
    ),
]
PANDA = 388
PANDAS, OTHERS = 8, 24
SIDE, SHORT = 224, 256
PATIENCE = 420.0


def cropped(path) -> np.ndarray:
    """The middle of a picture, resized as ImageNet networks were evaluated."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    scale = SHORT / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BILINEAR)
    left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
    return np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)))


def chosen() -> list[tuple[str, int]]:
    """Pandas, and single images of other classes, which serve as references."""
    with (FOLDER / "classes" / "labels.csv").open() as file:
        pandas = [(f"classes/{row['file']}", PANDA) for row in csv.DictReader(file) if int(row["class_index"]) == PANDA]
    with (FOLDER / "sample300" / "labels.csv").open() as file:
        rows = [(f"sample300/{row['file']}", int(row["class_index"])) for row in csv.DictReader(file)]
    return pandas[:PANDAS] + [row for row in rows if row[1] != PANDA][:: len(rows) // OTHERS][:OTHERS]


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "engine", *arguments], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A running dashboard on a store with MobileNetV2 and the pandas."""
    folder = tmp_path_factory.mktemp("imagenet")
    index = json.loads((FOLDER / "imagenet_class_index.json").read_text())
    (folder / "names.txt").write_text("\n".join(name for _, name in index.values()) + "\n")
    rows = chosen()
    np.savez(
        folder / "x.npz", x=np.stack([cropped(FOLDER / name) for name, _ in rows]), y=np.array([y for _, y in rows])
    )
    store, names = str(folder / "store"), str(folder / "names.txt")
    weights = str(FOLDER / "weights" / "mobilenet_v2.safetensors")
    run("model", "add", "--store", store, "--name", "mobilenet", "--architecture", "mobilenet_v2", "--weights", weights,
        "--classes", names)  # fmt: skip
    run("data", "add", "--store", store, "--name", "pandas", "--npz", str(folder / "x.npz"), "--classes", names,
        "--epsilon", "4/255")  # fmt: skip
    running = start(folder / "store")
    yield running
    stop(running)


@pytest.fixture
def page(chromium, imagenet):
    yield from watching(chromium, logged_in(chromium, imagenet))


def test_the_giant_panda_goes_through_all_three_levels(page: Watched, imagenet):
    shown = page.page
    index = json.loads((FOLDER / "imagenet_class_index.json").read_text())
    shown.goto(
        f"{imagenet.url}/?model=mobilenet&data=pandas&label={index[str(PANDA)][1]}&attack=mifgsm-linf&epsilon=16/255"
    )
    until(shown, "Boolean(document.querySelector('#network-river .main-svg .trace'))", seconds=PATIENCE)
    assert "panda" in shown.locator("#headline").inner_text()
    until(shown, "document.querySelectorAll('#layer-tiles button').length > 0", seconds=PATIENCE)
    shown.locator("#layer-tiles button").nth(1).click()
    until(shown, "document.querySelectorAll('#neuron-card .answers').length === 2", seconds=PATIENCE)
    until(shown, "document.querySelectorAll('#neuron-gallery li').length > 0", seconds=PATIENCE)
    # What the attack makes of a panda may be a class of which this small data set has no image.
    ended = (
        "/^All checks|no other correctly classified image of class/.test(document.querySelector('#status').textContent)"
    )
    until(shown, ended, seconds=PATIENCE)
    assert shown.locator("#checks td").filter(has_text="not run").count() == 0
    found = require("axe_playwright_python.sync_playwright").Axe().run(shown)
    serious = [one["id"] for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
    assert serious == []
