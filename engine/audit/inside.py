"""Where attacks take hold over all images of a finished run: by layer, by class and by feature map, from its cube alone.

Every number is a sum over images that the run stored. Scores and flow of an image are scaled to a mean size of 1 over its maps,
so each image weighs the same, and a layer's part is a share of the image's own total.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import scipy  # its `special` and `cluster` are loaded at first use

from engine import statistics
from engine.attribution import comparison
from engine.audit import manifest as manifests
from engine.audit import results
from engine.audit.manifest import CANDIDATE, Condition, Manifest, Place, Role
from engine.audit.shards import Cube, Group, MapStatistics
from engine.errors import BadInput
from engine.statistics import Estimate
from engine.store import files

MOST_MAPS: Final = 50
"""Weak maps that are named."""
MOST_CLASSES: Final = 40
"""Classes that are shown one by one: of more, those with the most images."""
FEWEST_CLUSTERED: Final = 4
"""Classes below which any tree fits their distances."""
MOST_INTERIM: Final = 2**20
"""Conditions x classes x maps that are added up anew with every look at a run that goes on: 32 MB."""
MIXTURES: Final = 99
SEED: Final = 0
SIGNIFICANT: Final = 0.05
"""Adjusted p below which a feature map carries more than under noise."""
BY_CHANCE: Final = 0.05
"""Above this p, clusters are no better than those of classes mixed at random."""
FILES: Final = ("n", "sums", "squares")
ATTACKING: Final = ("attack", "premade")
"""Kinds of conditions that somebody made in order to fool."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which part of a run is looked into."""

    role: Role = CANDIDATE
    attacks: tuple[int, ...] = ()
    """Places among the conditions of the model; none is every attack."""
    classes: tuple[int, ...] = ()
    """Indices of true classes; none is all of them."""
    group: Group = "fooled"
    layer: str = ""
    """Whose feature maps are named; none is every layer."""


@dataclass(frozen=True, slots=True)
class LayerFlow:
    """One layer, as shares of the whole network: means over images without an interval, since sums by map give none."""

    layer: str
    channels: int
    flow: float
    """Net attack flow of the layer as a share of the size of all flow of an image; layers overlap."""
    score: float | None
    """Share of all |score| that falls on the layer, attacked minus clean; None without a clean image."""
    noise_flow: float | None
    """The same under the noise controls; None where the run has none, or no image of them."""
    noise_score: float | None


@dataclass(frozen=True, slots=True)
class ClassFlow:
    """Where attacks take hold in the images of one true class."""

    label: int
    n: int
    layers: tuple[float, ...]
    """Net attack flow of every layer, divided by the sum of their sizes."""
    cluster: int
    """From 1 in the order shown; 0 where classes are not clustered."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """How well a tree of classes fits their distances, against trees of classes mixed at random."""

    correlation: float
    """Cophenetic correlation of average linkage over city-block distances of the classes' shares."""
    p_value: float
    """Share of mixtures that fit as well, the real classes among them."""
    mixtures: int

    @property
    def is_better(self) -> bool:
        """Whether the classes cluster better than mixed ones."""
        return self.p_value <= BY_CHANCE


@dataclass(frozen=True, slots=True)
class WeakMap:
    """One feature map with the attack flow it carries; 1 is what a map carries on average, whatever its sign."""

    layer: str
    channel: int
    flow: Estimate
    """With Student's t interval over images; its ends are NaN for fewer than two."""
    layer_mean: float
    """What a map drawn at random from its layer carries: narrow layers that every path crosses have much on every map."""
    noise: Estimate | None
    p_value: float | None
    """Of more flow than under noise: Welch, one-sided, Holm over all maps of the network; None without two images of each."""

    @property
    def is_above_noise(self) -> bool:
        """Whether more of an image's change goes through it than under noise."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


@dataclass(frozen=True, slots=True)
class Inside:
    """What the images of one scope say."""

    scope: Scope
    attacks: tuple[int, ...]
    """Places of the attacks behind it."""
    controls: tuple[int, ...]
    n: int
    """Images, once for each attack that they met."""
    noise_n: int
    clean_n: int
    layers: tuple[LayerFlow, ...]
    classes: tuple[ClassFlow, ...]
    """In the order of their clusters, or of their indices."""
    with_images: int
    """Classes that have an image, shown or not."""
    clusters: Clusters | None
    """None for fewer classes than can be told apart."""
    maps: tuple[WeakMap, ...]
    """Those with the most attack flow, of the scope's layer or of all, the strongest first."""
    tested: int
    """Feature maps of the network."""


