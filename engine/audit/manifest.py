"""The manifest: everything a run's results depend on, as canonical JSON whose hash is the run's id, and where files lie."""

from __future__ import annotations

import functools
import json
import platform
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import numpy as np

from engine import class_names, hashing, serialization
from engine.audit.plan import CLEAN, AuditPlan, Images
from engine.errors import BadInput, StoreError, UnknownName
from engine.hashing import GROWN, VERSION, stored_as
from engine.specs import catalogue
from engine.specs.methods import NO_METHOD
from engine.specs.threat_model import Attack
from engine.store import Dataset, Store, files
from engine.types.core import ModelCard

SAME_NUMBERS: Final = frozenset({"0.1.0", "0.2.0"})
"""Versions of Faultline that compute the same to the last bit: each takes up and verifies the other's runs
(`tests/test_stored_by_0_1.py`). A version that changes a number stands alone here."""
LIBRARIES: Final = ("torch", "torchvision", "numpy", "pyautoattack")


def installed() -> tuple[tuple[str, str], ...]:
    """Return (name, version) pairs; a library that is not installed has an empty version. Imports none of them."""
    results = [("faultline", VERSION), ("python", platform.python_version())]
    return (*results, *((name, _version(name)) for name in LIBRARIES))


def difference(planned: tuple[tuple[str, str], ...], here: tuple[tuple[str, str], ...]) -> str:
    """Return in words what differs between two sets of versions, empty where nothing does that changes a number."""
    other = dict(here)
    return ", ".join(
        f"{name} {version or 'absent'} was planned and {other.get(name) or 'none'} is installed"
        for name, version in planned
        if other.get(name, "") != version and not (name == "faultline" and {version, other.get(name)} <= SAME_NUMBERS)
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


RUNS = "runs"


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one run."""

    folder: Path

    @property
    def run(self) -> str:
        """The run's id."""
        return self.folder.name

    @property
    def manifest(self) -> Path:
        """Canonical JSON; its hash is the run's id."""
        return self.folder / "manifest.json"

    @property
    def state(self) -> Path:
        """How far the run is, rewritten while it goes on."""
        return self.folder / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the process that drives the run."""
        return self.folder / "run.lock"

    @property
    def cancel(self) -> Path:
        """There while the run is to stop."""
        return self.folder / "cancel"

    @property
    def result(self) -> Path:
        """The folder of what a finished run says: there whole, or not at all."""
        return self.folder / "result"

    @property
    def shards(self) -> Path:
        """One folder per condition in it, one per block in that: the names are read as columns by Parquet readers."""
        return self.folder / "shards"

    def shard(self, condition: str, block: int) -> Path:
        """Return the folder of one shard."""
        return self.shards / f"condition={condition}" / f"block={block:05d}"


def place(root: Path, run: str) -> Place:
    """Return the place of a run; raises UnknownName for what is not an id."""
    if not files.is_key(run):
        raise UnknownName("run", run, listed(root))
    return Place(root / RUNS / run)


def listed(root: Path) -> list[str]:
    """Return the ids of all runs of a store."""
    folder = root / RUNS
    result = folder.iterdir() if folder.is_dir() else ()
    return sorted(item.name for item in result if files.is_key(item.name) and Place(item).manifest.is_file())


def whole_id(root: Path, beginning: str) -> str:
    """Return the id of the one run of a store that begins so, or what was given where none does; raises BadInput."""
    fitting = [item for item in listed(root) if item.startswith(beginning)]
    if len(fitting) > 1:
        raise BadInput(f"{len(fitting)} runs begin with '{beginning}'; give more of the id.")
    return fitting[0] if fitting else beginning


Role = Literal["candidate", "baseline"]
Kind = Literal["clean", "attack", "control", "curve", "premade"]
CANDIDATE: Final[Role] = "candidate"
BASELINE: Final[Role] = "baseline"
FORMAT: Final = 2
FEWEST_CONNECTED: Final = 8
MOST_CONNECTED: Final = 32
"""Images of each condition whose connections are stored: one of so many, but no fewer and no more than these."""
CONNECTED_SHARE: Final = 50
CONNECTED_BYTES: Final = 64 * 2**20
"""What the connections of one condition may take in float32, so that large networks have fewer images, one at least."""
PIXELS: Final = 96 * 1024
"""Image positions of a block whose size the plan leaves open: 96 images of 32 pixels last seconds on two cores."""


@dataclass(frozen=True, slots=True)
class AuditedModel:
    """One of the models of a run."""

    role: Role
    name: str
    architecture: str
    content_hash: str
    """Of weights, architecture, preprocessing and classes."""
    weights_hash: str
    """Of the weights file."""
    parameters: int
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sites: tuple[tuple[str, int], ...]
    """Name and number of feature maps of every site."""

    @property
    def maps(self) -> int:
        """Feature maps of all sites together."""
        return sum(channels for _, channels in self.sites)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The images of a run, sorted by class and then by key; one entry per image in each field."""

    data: str
    content_hash: str
    samples: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    """Class indices of the models."""
    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PrecomputedImages:
    """Where the images of a precomputed set lie, in the order of the run's images."""

    name: str
    data: str
    content_hash: str
    samples: tuple[str, ...]
    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """One model under one treatment."""

    folder: str
    """What its shards' folder is called, for example `03-candidate-pgd-linf`."""
    role: Role
    kind: Kind
    name: str
    """`clean`, the full id of an attack, or the name of a precomputed set."""
    after: tuple[str, ...] = ()
    """Folders of the attacks before it: it leaves out what any of those fooled, block by block."""

    @property
    def attack(self) -> Attack:
        """The attack or control; raises UnknownName where nobody attacks."""
        return catalogue.attack(self.name)

    @property
    def is_attacked(self) -> bool:
        """Whether there is an attack or a control."""
        return self.kind not in ("clean", "premade")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run is. Nothing in it is measured, so a plan has the same manifest before and after the run."""

    format: int
    meaning: int
    """`keys.FORMAT`: version of what a stored result means."""
    versions: tuple[tuple[str, str], ...]
    plan: AuditPlan
    """Thresholds included, so they cannot change once there are results."""
    models: tuple[AuditedModel, ...]
    classes: tuple[str, ...]
    images: Chosen
    precomputed: tuple[PrecomputedImages, ...] = field(metadata=stored_as("premade"))
    conditions: tuple[Condition, ...]
    block: int
    """Images of one block; the last one may have fewer."""
    dtype: str
    connected: tuple[int, ...] = field(default=(), metadata=GROWN)
    """Which of the run's images have their connections stored where their feature maps are scored; none in older runs."""

    @property
    def blocks(self) -> int:
        """Blocks of each condition."""
        return -(-len(self.images.samples) // self.block)

    @property
    def shards(self) -> int:
        """Shards of all conditions."""
        return self.blocks * len(self.conditions)

    @property
    def is_scored(self) -> bool:
        """True where feature maps are scored."""
        return self.plan.method != NO_METHOD

    def scores(self, condition: Condition) -> bool:
        """Tell whether feature maps are scored under a condition: not along the curve, which asks for answers alone."""
        return self.is_scored and condition.kind != "curve"

    def connects(self, condition: Condition) -> bool:
        """Tell whether connections are stored under a condition: without attack, and where somebody made it to fool."""
        return bool(self.connected) and self.scores(condition) and condition.kind in ("clean", "attack", "premade")

    def rows(self, block: int) -> slice:
        """Return which of the run's images a block holds."""
        return slice(block * self.block, min((block + 1) * self.block, len(self.images.samples)))

    def model(self, role: Role) -> AuditedModel:
        """Return the model of a role; raises BadInput."""
        for item in self.models:
            if item.role == role:
                return item
        raise BadInput(f"This run has no {role}.")

    def of(self, role: Role) -> tuple[Condition, ...]:
        """Return the conditions of one model, the clean one first."""
        return tuple(condition for condition in self.conditions if condition.role == role)


def build(plan: AuditPlan, store: Store) -> Manifest:
    """Return the manifest of a plan. Raises BadInput where models, data and precomputed sets do not go together."""
    roles: list[tuple[Role, str]] = [(CANDIDATE, plan.model)]
    if plan.baseline:
        roles.append((BASELINE, plan.baseline))
    models = tuple(_model(role, name, store) for role, name in roles)
    dataset, classes = store.dataset(plan.data), store.model_card(plan.model).classes
    sets = [(item.name, store.dataset(item.data)) for item in plan.precomputed]
    rows = _chosen(dataset.labels_for_classes(classes), _allowed(dataset, sets), plan.images)
    images = _images(dataset, classes, rows)
    return Manifest(
        format=FORMAT,
        meaning=hashing.FORMAT,
        versions=installed(),
        plan=plan,
        models=models,
        classes=classes,
        images=images,
        precomputed=tuple(_paired(name, one, classes, images) for name, one in sets),
        conditions=_conditions(plan, models),
        block=plan.images.block or _block(models),
        dtype="float32",
        connected=_connected(plan, store),
    )


def unconnected(manifest: Manifest) -> Manifest:
    """Return what a version that stored no connections would have planned."""
    return replace(manifest, connected=())


def text(manifest: Manifest) -> bytes:
    """Return the canonical JSON of a manifest."""
    value = serialization.flatten(manifest).value
    if not manifest.connected:
        # A run of a version that stored none has its own id.
        del value["connected"]
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def run_id(content: bytes) -> str:
    """Return the id of the run whose manifest has this text: 32 hex digits, as `b2sum -l 128 manifest.json` prints."""
    return hashing.bytes_hash(content)


def parse(content: bytes, run: str) -> Manifest:
    """Return the manifest of a run. Raises StoreError where the text is not the one the run is named after."""
    if run_id(content) != run:
        raise StoreError(f"The manifest of run {run[:12]} differs from what the run was started with.")
    return serialization.rebuild(Manifest, json.loads(content))


def read(place: Place) -> Manifest:
    """Return the manifest of a run, checked against the run's id. Raises UnknownName, StoreError."""
    if not place.manifest.is_file():
        raise UnknownName("run", place.run, listed(place.folder.parent.parent))
    with files.disk_errors("reading a run"):
        status = place.manifest.stat()
        return _read(place, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=8)
def _read(place: Place, changed: int, size: int) -> Manifest:
    """Read again only when the file changed: one of 50,000 images takes as long as a block of work."""
    del changed, size
    return parse(place.manifest.read_bytes(), place.run)


def _model(role: Role, name: str, store: Store) -> AuditedModel:
    card = store.model_card(name)
    return AuditedModel(
        role=role,
        name=name,
        architecture=card.architecture,
        content_hash=card.content_hash,
        weights_hash=store.weights_hash(name),
        parameters=card.parameters,
        channels=card.channels,
        size=card.size,
        mean=card.mean,
        std=card.std,
        sites=tuple((site.name, site.channels) for site in card.sites),
    )


def _connected(plan: AuditPlan, store: Store) -> tuple[int, ...]:
    """Return the places of images that lie evenly among all of them: those are sorted by class, so each has its share."""
    if plan.method == NO_METHOD:
        return ()
    entries = max(_entries(store.model_card(name)) for name in (plan.model, plan.baseline) if name)
    wanted = min(MOST_CONNECTED, max(FEWEST_CONNECTED, plan.images.count // CONNECTED_SHARE))
    count = min(plan.images.count, wanted, max(1, CONNECTED_BYTES // (4 * entries)))
    middles = (np.arange(count) + 0.5) * plan.images.count / count
    return tuple(int(place) for place in middles)


def _entries(card: ModelCard) -> int:
    """Return how many connections of single maps a network has at most: no more than pairs of maps, or than weights."""
    widths = [*(site.channels for site in card.sites), 2]
    return max(1, min(card.parameters, sum(widths[link.source] * widths[link.target] for link in card.links)))


def _allowed(dataset: Dataset, sets: list[tuple[str, Dataset]]) -> np.ndarray:
    """Return (images,) bool: those that every precomputed set holds under the same name."""
    every = np.ones(dataset.card.count, dtype=bool)
    for name, one in sets:
        held = set(map(class_names.plain, one.names))
        if len(held) < len(one.names):
            raise BadInput(f"The precomputed set '{name}' names an image twice; its images cannot be paired.")
        every &= np.array([class_names.plain(own) in held for own in dataset.names])
        if not every.any():
            raise BadInput(
                f"No image of the precomputed set '{name}' is named as one of '{dataset.card.name}'; they are paired by name."
            )
    return every


def _chosen(labels: np.ndarray, allowed: np.ndarray, images: Images) -> np.ndarray:
    """Return the rows of a stratified sample, sorted by class and row; each class has its share, drawn by the seed."""
    available = int(allowed.sum())
    if images.count > available:
        raise BadInput(f"The plan wants {images.count} images, and only {available} are there; lower images.count.")
    generator = np.random.default_rng(images.seed)
    results = []
    present = np.unique(labels[allowed])
    counts = np.array([int((allowed & (labels == label)).sum()) for label in present])
    for label, quota in zip(present, _quotas(counts, images.count), strict=True):
        of_class = np.flatnonzero(allowed & (labels == label))
        results.append(np.sort(generator.permutation(of_class)[:quota]))
    return np.concatenate(results)


def _quotas(counts: np.ndarray, wanted: int) -> np.ndarray:
    """Share out `wanted` in proportion to `counts`; what rounding leaves over goes to the largest remainders."""
    exact = counts * wanted / counts.sum()
    quotas = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - quotas), kind="stable")
    quotas[order[: wanted - int(quotas.sum())]] += 1
    return quotas


def _images(dataset: Dataset, classes: tuple[str, ...], rows: np.ndarray) -> Chosen:
    labels = dataset.labels_for_classes(classes)
    samples = tuple(dataset.keys[row] for row in rows)
    return Chosen(
        data=dataset.card.name,
        content_hash=dataset.card.content_hash,
        samples=samples,
        names=tuple(dataset.names[row] for row in rows),
        labels=tuple(int(labels[row]) for row in rows),
        hashes=dataset.image_hashes(samples),
    )


def _paired(name: str, dataset: Dataset, classes: tuple[str, ...], images: Chosen) -> PrecomputedImages:
    place = {class_names.plain(own): row for row, own in enumerate(dataset.names)}
    rows = [place[class_names.plain(own)] for own in images.names]
    labels = dataset.labels_for_classes(classes)
    for own, row, label in zip(images.names, rows, images.labels, strict=True):
        if int(labels[row]) != label:
            raise BadInput(
                f"Image '{own[:80]}' of the precomputed set '{name}' is labelled '{classes[labels[row]]}', the original "
                f"'{classes[label]}'; a precomputed set holds the true classes."
            )
    samples = tuple(dataset.keys[row] for row in rows)
    return PrecomputedImages(name, dataset.card.name, dataset.card.content_hash, samples, dataset.image_hashes(samples))


def _conditions(plan: AuditPlan, models: tuple[AuditedModel, ...]) -> tuple[Condition, ...]:
    treatments: list[tuple[Kind, str, str]] = [("clean", CLEAN, CLEAN)]
    treatments += [("control" if attack.is_control else "attack", attack.text, attack.name) for attack in plan.attacks]
    treatments += [("attack", item.text, item.name) for item in plan.in_cascade]
    treatments += [("premade", item.name, item.name) for item in plan.precomputed]
    treatments += [("control", control.text, control.name) for control in plan.controls]
    treatments += [("curve", item.text, item.name) for item in plan.curve if item not in plan.attacks]
    in_cascade = {item.text for item in plan.in_cascade}
    conditions: list[Condition] = []
    for model in models:
        before: list[str] = []
        for kind, name, stem in treatments:
            folder = f"{len(conditions):02d}-{model.role}-{stem}"
            after = tuple(before) if name in in_cascade else ()
            conditions.append(Condition(folder, model.role, kind, name, after))
            if kind == "attack":
                before.append(folder)
    return tuple(conditions)


def _block(models: tuple[AuditedModel, ...]) -> int:
    area = max(model.size[0] * model.size[1] for model in models)
    return max(8, min(96, PIXELS // area))
