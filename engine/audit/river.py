"""The datapaths of a whole run: which feature maps its clean and its attacked images rely on, and what joins them.

The rule is that of an explanation (`statistics.per_site` of mean |score|, each image scaled alike), on the means that the run's
cube holds. Clean images, noise and connections are stated with the number of images behind each.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine import statistics
from engine.audit import connections, inside, results
from engine.audit import manifest as manifests
from engine.audit.inside import Inside, Question, Scope
from engine.audit.manifest import Manifest, Place
from engine.audit.shards import GROUPS, Cube
from engine.errors import BadInput, StoreError
from engine.store import Store
from engine.types.core import Connection, Link, Side, Site, why_inexact
from engine.types.faithfulness import Comparison, SiteComparison

Strengths = tuple[np.ndarray, ...]
"""Per site (channels,): mean over images of |score|, each image scaled to a mean of 1 over all maps."""
NOT_STORED = (
    "This run began with a version that stored no connections, so the bars stand without the bands between them."
)


@dataclass(frozen=True, eq=False, slots=True)
class IntoClasses:
    """Clean images of the classes that the scope's images were fooled into."""

    comparison: Comparison
    """Of the adversarial datapath with theirs, which stands in the clean one's place; without distances."""
    n: int
    """Fooled images whose answer is a class with clean images; each class counts as often as images were fooled into it."""
    clean_n: int
    classes: int
    likeness: tuple[float, ...]
    """Per site: Jaccard of the adversarial datapath with theirs."""


@dataclass(frozen=True, eq=False, slots=True)
class RunRiver:
    """Both datapaths of the images of a scope; what the river of an explanation needs, and the counts behind it."""

    inside: Inside
    sites: tuple[Site, ...]
    links: tuple[Link, ...]
    comparison: Comparison
    """Distances are of the means, so they have no interval and no test; floors: the range over the run's noise controls."""
    strengths: Mapping[str, Strengths]
    """`clean`, `adversarial`, and each noise control by name."""
    connections: tuple[Connection, ...]
    """One per link, means over the sampled images; none where `without` says why."""
    connected: Mapping[Side, int]
    """Sampled images behind the connections of each side."""
    without: str
    into: IntoClasses | None
    """None for images that kept their answer, and where no image of those classes was right."""

    @property
    def keeps_class(self) -> bool:
        """Whether the images kept their right answer."""
        return self.inside.scope.group == "kept"

    @property
    def inexact(self) -> dict[tuple[int, int], str]:
        """Why the edges of some links are not what changing one map alone does, by (source, target), in words."""
        return why_inexact(self.links, self.connections, head=len(self.sites)) if self.connections else {}


def of_run(store: Store, place: Place, scope: Scope, share: float) -> RunRiver:
    """Return the datapaths of a finished run at `share` kept maps of each layer.

    Raises BadInput and StoreError, which say why there is nothing.
    """
    if not 0.0 < share <= 0.5:
        raise BadInput(f"The share of kept channels must lie above 0 and at most at 0.5, got {share:g}.")
    found = inside.of_run(place, scope)
    manifest = manifests.read(place)
    if not found.n:
        raise BadInput("No image of the run is in this choice, so there are no datapaths.")
    question = inside.question(manifest, scope)
    own = manifest.model(scope.role)
    card = store.model_card(own.name)
    if card.content_hash != own.content_hash:
        raise BadInput(
            f"The model that is called '{own.name}' now is not the one of this run, so its layers cannot be put in order."
        )
    return _drawn(place, _Asked(manifest, question, found, share), (card.sites, card.links))


@dataclass(frozen=True, eq=False, slots=True)
class _Asked:
    manifest: Manifest
    question: Question
    found: Inside
    share: float

    @property
    def widths(self) -> list[int]:
        return [channels for _, channels in self.question.sites]

    @property
    def labels(self) -> list[int]:
        return sorted(self.question.scope.classes) or list(range(len(self.manifest.classes)))