@dataclass(frozen=True, slots=True)
class Question:
    """A scope, in places of a cube."""

    scope: Scope
    sites: tuple[tuple[str, int], ...]
    clean: int
    attacks: tuple[int, ...]
    controls: tuple[int, ...]

    @property
    def labels(self) -> list[int] | None:
        """The chosen classes, as the cube takes them."""
        return list(self.scope.classes) or None


def of_run(place: Place, scope: Scope) -> Inside:
    """Return what a run says of a scope, also while it goes on. Raises BadInput and StoreError, which say why there is nothing."""
    manifest = manifests.read(place)
    asked = question(manifest, scope)
    if not results.is_finished(place):
        return _so_far(place, manifest, asked)
    return _of_run(place, asked, _marks(place, [f"cube-{scope.role}-{what}.npy" for what in FILES]))


def _so_far(place: Place, manifest: Manifest, question: Question) -> Inside:
    role = question.scope.role
    if math.prod(results.cube_shape(manifest, role)) > MOST_INTERIM:
        raise BadInput(
            "The run is not finished, and it has too many classes and feature maps to be added up while it goes on: where its "
            "attacks take hold is shown once every part is done."
        )
    with tempfile.TemporaryDirectory() as name:
        results.write_interim_cube(Path(name), place, manifest, role)
        return measured(Cube(Path(name), role), question)


def measured(cube: Cube, question: Question) -> Inside:
    """Return what a cube says of a scope."""
    scope, labels = question.scope, question.labels
    flow = cube.pooled(question.attacks, scope.group, "flow", labels)
    # Noise is the floor by the images that it leaves right: those that it fools are another group.
    noise = cube.pooled(question.controls, "kept", "flow", labels)
    clean = cube.pooled((question.clean,), "kept", "score", labels)
    classes, with_images, clusters = _classes(cube, question)
    return Inside(
        scope=scope,
        attacks=question.attacks,
        controls=question.controls,
        n=flow.n,
        noise_n=noise.n,
        clean_n=clean.n,
        layers=_layers(cube, question, (flow, noise, clean)) if flow.n else (),
        classes=classes,
        with_images=with_images,
        clusters=clusters,
        maps=_weak_maps(question, flow, noise) if flow.n else (),
        tested=len(flow.mean),
    )


def question(manifest: Manifest, scope: Scope) -> Question:
    """Return a scope in places of the model's conditions; raises BadInput for what the run does not have."""
    if not manifest.is_scored:
        raise BadInput("This run was planned with the method 'none': it scored no feature maps, so none can be shown.")
    sites = manifest.model(scope.role).sites
    own = manifest.of(scope.role)
    known = _places(manifest, own, ATTACKING)
    if not known:
        raise BadInput("This run has no attack whose feature maps were scored.")
    require_choice(manifest, scope, known)
    if scope.layer and scope.layer not in [name for name, _ in sites]:
        raise BadInput(f"The model of this run has no layer called '{scope.layer[:80]}'.")
    (clean,) = _places(manifest, own, ("clean",))
    return Question(scope, sites, clean, scope.attacks or known, _places(manifest, own, ("control",)))


def require_choice(manifest: Manifest, scope: Scope, known: Sequence[int]) -> None:
    """Raise BadInput for a chosen attack that is none of the known places, and for a class that the run does not have."""
    unknown = [place for place in scope.attacks if place not in known]
    if unknown:
        raise BadInput(f"Condition {unknown[0]} of this run is no attack; attacks are {', '.join(map(str, known))}.")
    wrong = [label for label in scope.classes if not 0 <= label < len(manifest.classes)]
    if wrong:
        raise BadInput(f"This run has classes 0 to {len(manifest.classes) - 1}, got {wrong[0]}.")


def in_classes(manifest: Manifest, scope: Scope) -> np.ndarray:
    """Return (images,) bool: of the chosen true classes."""
    labels = np.array(manifest.images.labels)
    return np.isin(labels, scope.classes) if scope.classes else np.ones(len(labels), dtype=bool)


