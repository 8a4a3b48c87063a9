"""What the page is measured on: the embedded demo, CIFAR-10 ResNet-56 and ImageNet MobileNetV2, added by the commands."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.shared_data import CLASSES, SHARED

ROOT = Path(__file__).parents[2]
IMAGENET = SHARED / "imagenet"
PANDA = 388
SEVERAL = 8
"""Images of each of the classes that are looked at."""
LOOKED_AT = (PANDA, 491, 701)
"""Giant panda, chain saw, parachute."""
OTHERS = 24
"""Single images of other classes, which serve as references."""
SIDE, SHORT = 224, 256


@dataclass(frozen=True)
class Scene:
    """A store to fill and what is looked at in turn."""

    query: str
    """Model, data set and attack, as in a link."""
    labels: tuple[str, ...]
    attacks: tuple[tuple[str, str], ...]
    """Titles in the menu, and names in the link."""
    fill: Callable[[Path], None]
    """Fills an empty folder."""
    samples: int = 3

    @property
    def address(self) -> str:
        """The link at which measuring starts, without the server."""
        return f"{self.query}&label={self.labels[-1]}"


def add(*arguments: str) -> None:
    """Run `python -m engine`; raises CalledProcessError with what it printed."""
    subprocess.run([sys.executable, "-m", "engine", *arguments], cwd=ROOT, check=True, capture_output=True)


def fill_cifar(store: Path) -> None:
    """Add ResNet-56 and the 1000 images."""
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "names.txt"
        names.write_text("\n".join(CLASSES) + "\n")
        common = ("--store", str(store), "--classes", str(names))
        weights = str(SHARED / "cifar10" / "weights" / "resnet56.safetensors")
        add("model", "add", *common, "--name", "resnet56", "--architecture", "cifar_resnet56", "--weights", weights)
        npz = str(SHARED / "cifar10" / "cifar10_test_first1000.npz")
        add("data", "add", *common, "--name", "cifar10", "--npz", npz, "--epsilon", "8/255")


def fill_imagenet(store: Path) -> None:
    """Add MobileNetV2, several images of three classes, and single ones of others."""
    with tempfile.TemporaryDirectory() as folder:
        names, npz = Path(folder) / "names.txt", Path(folder) / "x.npz"
        names.write_text("\n".join(imagenet_names()) + "\n")
        rows = _rows()
        np.savez(npz, x=np.stack([cropped(IMAGENET / name) for name, _ in rows]), y=np.array([y for _, y in rows]))
        common = ("--store", str(store), "--classes", str(names))
        weights = str(IMAGENET / "weights" / "mobilenet_v2.safetensors")
        add("model", "add", *common, "--name", "mobilenet", "--architecture", "mobilenet_v2", "--weights", weights)
        add("data", "add", *common, "--name", "pandas", "--npz", str(npz), "--epsilon", "4/255")


def imagenet_names() -> list[str]:
    """Return the 1000 class names in the order of the logits."""
    index = json.loads((IMAGENET / "imagenet_class_index.json").read_text())
    return [name for _, name in index.values()]


def cropped(path: Path) -> np.ndarray:
    """Return the middle of a picture, (224, 224, 3) uint8, resized as ImageNet networks were evaluated."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    scale = SHORT / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BILINEAR)
    left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
    return np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)))


def _rows() -> list[tuple[str, int]]:
    """Return files and their class indices."""
    with (IMAGENET / "classes" / "labels.csv").open() as file:
        known = [(f"classes/{row['file']}", int(row["class_index"])) for row in csv.DictReader(file)]
    with (IMAGENET / "sample300" / "labels.csv").open() as file:
        single = [(f"sample300/{row['file']}", int(row["class_index"])) for row in csv.DictReader(file)]
    several = [row for label in LOOKED_AT for row in [item for item in known if item[1] == label][:SEVERAL]]
    others = [row for row in single if row[1] not in LOOKED_AT]
    return several + others[:: len(others) // OTHERS][:OTHERS]


PGD, MIFGSM = ("PGD", "pgd-linf"), ("MI-FGSM", "mifgsm-linf")
SCENES = {
    "demo": Scene("model=digits-standard&data=digits&attack=pgd-linf", ("7", "1", "3"), (MIFGSM, PGD), lambda _: None),
    "resnet56": Scene(
        "model=resnet56&data=cifar10&attack=pgd-linf", ("ship", "cat", "horse"), (MIFGSM, PGD), fill_cifar
    ),
    "mobilenet_v2": Scene(
        "model=mobilenet&data=pandas&attack=pgd-linf",
        ("chain saw", "parachute", "giant panda"),
        (MIFGSM, PGD),
        fill_imagenet,
    ),
}
"""The demo's store fills itself when the server starts on it."""
