"""The nouns of Faultline. Frozen, numpy only: what leaves a worker, lies in the store and stands on the screen.

JSON-able nouns compare by value and serve as cache keys; nouns that hold arrays have `eq=False` and read-only arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import numpy as np

from engine import selection

Array = np.ndarray
Status = Literal["fooled", "resisted", "clean_wrong", "unperturbed", "failed"]
Role = Literal["stem", "inner", "block", "evidence"]

STATUSES: tuple[Status, ...] = ("fooled", "resisted", "clean_wrong", "unperturbed", "failed")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the network whose feature maps can be recorded, scored and replaced."""

    name: str
    """Dotted module name, unique in its model; a second call of one module carries `#2`."""
    channels: int
    height: int
    width: int
    stage: str
    role: Role
    is_cut: bool
    """True where every path runs through this site: copying all of its maps restores any answer."""
    field_size: int
    """Side of the receptive field of one position, in input pixels."""
    field_jump: int
    """Input pixels between the fields of neighbouring positions."""
    field_start: float
    """Input coordinate of the centre of position 0's field."""

    @property
    def is_claimable(self) -> bool:
        """False where a few maps carry any answer trivially: the stem, and maps that are the classes' own evidence."""
        return self.role not in ("stem", "evidence")


@dataclass(frozen=True, slots=True)
class Link:
    """Two sites with nothing but linear layers (and one activation) between them."""

    source: int
    target: int
    """Indices into the model's sites; `target == len(sites)` is the logits."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What menus show of a model; needs no network."""

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


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """What menus show of a data set."""

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


@dataclass(frozen=True, slots=True)
class SettingCard:
    """One setting of an attack or method, as a form shows it."""

    name: str
    default: str
    low: float
    high: float
    help: str


@dataclass(frozen=True, slots=True)
class AttackCard:
    """What menus show of an attack."""

    name: str
    title: str
    norm: Literal["linf", "l2"]
    is_control: bool
    settings: tuple[SettingCard, ...]


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
    """One attacked image, judged by predicting the stored 8-bit image again."""

    sample: str
    label: int
    status: Status
    before: Prediction
    after: Prediction
    linf: float
    """Largest pixel change in [0, 1] units."""
    l2: float


@dataclass(frozen=True, slots=True)
class RosterRequest:
    """Which images to attack: all of one class of a data set, in order."""

    model: str
    data: str
    attack: str
    """Full id, for example `pgd-linf:eps=8/255,steps=10`."""
    label: int
    """Class index of the model."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Roster:
    """How every image of a class fared under one attack."""

    request: RosterRequest
    outcomes: tuple[Outcome, ...]

    def with_status(self, status: Status) -> tuple[Outcome, ...]:
        """Return the outcomes of one status, in data-set order."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == status)


@dataclass(frozen=True, slots=True)
class ExaminationRequest:
    """One pair (one sample) or a small group (several samples of one class) to examine."""

    model: str
    data: str
    attack: str
    samples: tuple[str, ...]
    method: str = "two-run"
    seed: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Datapath:
    """Which feature maps carry what the network says of one image or group."""

    method: str
    target: int
    """The class whose logit is explained; for a group, the commonest one."""
    baseline: str
    """`references` (other-class images), `blur` or `zero`."""
    scores: tuple[Array, ...]
    """Per site (images, channels) float32, signed: contribution of each map to the target's logit margin."""
    sizes: tuple[int, ...]
    """Numbers of maps really tried, the stem left out. References: transplanted; zero: kept while all others are zeroed."""
    carried: tuple[float, ...]
    """For each of `sizes`, the share of references into which the label was carried (zero: of images that kept it)."""
    carries_at: int | None
    """Smallest of `sizes` from which on the label is carried into at least 9 of 10 references, or None."""
    converged: bool

    @property
    def strength(self) -> tuple[Array, ...]:
        """Per site (channels,): mean over images of |score|, each image scaled to sum to one over all sites."""
        return selection.strength(self.scores)


@dataclass(frozen=True, eq=False, slots=True)
class Connection:
    """Exact contributions of one site's maps to the next along linear layers (E_ji of the design, section 4)."""

    source: int
    target: int
    clean: Array
    """(target channels, source channels) float32, mean over the images."""
    adversarial: Array
    completeness: float
    """Largest relative error of the sum of contributions against the directly computed total."""


@dataclass(frozen=True, eq=False, slots=True)
class Examination:
    """Everything of one pair, or of one small group of pairs."""

    key: str
    request: ExaminationRequest
    sites: tuple[Site, ...]
    links: tuple[Link, ...]
    classes: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    clean: Datapath
    adversarial: Datapath
    noise: Datapath
    """The same-norm noise control; `scores` rows are image-major: image 0's draws, then image 1's."""
    flow: tuple[Array, ...]
    """Attack flow: per site (images, channels), signed. What a map's change adds to the margin the attack took away."""
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