def _places(manifest: Manifest, own: Sequence[Condition], kinds: Sequence[str]) -> tuple[int, ...]:
    return tuple(place for place, one in enumerate(own) if one.kind in kinds and manifest.scores(one))


Mark = tuple[Path, int, int]
"""A file, when it was changed, and its size."""


def _marks(place: Place, names: Sequence[str]) -> tuple[Mark, ...]:
    with files.disk_errors("reading a result"):
        return tuple(_mark(place, name) for name in names)


def _mark(place: Place, name: str) -> Mark:
    path = place.result / name
    if not path.is_file():
        raise results.damage(place, name)
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=64)
def _of_run(place: Place, question: Question, marks: tuple[Mark, ...]) -> Inside:
    """Two panels ask for the same, and Back asks for what was shown before."""
    results.require_sealed(place, [path.name for path, _, _ in marks])
    return measured(results.open_cube(place, question.scope.role), question)


def _by_layer(values: np.ndarray, sites: Sequence[tuple[str, int]]) -> np.ndarray:
    """Return (..., layers): sums over the maps of each layer, as shares of a whole in which every map has 1."""
    starts = np.cumsum([0, *(channels for _, channels in sites)])[:-1]
    shares: np.ndarray = np.add.reduceat(values, starts, axis=-1) / values.shape[-1]
    return shares


def _layers(
    cube: Cube, question: Question, known: tuple[MapStatistics, MapStatistics, MapStatistics]
) -> tuple[LayerFlow, ...]:
    flow, noise, clean = known
    score = cube.pooled(question.attacks, question.scope.group, "score", question.labels).mean - clean.mean
    noise_score = cube.pooled(question.controls, "kept", "score", question.labels).mean - clean.mean
    columns = [
        _by_layer(values, question.sites).tolist() if n else [None] * len(question.sites)
        for values, n in (
            (flow.mean, flow.n),
            (score, clean.n),
            (noise.mean, noise.n),
            (noise_score, min(noise.n, clean.n)),
        )
    ]
    return tuple(
        LayerFlow(name, channels, *shares) for (name, channels), *shares in zip(question.sites, *columns, strict=True)
    )


def _classes(cube: Cube, question: Question) -> tuple[tuple[ClassFlow, ...], int, Clusters | None]:
    group = question.scope.group
    counts = cube.counts(question.attacks, group)
    wanted = question.scope.classes or range(cube.classes)
    present = [label for label in sorted(wanted) if counts[label]]
    shown = sorted(sorted(present, key=lambda label: -counts[label])[:MOST_CLASSES])
    if not shown:
        return (), 0, None
    shares = _by_layer(cube.sums(question.attacks, group, "flow", shown), question.sites)
    sizes = np.abs(shares).sum(axis=1, keepdims=True)
    shares = np.divide(shares, sizes, out=np.zeros_like(shares), where=sizes > 0)
    clusters = clustered(shares) if len(shown) >= FEWEST_CLUSTERED else None
    order, members = (
        _ordered(shares) if clusters and clusters.is_better else (list(range(len(shown))), [0] * len(shown))
    )
    classes = tuple(ClassFlow(shown[k], int(counts[shown[k]]), tuple(shares[k].tolist()), members[k]) for k in order)
    return classes, len(present), clusters


def clustered(shares: np.ndarray) -> Clusters:
    """Return how well classes cluster by their shares, (classes, layers), against classes mixed at random, by a fixed seed.

    A rotation test (Langsrud, Statistics and Computing 15 (2005) 53): mixtures keep the mean and how layers vary together, which
    shuffling each layer by itself does not: of 40 sets without clusters it found some in 6 where layers share three causes.
    """
    own, mean, count = _fit(shares), shares.mean(axis=0), len(shares)
    basis = np.linalg.qr(np.column_stack([np.ones(count), np.eye(count)[:, 1:]])).Q[:, 1:]
    spread = basis.T @ (shares - mean)
    generator = np.random.default_rng(SEED)
    mixed = [_fit(mean + basis @ _rotation(generator, count - 1) @ spread) for _ in range(MIXTURES)]
    as_good = sum(value >= own for value in mixed)
    return Clusters(own, (1 + as_good) / (1 + MIXTURES), MIXTURES)