def _drawn(place: Place, asked: _Asked, layout: tuple[tuple[Site, ...], tuple[Link, ...]]) -> RunRiver:
    cube = results.open_cube(place, asked.question.scope.role)
    strengths = _strengths(cube, asked)
    sides, connected, without = _connections(place, asked, layout[1])
    return RunRiver(
        inside=asked.found,
        sites=layout[0],
        links=layout[1],
        comparison=_comparison(asked, strengths, layout[0]),
        strengths=strengths,
        connections=sides,
        connected=connected,
        without=without,
        into=_into(place, cube, asked, (strengths["adversarial"], layout[0])),
    )


def _strengths(cube: Cube, asked: _Asked) -> dict[str, Strengths]:
    """Return the mean scores of attacked images, and of clean and of noisy images of the same classes in the same shares."""
    question, labels = asked.question, asked.labels
    counts = cube.counts(question.attacks, question.scope.group)[labels].tolist()
    weights = dict(zip(labels, counts, strict=True))
    attacked = cube.pooled(question.attacks, question.scope.group, "score", question.labels).mean
    names = asked.manifest.of(question.scope.role)
    others = {"clean": question.clean} | {names[control].name: control for control in question.controls}
    found = {name: _of_classes(cube, condition, weights)[0] for name, condition in others.items()}
    known = {"adversarial": attacked} | {name: mean for name, mean in found.items() if mean is not None}
    return {name: _by_site(mean, asked) for name, mean in known.items()}


def _of_classes(cube: Cube, condition: int, weights: Mapping[int, float]) -> tuple[np.ndarray | None, float, int]:
    """Return the mean |score| over images that stayed right, each class with its weight, the weight found, and the images.

    (maps,) float64; None where no class with a weight has an image.
    """
    counts = cube.counts((condition,), "kept")
    labels = [label for label, weight in weights.items() if weight and counts[label]]
    if not labels:
        return None, 0.0, 0
    means = cube.sums((condition,), "kept", "score", labels) / counts[labels][:, None]
    shares = np.array([weights[label] for label in labels])
    return shares @ means / shares.sum(), float(shares.sum()), int(counts[labels].sum())


def _by_site(values: np.ndarray, asked: _Asked) -> Strengths:
    return tuple(np.split(values, np.cumsum(asked.widths)[:-1]))


def _comparison(asked: _Asked, strengths: Mapping[str, Strengths], sites: tuple[Site, ...]) -> Comparison:
    kept = {name: statistics.per_site(own, asked.share) for name, own in strengths.items()}
    if "clean" not in kept:
        raise BadInput("No clean image of these classes was right, so there is no clean datapath.")
    noise = [own for name, own in kept.items() if name not in ("clean", "adversarial")]
    rows = []
    for k, (site, layer) in enumerate(zip(sites, asked.found.layers, strict=True)):
        clean, adversarial = kept["clean"][k], kept["adversarial"][k]
        floors = [1.0 - statistics.jaccard(clean, own[k]) for own in noise] or [float("nan")]
        also = [own[k] for own in noise]
        rows.append(
            SiteComparison(
                site=site.name,
                clean_only=_members(np.setdiff1d(clean, adversarial)),
                shared=_members(np.intersect1d(clean, adversarial)),
                adversarial_only=_members(np.setdiff1d(adversarial, clean)),
                distance=1.0 - statistics.jaccard(clean, adversarial),
                floor_low=min(floors),
                floor_high=max(floors),
                flow=layer.flow,
                flow_floor=float("nan") if layer.noise_flow is None else abs(layer.noise_flow),
                distance_low=float("nan"),
                distance_high=float("nan"),
                noise_also=_members(
                    np.intersect1d(np.setdiff1d(adversarial, clean), np.concatenate(also)) if also else np.empty(0, int)
                ),
                is_eligible=site.is_eligible,
            )
        )
    # No site is said to be where they diverge: means of all images have no test of that.
    return Comparison(asked.share, tuple(rows), None, asked.found.n)


def _members(indices: np.ndarray) -> tuple[int, ...]:
    return tuple(int(index) for index in indices)


