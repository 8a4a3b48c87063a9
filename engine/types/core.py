"""The nouns of the product: models, data sets, attack results, explanations, comparisons. Frozen, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, TypeVar

import numpy as np

from engine import hashing, statistics
from engine.hashing import Schema
from engine.specs.catalogue import StoredAttack
from engine.specs.methods import TWO_RUN, StoredMethod

Array = np.ndarray
Status = Literal["fooled", "resisted", "clean_wrong", "unperturbed", "failed", "broken_before"]
Role = Literal["stem", "inner", "block", "evidence"]
ChannelOrder = Literal["rgb", "bgr"]

STATUSES: tuple[Status, ...] = ("fooled", "resisted", "clean_wrong", "unperturbed", "failed", "broken_before")
"""The last one: not attacked, since an attack before it in the same audit fooled the image already."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the network whose feature maps can be recorded, scored and replaced."""

    SCHEMA: ClassVar[Schema] = Schema("layer/1", "Site")

    name: str
    """Dotted module name, unique in its model; a second call of one module carries `#2`."""
    channels: int
    height: int
    width: int
    stage: str
    role: Role
    is_cut: bool
    """True where every path runs through this site: copying all of its maps restores any answer."""
    field_size: float
    """Of the receptive field of one position along the height, in input pixels."""
    field_jump: float
    """Input pixels between the fields of neighbouring positions along the height."""
    field_start: float
    """Input coordinate of the centre of position 0's field along the height."""
    field_size_across: float | None = field(default=None, metadata=hashing.GROWN)
    """The same three along the width; None where they are as along the height."""
    field_jump_across: float | None = field(default=None, metadata=hashing.GROWN)
    field_start_across: float | None = field(default=None, metadata=hashing.GROWN)
    field_spans: tuple[tuple[tuple[int, int], ...], ...] = field(default=(), metadata=hashing.GROWN)
    """Where no rule says it (padding by reflection, flips): of each row, then of each column, the first and the last pixel; -1 for
    none."""
    field_is_turned: bool = field(default=False, metadata=hashing.GROWN)
    """Whether rows see the picture's columns, and columns its rows: the network transposed its maps."""

    def sees(self, row: int, column: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return from where to where a position sees the picture, in pixels: along the height, and along the width.

        It may reach beyond the picture; a position that depends on nothing sees a stretch of no length.
        """
        result = self._seen(0, row), self._seen(1, column)
        return (result[1], result[0]) if self.field_is_turned else result

    def _seen(self, axis: int, place: int) -> tuple[float, float]:
        if self.field_spans:
            first, last = self.field_spans[axis][place]
            return (float(first), last + 1.0) if first >= 0 else (0.0, 0.0)
        size, jump, start = self.receptive_field(axis)
        return start + jump * place - size / 2, start + jump * place + size / 2

    def receptive_field(self, axis: int) -> tuple[float, float, float]:
        """Return size, jump and start of the receptive field along the height (0) or the width (1)."""
        rows = self.field_size, self.field_jump, self.field_start
        across = self.field_size_across, self.field_jump_across, self.field_start_across
        return rows if axis == 0 or None in across else across  # type: ignore[return-value]

    @property
    def is_eligible(self) -> bool:
        """False where a few maps carry any answer trivially: the stem, and maps that are the classes' own evidence."""
        return self.role not in ("stem", "evidence")


@dataclass(frozen=True, slots=True)
class Link:
    """Two sites with nothing but linear layers (and one activation) between them."""

    SCHEMA: ClassVar[Schema] = Schema("edges/1", "Link")

    source: int
    target: int
    """Indices into the model's sites; `target == len(sites)` is the logits."""
    through: tuple[str, ...] = field(default=(), metadata=hashing.GROWN)
    """Names of gates and norms on the way. What they read of other maps counts as the map's own: the edge is not exact there."""


def narrowest_cut(sites: Sequence[Site]) -> Site | None:
    """Return the narrowest layer that every path runs through, of those that claims may use; None where there is none.

    All of its maps together restore any label, whatever the attack: a set of as many maps or more is no finding by its size.
    """
    return min(
        (site for site in sites if site.is_cut and site.is_eligible), key=lambda site: site.channels, default=None
    )


def bound_text(sites: Sequence[Site]) -> str:
    """Return the trivial bound of a network in one sentence."""
    cut = narrowest_cut(sites)
    if cut is None:
        return "Trivial bound: none, no single layer that claims may use carries every path."
    return f"Trivial bound: the {cut.channels} channels of {cut.name} alone restore any label, whatever the attack."


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What menus show of a model; needs no network."""

    SCHEMA: ClassVar[Schema] = Schema("model-card/1", "ModelCard")

    name: str
    architecture: str
    content_hash: str
    parameters: int
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    """Height and width of the input in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sites: tuple[Site, ...]
    links: tuple[Link, ...]
    added: str
    """UTC, ISO 8601."""
    resize: int | None = field(default=None, metadata=hashing.GROWN)
    """Pixels that the shortest side of a picture gets before its centre is cut out; None where the centre is just covered."""
    order: ChannelOrder = field(default="rgb", metadata=hashing.GROWN)
    """In which the network takes the channels; `mean` and `std` follow it."""
    plugin: str = field(default="", metadata=hashing.GROWN)
    """Hash of the plug-in that the architecture came from; empty for a registered one."""
    declared_accuracy: float | None = field(default=None, metadata=hashing.GROWN)
    """Clean accuracy that was claimed when the model was handed in, 0 to 1."""
    source: str = field(default="", metadata=hashing.GROWN)
    """What its weights were read from, for example `net.safetensors`; never a path."""
    licence: str = field(default="", metadata=hashing.GROWN)
    """As it was handed in; empty where nobody said."""


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """What menus show of a data set."""

    SCHEMA: ClassVar[Schema] = Schema("dataset-card/1", "DatasetCard")

    name: str
    content_hash: str
    count: int
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    channels: int
    size: tuple[int, int]
    source: str
    """What it was made from, for example `npz` or `folder`; never a path."""
    added: str
    epsilon: str = ""
    """Attack strength that menus start with, for example `8/255`; empty for each attack's own default."""
    warnings: tuple[str, ...] = ()
    """What an auditor should know of it, one sentence each, such as images that stand in it twice."""
    licence: str = field(default="", metadata=hashing.GROWN)
    """As it was handed in; empty where nobody said."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image."""

    label: int
    confidence: float
    """Softmax share of `label`, 0 to 1."""
    top: tuple[tuple[int, float], ...]
    """Up to five (class index, confidence), largest first."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attacked image, judged by predicting the stored 8-bit image again; `target` is the class aimed for, if any."""

    sample: str
    label: int
    status: Status
    before: Prediction
    after: Prediction
    linf: float
    """Largest pixel change in [0, 1] units."""
    l2: float
    target: int | None = None
    area: float = 1.0
    """Share of the picture that the smallest square around all changed pixels has; 1 where it was not measured."""
    l1: float | None = None
    """Sum of all changes in [0, 1] units; None where it was not measured."""

    def size(self, norm: str) -> float:
        """Return how large the change is in a norm, by its name; infinite where it was not measured."""
        l1 = math.inf if self.l1 is None else self.l1
        return {"linf": self.linf, "l2": self.l2, "l1": l1, "area": self.area}[norm]


@dataclass(frozen=True, slots=True)
class AttackResultsRequest:
    """Which images to attack: all of one class of a data set, in order."""

    SCHEMA: ClassVar[Schema] = Schema("attack-results-request/1", "RosterRequest")

    model: str
    data: str
    attack: StoredAttack
    label: int
    """Class index of the model."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class AttackResults:
    """How every image of a class fared under one attack."""

    SCHEMA: ClassVar[Schema] = Schema("attack-results/1", "Roster")

    request: AttackResultsRequest
    outcomes: tuple[Outcome, ...]

    def with_status(self, status: Status) -> tuple[Outcome, ...]:
        """Return the outcomes of one status, in data-set order."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == status)


@dataclass(frozen=True, slots=True)
class ExplanationRequest:
    """One pair (one sample) or a small group (several samples of one class) to examine."""

    SCHEMA: ClassVar[Schema] = Schema("explanation-request/1", "ExaminationRequest")

    model: str
    data: str
    attack: StoredAttack
    samples: tuple[str, ...]
    method: StoredMethod = TWO_RUN
    seed: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Datapath:
    """Which feature maps carry what the network says of one image or group."""

    method: StoredMethod
    target: int
    """The class whose logit is explained; for a group, the commonest one."""
    baseline: str
    """`references` (other-class images), `blur` or `zero`."""
    scores: tuple[Array, ...]
    """Per site (images, channels) float32, signed: contribution of each map to the target's logit margin."""
    sizes: tuple[int, ...]
    """Numbers of maps really tried, the stem left out. References: transplanted; zero: kept while all others are zeroed.

    Empty for the noise control, of which no size is claimed, and where every reference answers the target anyway.
    """
    carried: tuple[float, ...]
    """For each of `sizes`, the share of references into which the label was carried (zero: of images that kept it)."""
    carries_at: int | None
    """Smallest of `sizes` from which on the label is carried into at least 9 of 10 references, or None."""
    converged: bool

    @property
    def strength(self) -> tuple[Array, ...]:
        """Per site (channels,): mean over images of |score|, each image scaled to sum to one over all sites."""
        return statistics.strength(self.scores)


COMPLETE = 1e-4
"""Largest error of the sum of contributions, in float32, of a connection that is shown as exact."""
Side = Literal["clean", "adversarial"]
SIDES: tuple[Side, ...] = ("clean", "adversarial")
SPARSE = 4
"""A matrix is kept by its entries where at most one in so many is not zero."""


def entries_of(used: Array) -> Array | None:
    """Return per target map its source maps, (target channels, width) int32, where most entries are zero; else None.

    used: (target channels, source channels) bool, the entries that are not zero.
    """
    width = max(1, int(used.sum(axis=1).max(initial=0)))
    if width * SPARSE > used.shape[1]:
        return None
    return np.argsort(~used, axis=1, kind="stable")[:, :width].astype(np.int32)


@dataclass(frozen=True, eq=False, slots=True)
class Connection:
    """Exact contributions of one site's maps to the next along linear layers (E_ji of the design, section 4)."""

    source: int
    target: int
    clean: Array
    """(target channels, source channels) float32, mean over the images; or (target channels, width), see `sources`."""
    adversarial: Array
    completeness: float
    """Largest relative error of the sum of contributions against the directly computed total."""
    sources: Array | None = None
    """(target channels, width) int32: the source map of each entry, where few contribute to any one map (depthwise and
    grouped convolutions, shortcuts); None where the entries stand for all of them, in order.
    """

    @classmethod
    def of(cls, ends: tuple[int, int], clean: Array, adversarial: Array, completeness: float) -> Connection:
        """Return the connection of two whole matrices (target channels, source channels), without entries that are zero.

        MobileNetV2's depthwise convolutions alone would take 36 of 55 MB.
        """
        sources = entries_of((clean != 0) | (adversarial != 0))
        if sources is None:
            return cls(*ends, clean, adversarial, completeness)
        places = sources.astype(np.int64)
        kept = np.take_along_axis(clean, places, axis=1), np.take_along_axis(adversarial, places, axis=1)
        return cls(*ends, *kept, completeness, sources)

    def run(self, side: Side) -> Array:
        """Return the entries of the clean or of the adversarial run."""
        return self.clean if side == "clean" else self.adversarial

    def whole(self, side: Side, channels: int) -> Array:
        """Return the whole matrix (target channels, source channels) of a run."""
        entries = self.run(side)
        if self.sources is None:
            return entries
        result = np.zeros((len(entries), channels), entries.dtype)
        np.put_along_axis(result, self.sources.astype(np.int64), entries, axis=1)
        return result

    def into(self, side: Side, channel: int) -> tuple[Array, Array]:
        """Return which source maps lead into a map of the target, and their contributions."""
        entries = self.run(side)[channel]
        return (np.arange(len(entries)) if self.sources is None else self.sources[channel]), entries

    def out_of(self, side: Side, channel: int) -> Array:
        """Return (target channels,): what a map of the source contributes to each map of the target."""
        entries = self.run(side)
        if self.sources is None:
            return entries[:, channel]
        return (entries * (self.sources == channel)).sum(axis=1)

    def carried_back(self, side: Side, shares: Array, kept: Array | slice = slice(None)) -> Array:
        """Return (target channels, groups): the absolute contributions to `kept` maps, times what their sources share.

        shares: (source channels, groups).
        """
        strength = np.abs(self.run(side)[kept])
        if self.sources is None:
            return strength @ shares
        return np.einsum("tw,twg->tg", strength, shares[self.sources[kept]])


@dataclass(frozen=True, eq=False, slots=True)
class Explanation:
    """Everything of one pair, or of one small group of pairs."""

    SCHEMA: ClassVar[Schema] = Schema("explanation/1", "Examination")

    key: str
    request: ExplanationRequest
    sites: tuple[Site, ...]
    links: tuple[Link, ...]
    classes: tuple[str, ...]
    """What to call each class: its name, or `name@index` where the name stands twice."""
    outcomes: tuple[Outcome, ...]
    clean: Datapath
    adversarial: Datapath
    noise: Datapath
    """The same-norm noise control; `scores` rows are image-major: image 0's draws, then image 1's."""
    flow: tuple[Array, ...]
    """Attack conductance: per site (images, channels), signed. What a map's change adds to the margin the attack took away."""
    noise_flow: tuple[Array, ...]
    """The same for the noise control: (images * draws, channels)."""
    change: tuple[Array, ...]
    """Per site (channels,): relative L2 change of the map from clean to adversarial, mean over images, 0 to about 2."""
    connections: tuple[Connection, ...]
    """One per link, in the order of `links`; the last ones lead to the logits (rows: true class, fooled-into class)."""
    images: dict[str, Array] = field(default_factory=dict)
    """`clean`, `adversarial`, `noise`: (images, height, width, channels) uint8."""
    references: tuple[str, ...] = ()
    """Sample keys of the reference images."""
    passes: int = 0
    """Image-passes used (one forward and backward of one image)."""
    seconds: float = 0.0

    @property
    def has_noise_control(self) -> bool:
        """False while the noise control is still being computed: `noise` and `noise_flow` then have no rows."""
        return len(self.noise_flow[0]) > 0

    @property
    def keeps_class(self) -> bool:
        """Whether the attack left the class as it was."""
        return self.clean.target == self.adversarial.target

    @property
    def inexact(self) -> dict[tuple[int, int], str]:
        """Why the edges of some links are not what changing one map alone does, by (source, target), in words."""
        return why_inexact(self.links, self.connections, head=len(self.sites))


def why_inexact(links: Sequence[Link], connections: Sequence[Connection], *, head: int) -> dict[tuple[int, int], str]:
    """Return why the edges of some links are not what changing one map alone does, by (source, target), in words.

    connections: one per link, in the same order; head: the target that stands for the logits.
    """
    results = {}
    for link, connection in zip(links, connections, strict=True):
        if link.through:
            gates = "the gate" if len(link.through) == 1 else "the gates"
            results[link.source, link.target] = (
                f"a channel counts with what {gates} {', '.join(link.through)} read of others"
            )
        elif connection.completeness > COMPLETE:
            what = "several layers follow" if link.target == head else "contributions do not add up"
            results[link.source, link.target] = f"{what}: complete to {connection.completeness:.1%}"
    return results


@dataclass(frozen=True, eq=False, slots=True)
class Gallery:
    """Top patches of every feature map over (a sample of) the data set."""

    SCHEMA: ClassVar[Schema] = Schema("top-crops/1", "Gallery")

    samples: tuple[str, ...]
    """Sample keys that were looked at, correctly classified or not."""
    labels: Array
    """(samples,) int64 class indices."""
    relevance: tuple[Array, ...]
    """Per site (channels, top) int32 indices into `samples`, largest sum |gradient x activation| first."""
    relevance_positions: tuple[Array, ...]
    """Per site (channels, top) int32 flat positions (row * width + column) of the peak."""
    activation: tuple[Array, ...]
    """The same ranked by largest activation."""
    activation_positions: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What the auditor can say at once: the record, or how far the work is, or why it failed."""

    state: Literal["ready", "working", "failed"]
    value: T | None = None
    """Set when ready; while working it may hold what has arrived so far: faithfulness checks, a pair without its noise control."""
    done: int = 0
    total: int = 0
    message: str = ""
