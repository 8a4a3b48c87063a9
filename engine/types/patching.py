"""The nouns of activation patching: which channels were put where, what it did, and what its controls did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from engine import hashing, statistics
from engine.errors import BadSetting
from engine.hashing import Schema, stored_as
from engine.specs.catalogue import StoredAttack
from engine.specs.methods import PLAIN_FLOW, StoredMethod, StoredRanking
from engine.statistics import Estimate
from engine.types.faithfulness import (
    CircuitMeasures,
    Estimates,
    Localisation,
    Monotone,
    PoolSearch,
    RankingTable,
    Restore,
    Stability,
    Sufficient,
    Transplant,
)

Direction = Literal["restore", "inject"]
"""`restore`: clean maps into the adversarial run; `inject`: adversarial maps into the clean run."""
ControlName = Literal["random", "same layers", "largest change", "third class", "noisy copy", "another image"]
CONTROLS: dict[ControlName, str] = {
    "random": "As many channels, drawn from all layers that claims may use.",
    "same layers": "In every layer as many channels as were chosen there, drawn from all of the layer: the control that decides.",
    "largest change": "The channels that the attack changed most, as many.",
    "third class": (
        "The channels with the most attack conductance towards a class that is neither the true nor the "
        "predicted one; counted is that class."
    ),
    "noisy copy": "The same channels, from a copy of the receiving image under noise of the attack's L2 norm.",
    "another image": "The same channels, from a clean image of another class.",
}
"""What each control puts in; each but `COMPARED` must do less than the chosen maps."""
TITLES: dict[str, str] = {
    "attack flow": "attack conductance",
    "standing out": "standing out (default)",
    "layer-matched": "layer-matched random",
    "one set for all": "one set for all images",
    "datapath difference": "datapath difference",
    "largest change": "largest activation change",
    "random": "random channels",
    "same layers": "layer-matched random",
    "third class": "wrong target",
    "noisy copy": "norm-matched noise",
    "another image": "cross-image",
}
"""What a control or a line of a curve is called wherever it is shown; stored results hold the names on the left."""
DECISIVE: ControlName = "same layers"
"""The control that decides a claim."""
COMPARED: ControlName = "largest change"
"""Another way to choose, not a control: that it restores too does not speak against the chosen maps."""


@dataclass(frozen=True, slots=True)
class MapSet:
    """Feature maps by site, both in the order of the network; no map twice."""

    SCHEMA: ClassVar[Schema] = Schema("channel-set/1", "MapSet")

    sites: tuple[str, ...]
    channels: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """Maps in all."""
        return sum(len(channel) for channel in self.channels)


@dataclass(frozen=True, slots=True)
class Effect:
    """What one intervention did to the images; `n` trials."""

    n: int
    recovery: float
    """Share of the margin that the attack took (or, injecting, that is taken), mean over trials; 1 is all of it."""
    recovery_low: float | None
    recovery_high: float | None
    """95 % bootstrap interval over images; None for a single one."""
    flipped: float
    """Share of trials that give the class aimed at."""
    flipped_low: float
    flipped_high: float
    """95 % interval: Wilson over trials, or bootstrap over images where several trials of an image make that the wider one."""


@dataclass(frozen=True, slots=True)
class Control:
    """What a control did; `their_own` is the share that gave the class of the values put in, where they have one."""

    name: ControlName
    effect: Effect
    draws: int
    """Interventions per image."""
    their_own: float | None = None
    excess: Estimate | None = None
    """By how much the chosen maps exceed it, paired on images; of random maps alone, None in results of version 0.1."""


@dataclass(frozen=True, slots=True)
class MapResponse:
    """How one map answers to the images under attack, beside its answer to the clean ones."""

    site: str
    channel: int
    silenced: int
    """Images in which its largest absolute value falls to half or less."""
    roused: int
    """Images in which it at least doubles."""


Verdict = Literal["supported", "same layers", "controls", "too few", "no effect", "trivial", "untested"]
"""What a causal test says: supported; any maps of these layers do the same; another control does it too; too few trials to
tell; nothing happens; everything runs through a chosen layer; the control that decides was not run."""


@dataclass(frozen=True, slots=True)
class CausalTest:
    """One intervention on the images of an explanation, beside its controls."""

    SCHEMA: ClassVar[Schema] = Schema("patching-test/1", "Proof")

    explanation: str = field(metadata=stored_as("examination"))
    direction: Direction
    chosen: MapSet
    effect: Effect
    recoveries: tuple[float, ...]
    """Per image."""
    labels: tuple[int, ...]
    """Per image, what the network says with the chosen maps put in."""
    confidences: tuple[float, ...]
    controls: tuple[Control, ...]
    missing: tuple[str, ...]
    """Controls that could not be run, each with its reason."""
    trivial: tuple[str, ...]
    """Chosen sites through which everything runs (stem, the classes' own evidence): they restore whatever is put there."""
    samples: tuple[str, ...] = ()
    """Keys of the images, in the order of `recoveries`."""
    responses: tuple[MapResponse, ...] = ()
    """Of the chosen maps, where they are few enough to be named in a sentence."""

    @property
    def verdict(self) -> Verdict:
        """What may be said of the chosen maps; `COMPARED` has no say.

        Of several images a claim needs an excess over layer-matched random maps whose interval lies above zero, and every
        other control below the chosen maps beyond both intervals; where only the intervals meet, the images are too few. Of
        one image, whose own answer is a fact, every control must stay below one half of its trials beyond its interval;
        where that is open, the trials are too few.
        """
        matched = next((control for control in self.controls if control.name == DECISIVE), None)
        if self.trivial:
            return "trivial"
        if matched is None or matched.excess is None:
            return "untested"
        refuting = [control for control in self.controls if control.name != COMPARED]
        if len(self.labels) == 1:
            return self._of_one(matched, refuting)
        if matched.excess.low <= 0:
            return "same layers"
        least = self.effect.flipped_low
        if any(control.effect.flipped >= least for control in refuting):
            return "controls"
        return "too few" if any(control.effect.flipped_high >= least for control in refuting) else "supported"

    def _of_one(self, matched: Control, refuting: list[Control]) -> Verdict:
        if not self.effect.flipped:
            return "no effect"
        sides = {
            control.name: statistics.against_half(round(control.effect.flipped * control.effect.n), control.effect.n)
            for control in refuting
            if control.draws > 1 or control.effect.flipped
        }
        if sides[matched.name] == "above":
            return "same layers"
        if "above" in sides.values():
            return "controls"
        return "too few" if "too few" in sides.values() else "supported"

    @property
    def is_supported(self) -> bool:
        """Whether the claim holds: the chosen maps do it, and neither maps of the same layers nor another control does."""
        return self.verdict == "supported"


CurveName = Literal[
    "attack flow",
    "one set for all",
    "datapath difference",
    "largest change",
    "standing out",
    "layer-matched",
    "random",
    "third class",
    "noisy copy",
    "another image",
]
CURVES: dict[CurveName, str] = {
    "attack flow": "Each image's channels with the most attack conductance.",
    "one set for all": "The channels with the most attack conductance over the group, each image scaled to one; the same for all.",
    "datapath difference": (
        "Each image's channels in which the two-run datapaths of the clean and the adversarial image differ most."
    ),
    "largest change": "Each image's channels whose values the attack changed most, each layer's changes scaled to one.",
    "standing out": "Each image's channels that stand out most in their layer: attack conductance over its mean there.",
    "layer-matched": "Control of standing out: in every layer as many channels, drawn from all of the layer.",
    "random": "As many channels, drawn from all layers that claims may use.",
    "third class": "Control: each image's channels with the most conductance towards an uninvolved class; counted is that class.",
    "noisy copy": "Control: the same channels, from the adversarial image under noise of the attack's L2 norm.",
    "another image": "Control: the same channels, from a clean image of another class.",
}
"""Which maps each line patches, and from where."""
CHOICES: frozenset[CurveName] = frozenset(
    {"attack flow", "one set for all", "datapath difference", "largest change", "standing out"}
)
"""Ways to choose maps; all other lines are controls."""
SiteChoice = Literal["all", "blocks"]
"""All sites of a network, or its stem and block outputs alone."""
MeanKind = Literal["position", "channel"]
"""What a map is set to: its mean at every position, or one mean for the whole map."""


@dataclass(frozen=True, slots=True)
class FooledRequest:
    """Attacked images to look at, of one class or several; those that the attack does not fool are left out."""

    SCHEMA: ClassVar[Schema] = Schema("attacked-group/1", "FooledRequest")

    model: str
    data: str
    attack: StoredAttack
    samples: tuple[str, ...]
    seed: int = 0
    sites: SiteChoice = field(default="all", metadata=hashing.GROWN)


class OfGroup:
    """What is asked of the images of a group: model, data and sites are the group's."""

    __slots__ = ()
    group: FooledRequest

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.group.model

    @property
    def data(self) -> str:
        """Name of the data set."""
        return self.group.data

    @property
    def sites(self) -> SiteChoice:
        """Which sites the network is looked at by."""
        return self.group.sites


@dataclass(frozen=True, slots=True)
class StrongestRequest(OfGroup):
    """How many of the maps that come first over the images of a group that the attack fools."""

    SCHEMA: ClassVar[Schema] = Schema("strongest-channels-request/1")

    group: FooledRequest
    count: int
    ranking: StoredRanking = field(default=PLAIN_FLOW, metadata=hashing.GROWN)


@dataclass(frozen=True, slots=True)
class GroupTestRequest(OfGroup):
    """Which maps to put where in the runs of all images of a group that the attack fools."""

    SCHEMA: ClassVar[Schema] = Schema("group-patching-request/1", "GroupProofRequest")

    group: FooledRequest
    chosen: MapSet
    direction: Direction


@dataclass(frozen=True, slots=True)
class Group:
    """Whom a result is about and which maps it could choose."""

    attempted: int
    samples: tuple[str, ...]
    """The fooled ones, in the order of the request."""
    total: int
    """Maps that claims may use."""
    excluded: tuple[str, ...]
    """Sites that no map is chosen of: a few of them carry any answer trivially (stem, the classes' own evidence)."""


@dataclass(frozen=True, slots=True)
class SmallestSet:
    """The smallest set of maps found that restores one image's label, from which no single map can be left out."""

    sample: str
    chosen: MapSet
    prefix: int
    """Maps with the most attack conductance that restore it, before those that are not needed were taken out."""
    is_restored: bool
    """By a real pass with exactly these maps; False where all maps together do not restore it."""
    recovery: float
    """Share of the margin, by the same pass."""
    random: float
    """Share of random sets of the same size that restore it."""
    matched: float | None = None
    """The same with as many maps of the same layers, drawn from all maps there; None in records of version 0.2 and before."""
    ranked: int | None = None
    """Maps of the set that the first ranking alone leads to: its shortest prefix that restores, pruned."""
    bound: int = 1
    """No set of fewer maps restores: `singles` and `pairs` without any assumption, the rest if more maps never undo it."""
    singles: int = 0
    """Single maps tried, every one that may be chosen or none; those that restore are told by `chosen`."""
    pairs: int = 0
    """Pairs of the maps with the most re-scored flow, tried likewise."""
    exact: int | None = None
    """Maps of the set that trying every map at every step leads to; None where that was not done."""


@dataclass(frozen=True, slots=True)
class SharedSet:
    """The smallest set of maps found that restores a share of a group's images, the same maps for all of them."""

    wanted: float
    """Share of the images."""
    is_reached: bool
    chosen: MapSet
    prefix: int
    effect: Effect
    random: Effect
    """Random sets of the same size, drawn for each image."""


@dataclass(frozen=True, slots=True)
class SmallestSets:
    """The smallest sets found, per image and for the group: ranked, pruned, swapped; each verified by a real pass."""

    SCHEMA: ClassVar[Schema] = Schema("minimal-sets/1", "SmallestSets")

    group: Group
    images: tuple[SmallestSet, ...]
    sizes: Estimate | None
    """Mean number of maps over images that were restored, with its bootstrap interval; None for fewer than two."""
    prefixes: Estimate | None
    """The same before pruning."""
    effect: Effect
    """Each image with its own set."""
    random: Effect
    """Random sets, as large as each image's own."""
    draws: int
    """Random sets per image."""
    shared: SharedSet
    matched: Effect | None = None
    """Sets of as many maps of the same layers, drawn from all maps there; None in records of version 0.2 and before."""
    ranked: Estimate | None = None
    """Mean number of maps by the first ranking and pruning alone."""
    bounds: Estimate | None = None
    """Mean number of maps below which no set restores, over the same images as `sizes`."""
    monotone: Monotone | None = None
    pools: tuple[PoolSearch, ...] = ()
    passes: int = 0
    """Image-passes that swaps, bound and each pool could use per image, about."""


@dataclass(frozen=True, slots=True)
class CurveLine:
    """One way to choose maps, or one control; one entry per number of maps."""

    name: CurveName
    effects: tuple[Effect, ...]
    their_own: tuple[Estimate, ...] = ()
    """Where the values have a class of their own (another image): the share that gave it; high is right."""


@dataclass(frozen=True, slots=True)
class RestorationCurve:
    """Clean channels patched into a group's adversarial runs: share of labels restored against the number of channels."""

    SCHEMA: ClassVar[Schema] = Schema("patching-curve/1", "RestorationCurve")

    group: Group
    counts: tuple[int, ...]
    lines: tuple[CurveLine, ...]
    missing: tuple[str, ...]
    """Lines that could not be made, each with its reason."""
    draws: int
    """Random sets per image and number of maps."""


@dataclass(frozen=True, slots=True)
class SiteEffect:
    """Some maps of one site alone patched."""

    site: str
    maps: int
    effect: Effect
    """Those with the most attack conductance over the group."""
    random: Effect
    """As many random maps of the site."""


@dataclass(frozen=True, slots=True)
class SiteProfile:
    """What equally many maps of each site alone win back, in the order of the network."""

    SCHEMA: ClassVar[Schema] = Schema("layer-patching/1", "SiteProfile")

    group: Group
    sites: tuple[SiteEffect, ...]
    excluded: tuple[str, ...]
    """Sites left out because whatever is put there restores: the stem and those that every path runs through."""
    draws: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often the network is right on the same images before and after some of its maps were fixed."""

    before: Estimate
    after: Estimate
    change: Estimate
    """After less before, paired on images (Newcombe)."""
    random: Estimate | None
    """After fixing as many random maps, with the wider of two intervals (`Effect.flipped`); n counts draws on images."""
    beyond_random: Estimate | None
    """After less `random`, paired on images (bootstrap)."""


@dataclass(frozen=True, slots=True)
class Defence:
    """Whether the maps that restore one half of a group help the other half, and what fixing them would cost.

    The attack does not know of it: an attack on the changed network is another question.
    """

    SCHEMA: ClassVar[Schema] = Schema("mean-ablation/1", "Defence")

    searched: Group
    """The half that the maps were found on."""
    shared: SharedSet
    held_out: Group
    """The other half."""
    own_values: Effect
    """Held-out fooled images with their own clean values in the chosen maps."""
    own_values_random: Effect
    means: MeanKind
    """What the maps are fixed to in `adversarial` and `clean`: mean values over clean images."""
    mean_images: int
    adversarial: Accuracy
    """On all held-out attacked images that were right before the attack."""
    clean: Accuracy
    """On clean images of all classes that the maps were not found on."""
    draws: int
    """Random sets."""


FIRST = 128
"""Index of the first image by default: methods were chosen while looking at the ones before."""
MAPS = (8, 16, 32, 64, 128)
"""Numbers of maps over all claimable sites, unless others are asked for."""
FEWEST = 2
"""Images, and classes among them, that an evaluation needs."""


@dataclass(frozen=True, slots=True)
class LocalisationStudy:
    """The localisation profile of a group."""

    SCHEMA: ClassVar[Schema] = Schema("localisation/1")

    group: Group
    localisation: Localisation


@dataclass(frozen=True, slots=True)
class FaithfulnessStudy:
    """The measures of the channels with the most attack conductance on a group."""

    SCHEMA: ClassVar[Schema] = Schema("faithfulness-curve/1")

    group: Group
    measures: CircuitMeasures


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What to evaluate on which images."""

    SCHEMA: ClassVar[Schema] = Schema("evaluation-settings/1")

    attack: StoredAttack
    images: int
    """Correctly classified images wanted."""
    methods: tuple[StoredMethod, ...]
    first: int = FIRST
    seed: int = 0
    maps: tuple[int, ...] = MAPS
    """Numbers of maps to move, smallest first; those that the network does not have are left out."""
    set_maps: int | None = field(default=None, metadata=hashing.GROWN)
    """Maps of the one set that is tested for independence, minimality and stability; None leaves `CircuitMeasures` out."""
    rankings: tuple[StoredRanking, ...] = field(default=(), metadata=hashing.GROWN)
    """Orders of activation patching that are compared by their excess over layer-matched random maps."""

    def __post_init__(self) -> None:
        if self.images < FEWEST:
            raise BadSetting(f"--images must be at least {FEWEST}, got {self.images}.")
        if self.first < 0:
            raise BadSetting(f"--first must not be negative, got {self.first}.")
        if not self.maps or self.maps[0] < 1 or list(self.maps) != sorted(set(self.maps)):
            raise BadSetting(f"--maps must be rising numbers from 1 on, got {', '.join(map(str, self.maps))}.")
        if self.set_maps is not None and self.set_maps < 1:
            raise BadSetting(
                f"--set must be at least 1 channel, got {self.set_maps}: a set of no channels restores nothing."
            )


@dataclass(frozen=True, slots=True)
class OneSite:
    """One site keeps a share of its maps, all others are whole; mean over the sites. One entry per share."""

    keep: Estimates
    swap: Estimates
    """An image of another class there is called this image's class: low is right."""


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method's answers."""

    method: StoredMethod
    passes_per_image: float
    """Image-passes of one score: one forward and backward of one image."""
    seconds_per_image: float
    sufficient: Sufficient
    transplant: Transplant
    restore: Restore
    joint_restore: Restore | None
    """Two-run alone: restoring by the joint mask gradients between the two runs instead of the attack conductance."""
    one_site: OneSite
    stability: Stability
    measures: CircuitMeasures | None = None
    """None where they were not asked for, as by versions that did not have them."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The whole table."""

    SCHEMA: ClassVar[Schema] = Schema("evaluation/1")

    request: EvaluationRequest
    model: str
    data: str
    images: int
    """Correctly classified images looked at."""
    fooled: int
    """Those that the attack fools: the denominator of `restore`."""
    sites: int
    total_maps: int
    left_out: tuple[str, ...]
    """Sites whose maps no claim may choose (`Site.is_claimable`)."""
    maps: tuple[int, ...]
    rows: tuple[MethodRow, ...]
    seconds: float
    missing: tuple[str, ...] = ()
    """Controls that the classes do not allow, each with its reason."""
    rankings: RankingTable | None = None
    """None where none was asked for, as in version 0.1."""


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """An evaluation of one model on one data set."""

    SCHEMA: ClassVar[Schema] = Schema("evaluation-request/1")

    model: str
    data: str
    sites: SiteChoice
    settings: EvaluationRequest