def _into(place: Place, cube: Cube, asked: _Asked, known: tuple[Strengths, tuple[Site, ...]]) -> IntoClasses | None:
    question = asked.question
    if question.scope.group != "fooled":
        return None
    counts = _answers(place, asked)
    mean, weight, clean_n = _of_classes(cube, question.clean, counts)
    if mean is None:
        return None
    (adversarial, sites), own = known, _by_site(mean, asked)
    pairs = [
        (statistics.per_site((one,), asked.share)[0], statistics.per_site((other,), asked.share)[0])
        for one, other in zip(own, adversarial, strict=True)
    ]
    likeness = tuple(statistics.jaccard(*pair) for pair in pairs)
    nothing = float("nan")
    rows = tuple(
        SiteComparison(
            site=site.name,
            clean_only=_members(np.setdiff1d(first, second)),
            shared=_members(np.intersect1d(first, second)),
            adversarial_only=_members(np.setdiff1d(second, first)),
            distance=1.0 - like,
            floor_low=nothing, floor_high=nothing, flow=nothing, flow_floor=nothing, distance_low=nothing,
            distance_high=nothing, is_eligible=site.is_eligible,
        )
        for site, (first, second), like in zip(sites, pairs, likeness, strict=True)
    )  # fmt: skip
    classes = sum(1 for label, images in counts.items() if images and cube.counts((question.clean,), "kept")[label])
    return IntoClasses(Comparison(asked.share, rows, None, int(weight)), int(weight), clean_n, classes, likeness)


def _answers(place: Place, asked: _Asked) -> dict[int, float]:
    """Return how many of the scope's images were fooled into each class."""
    status = (place.result / results.TABLE).stat()
    conditions, labels, after = _fooled_rows(place, asked.question.scope.role, (status.st_mtime_ns, status.st_size))
    chosen = np.isin(conditions, asked.question.attacks) & np.isin(labels, asked.labels)
    counts = np.bincount(after[chosen], minlength=len(asked.manifest.classes))
    return {label: float(count) for label, count in enumerate(counts)}


@functools.lru_cache(maxsize=4)
def _fooled_rows(place: Place, role: str, mark: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return condition, true class and answer of every fooled image that is scored."""
    del mark
    manifest = manifests.read(place)
    table = results.read_table(place, ("role", "condition", "label", "after", "status", "is_scored"))
    names = {one.name: index for index, one in enumerate(manifest.conditions) if one.role == role}
    first = min(names.values())
    own = table["role"].to_numpy() == role
    kept = own & (table["status"].to_numpy() == "fooled") & table["is_scored"].to_numpy()
    conditions = np.array([names[name] - first for name in table["condition"].filter(kept).to_pylist()], dtype=np.int32)
    return conditions, table["label"].to_numpy()[kept], table["after"].to_numpy()[kept]


Found = tuple[tuple[Connection, ...], dict[Side, int], str]


def _connections(place: Place, asked: _Asked, links: tuple[Link, ...]) -> Found:
    """Return the mean connections of either side with their images, or none and one sentence why there are none."""
    nobody: dict[Side, int] = {"clean": 0, "adversarial": 0}
    if not asked.manifest.connected:
        return (), nobody, NOT_STORED
    role, classes = asked.question.scope.role, len(asked.manifest.classes)
    names = (connections.index_file(role), connections.sums_file(role), connections.sources_file(role))
    try:
        if names[0] not in results.read_seal(place)[1]:
            return (), nobody, "The run stored the connections of no image: none of its sample was scored."
        results.require_sealed(place, names)
        stored = results.open_connections(place, role)
        labels = asked.question.labels
        clean = stored.mean((asked.question.clean,), GROUPS.index("kept"), labels, classes)
        group = GROUPS.index(asked.question.scope.group)
        adversarial = stored.mean(asked.question.attacks, group, labels, classes)
        counts: dict[Side, int] = {"clean": clean.n, "adversarial": adversarial.n}
        if not clean.n or not adversarial.n:
            sample = len(asked.manifest.connected)
            return (), counts, (
                f"None of the {sample} images whose connections the run stored is in this choice on both sides (clean "
                f"n = {clean.n}, attacked n = {adversarial.n}), so the bars stand without bands."
            )  # fmt: skip
        return stored.connections({"clean": clean, "adversarial": adversarial}, links), counts, ""
    except StoreError as error:
        return (), nobody, f"The bands are not drawn: {error}"