def _rotation(generator: np.random.Generator, size: int) -> np.ndarray:
    """Return one of all rotations and reflections, each as likely (Mezzadri 2007)."""
    drawn = np.linalg.qr(generator.normal(size=(size, size)))
    rotation: np.ndarray = drawn.Q * np.sign(np.diag(drawn.R))
    return rotation


def _distances(shares: np.ndarray) -> np.ndarray:
    distances: np.ndarray = scipy.spatial.distance.pdist(shares, "cityblock")
    return distances


def _fit(shares: np.ndarray) -> float:
    """Return the cophenetic correlation; 0 for classes that are all alike."""
    distances = _distances(shares)
    tree = scipy.cluster.hierarchy.cophenet(scipy.cluster.hierarchy.linkage(distances, "average"))
    if np.ptp(distances) == 0 or np.ptp(tree) == 0:
        return 0.0
    return float(np.corrcoef(distances, tree)[0, 1])


def _ordered(shares: np.ndarray) -> tuple[list[int], list[int]]:
    """Return the order of the leaves of the tree, and the cluster of each class, cut where joining costs most."""
    hierarchy = scipy.cluster.hierarchy
    tree = hierarchy.linkage(_distances(shares), "average", optimal_ordering=True)
    order = hierarchy.leaves_list(tree).tolist()
    count = len(shares) - 1 - int(np.argmax(np.diff(tree[:, 2])))
    raw = hierarchy.fcluster(tree, count, criterion="maxclust").tolist()
    numbers = {one: place for place, one in enumerate(dict.fromkeys(raw[k] for k in order), start=1)}
    return order, [numbers[one] for one in raw]


def _weak_maps(question: Question, flow: MapStatistics, noise: MapStatistics) -> tuple[WeakMap, ...]:
    attacked, floor = _Means.of(flow, len(question.attacks)), _Means.of(noise, len(question.controls))
    p_values = comparison.holm(_above(attacked, floor)) if attacked.has_spread and floor.has_spread else None
    names = [(name, channel) for name, channels in question.sites for channel in range(channels)]
    widths = [channels for _, channels in question.sites]
    layer_means = np.repeat(_by_layer(flow.mean, question.sites) * len(flow.mean) / widths, widths)
    layer = question.scope.layer
    ranked = np.argsort(-flow.mean, kind="stable").tolist()
    strongest = [k for k in ranked if layer in ("", names[k][0])][:MOST_MAPS]
    return tuple(
        WeakMap(
            names[k][0],
            names[k][1],
            attacked.estimate(k),
            float(layer_means[k]),
            floor.estimate(k) if noise.n else None,
            None if p_values is None else float(p_values[k]),
        )
        for k in strongest
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Means:
    """Means of every map over images, and how far they can be off."""

    n: int
    mean: np.ndarray
    images: float
    """Images that are taken for independent: one that met k attacks counts once, so that its k values may all agree."""
    error: np.ndarray
    """Standard error of each mean."""

    @classmethod
    def of(cls, known: MapStatistics, conditions: int) -> _Means:
        images = known.n / max(1, conditions)
        return cls(known.n, known.mean, images, np.sqrt(known.variance / max(images, 1.0)))

    @property
    def has_spread(self) -> bool:
        return self.images >= 2

    def estimate(self, place: int) -> Estimate:
        mean, reach = float(self.mean[place]), float(statistics.reach(self.error[place], self.images))
        return Estimate(mean, mean - reach, mean + reach, self.n)


def _above(first: _Means, second: _Means) -> np.ndarray:
    """Return (maps,) one-sided p of Welch's test that the first mean is larger; 1 where nothing varies or differs."""
    own, other = first.error**2, second.error**2
    total, difference = own + other, first.mean - second.mean
    is_fixed = total == 0
    spread = np.where(is_fixed, 1.0, total)
    weights = own**2 / (first.images - 1) + other**2 / (second.images - 1)
    freedom = spread**2 / np.where(is_fixed, 1.0, weights)
    p_values: np.ndarray = scipy.special.stdtr(freedom, -difference / np.sqrt(spread))
    return np.where(is_fixed, np.where(difference > 0, 0.0, 1.0), p_values)
