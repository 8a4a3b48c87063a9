"""Which classifiers of timm and torchvision are read: `python -m tests.survey_timm [--limit-families N] [--out FILE]`."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import timm
import torch
from torch import nn
from torchvision import models

from engine.errors import EngineError
from engine.models import architectures
from engine.models import network as bundles
from engine.models.network import Identity, Preprocessing

CLASSES = 1000
SMALL = (
    "test",
    "zepto",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "xxt",
    "xs",
    "tiny",
    "mini",
    "small",
    "_s",
    "lite",
    "base",
)
"""Words of names, the smallest networks first."""
REPRESENTATIVES = 2
"""Of one module of timm, of different families where it has several."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to try: where it is from, its name, its input and how it is built."""

    source: str
    name: str
    size: tuple[int, int]
    build: Callable[[], nn.Module]


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one network."""

    subject: Subject
    kind: str
    """`read`, `refused`, `traceback` or `time`."""
    text: str

    def line(self) -> str:
        """Return the row in Markdown."""
        pixels = "x".join(map(str, self.subject.size))
        return f"| {self.subject.source} | `{self.subject.name}` | {pixels} | {self.kind} | {self.text} |"


def attempt(network: nn.Module, size: tuple[int, int]) -> str:
    """Read a network and return what was found. Raises EngineError where it is refused."""
    taken = Preprocessing(3, size, (0.0,) * 3, (1.0,) * 3)
    sites, paths = bundles.taken_apart(network, taken, Identity((), type(network).__name__))
    return f"{len(sites)} layers, {len(paths)} paths"


def row(subject: Subject, seconds: float) -> Row:
    """Try a network by its shapes alone, and with real weights where that fails for another reason than a refusal."""
    first = _tried(subject, seconds, "meta")
    return first if first.kind in ("read", "refused", "time") else _tried(subject, seconds, "cpu")


def _tried(subject: Subject, seconds: float, device: str) -> Row:
    try:
        with limited(seconds), architectures.weightless(), torch.device(device):
            return Row(subject, "read", attempt(subject.build().eval(), subject.size))
    except EngineError as error:
        return Row(subject, "refused", str(error))
    except TimeoutError:
        return Row(subject, "time", f"over {seconds:g} s")
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Row(subject, "traceback", text[:160])


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer."""

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def of_torchvision() -> list[Subject]:
    """Return every classifier of torchvision."""
    return [
        Subject("torchvision", name, architectures.architecture(name).size, _torchvision(name))
        for name in models.list_models(module=models)
    ]


def _torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: architectures.architecture(name).build({}, CLASSES)


def of_timm(families: int | None) -> list[Subject]:
    """Return small representatives of so many of timm's module files."""
    subjects = []
    for module in timm.list_modules()[:families]:
        for name in representatives(timm.list_models(module=module)):
            _, height, width = timm.get_pretrained_cfg(name).input_size
            subjects.append(Subject(f"timm: {module}", name, (height, width), _timm(name)))
    return subjects


def _timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, num_classes=CLASSES)


def representatives(names: list[str]) -> list[str]:
    """Return the smallest network by its name, and the smallest of another family in the same file."""
    chosen: dict[str, str] = {}
    for name in sorted(names, key=_rank):
        chosen.setdefault(_family(name), name)
    return list(chosen.values())[:REPRESENTATIVES]


def _family(name: str) -> str:
    letters = re.match(r"[a-z]+", name)
    return letters.group() if letters else name


def _rank(name: str) -> tuple[int, int, int, str]:
    """Where a name stands among others: words for small networks first, then small numbers, then short names."""
    word = next((k for k, word in enumerate(SMALL) if word in name), len(SMALL))
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    return word, numbers[0] if numbers else 0, len(name), name


def markdown(rows: list[Row]) -> str:
    """Return counts and the table in Markdown."""
    counts = Counter(found.kind for found in rows)
    sources = Counter(found.subject.source for found in rows)
    read = {found.subject.source for found in rows if found.kind == "read"}
    lines = [
        f"{len(rows)} networks of {len(sources)} sources: " + ", ".join(f"{count} {kind}" for kind, count in counts.most_common()),
        f"Sources of which one network at least is read: {len(read)} of {len(sources)}.",
        "",
        "| source | network | pixels | | found, or reason |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    return "\n".join((*lines, *(found.line() for found in rows))) + "\n"


def main() -> None:
    """Survey what is asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit-families", type=int, metavar="N", help="of timm, the first N module files")
    parser.add_argument("--only", choices=("timm", "torchvision"), help="leave the other library out")
    parser.add_argument("--seconds", type=float, default=60.0, help="for one network")
    parser.add_argument("--out", type=Path, metavar="FILE", help="instead of printing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    timms = of_timm(asked.limit_families) if asked.only != "torchvision" else []
    torchvisions = of_torchvision() if asked.only != "timm" else []
    text = markdown([row(subject, asked.seconds) for subject in (*timms, *torchvisions)])
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