@dataclass(frozen=True, slots=True)
class SiteComparison:
    """How the two datapaths relate at one site."""

    site: str
    clean_only: tuple[int, ...]
    shared: tuple[int, ...]
    adversarial_only: tuple[int, ...]
    distance: float
    """1 - Jaccard of the clean and the adversarial datapath of an image, mean over images."""
    floor_low: float
    floor_high: float
    """The same distance to same-norm noisy copies: of one pair the range over the draws, else a 95 % interval."""
    flow: float
    """Attack flow of the site, share of the whole margin lost (signed)."""
    flow_floor: float
    """Largest |flow| of a noise draw, same unit."""
    distance_low: float = 0.0
    distance_high: float = 0.0
    """95 % bootstrap interval over the images; both the distance itself for a single pair."""
    p_value: float | None = None
    """One-sided, that the distance exceeds the floor, Holm-adjusted over the sites; None for a single pair."""
    target_only: tuple[int, ...] = ()
    """Maps of the fooled-into class's datapath that neither image's has."""
    noise_also: tuple[int, ...] = ()
    """Those of `adversarial_only` that noise of the same size brings in too."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Where the clean and the adversarial datapath part."""

    share: float
    sites: tuple[SiteComparison, ...]
    parts_at: str | None
    """First site whose distance exceeds the floor for two sites running, or None."""
    images: int = 1


@dataclass(frozen=True, slots=True)
class Certificate:
    """How far one datapath can be trusted. `None` reads "not run", never "passed"."""

    carries_at: int | None = None
    random_low: float | None = None
    random_high: float | None = None
    """Share of references carried by equally many random maps: 2.5 % and 97.5 % quantiles over the draws."""
    wrong_class: float | None = None
    """Share carried to a wrong third class when the score is aimed at it."""
    swap: float | None = None
    """Transplant: the same maps filled from another image give that image's class (high is right). Zero baseline: another
    image under this mask is called this image's class (high means the mask carries the label, not the image)."""
    noisy_copy: float | None = None
    """Share of references carried by a noisy copy of the *reference* in place of the image (must be near 0)."""
    one_site_gap: float | None = None
    """Keep minus swap when one site at a time keeps its top 30 %, mean over sites."""
    seed_jaccard: float | None = None
    noise_jaccard: float | None = None
    random_weights_jaccard: float | None = None


@dataclass(frozen=True, slots=True)
class Restoration:
    """Clean maps put back into the adversarial run, by attack flow and at random (the stem left out)."""

    sizes: tuple[int, ...]
    restored: tuple[float, ...]
    """Share of images whose clean label came back."""
    random: tuple[float, ...]
    """The same with equally many random maps, mean over the draws."""
    restores_at: int | None
    """Smallest of `sizes` that restores every image of the pair or group, or None."""


@dataclass(frozen=True, slots=True)
class Kinship:
    """Per site, how alike the adversarial datapath is to the true class's and to the fooled-into class's (Jaccard)."""

    true_class: tuple[float, ...]
    fooled_into: tuple[float, ...]
    images: int
    """Clean images behind each class's datapath."""
    merges_at: str | None
    """First site from which the fooled-into class stays the nearer one, or None."""


@dataclass(frozen=True, eq=False, slots=True)
class ClassDatapaths:
    """The datapaths of clean images of the true and of the fooled-into class, for sets of any size."""

    true: tuple[Array, ...]
    """Per site (channels,): strength of each map, mean over the class's images."""
    fooled: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Cross:
    """The 2 x 2 design, per site as Jaccard similarities: what differs because of the answer, what because of the input."""

    same_input_clean: tuple[float, ...]
    """The clean image asked for the true and for the fooled-into class."""
    same_input_adversarial: tuple[float, ...]
    same_answer_true: tuple[float, ...]
    """The clean and the adversarial image, both asked for the true class."""
    same_answer_fooled: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Certificates:
    """What is known so far of how far an examination can be trusted; parts arrive one by one."""

    clean: Certificate = Certificate()
    adversarial: Certificate = Certificate()
    restoration: Restoration | None = None
    kinship: Kinship | None = None
    done: tuple[str, ...] = ()
    """Names of the parts that have arrived."""
    failed: tuple[str, ...] = ()
    """Messages of parts that ended without a result."""
    classes: ClassDatapaths | None = None
    cross: Cross | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Gallery:
    """Top patches of every feature map over (a sample of) the data set."""

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
    """Set when ready; while working it may hold what has arrived so far (certificates)."""
    done: int = 0
    total: int = 0
    message: str = ""
