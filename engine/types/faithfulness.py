"""How far an explanation can be trusted: the nouns, and how the parts that are computed apart merge."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

import numpy as np

from engine import statistics
from engine.hashing import Schema, stored_as
from engine.specs.methods import PLAIN_FLOW, StoredMethod, StoredRanking
from engine.statistics import Estimate

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class SiteSpan:
    """Where along the network something lies: the 95 % interval, by site, of a bootstrap over the images of a group."""

    first: str
    last: str | None
    """None where more than 2.5 % of the resamples never get there."""
    share: float
    """Share of the resamples that get there at all, 0 to 1."""


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
    """The same distance to same-norm noisy copies: of one pair the range over the draws, else a 95 % interval.
    NaN while the noise control is still being computed, as `flow_floor` is."""
    flow: float
    """Attack conductance of the site, share of the whole margin lost (signed)."""
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
    is_eligible: bool = True
    """False where a few maps carry any answer, so that nothing may be claimed of the site (`Site.is_claimable`)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Where the clean and the adversarial datapath part."""

    share: float
    sites: tuple[SiteComparison, ...]
    diverges_at: str | None
    """First claimable site whose distance exceeds the floor for two sites running, or None."""
    images: int = 1
    divergence_span: SiteSpan | None = None
    """Of `parts_at`, over the images; None for a single pair and where the datapaths hardly ever part."""
    diverges_from: str | None = None
    """First claimable site from which on every one exceeds its floor: there they have parted for good; or None."""


@dataclass(frozen=True, slots=True)
class DatapathChecks:
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
    not_applicable: tuple[str, ...] = ()
    """Names of fields that mean nothing for the method or the classes, whatever was run: `wrong_class` where it cannot be
    aimed, or where there is no class to aim at."""


RestorationVerdict = Literal["supported", "same layers", "too few", "no effect", "untested"]


@dataclass(frozen=True, slots=True)
class Restoration:
    """Clean channels patched into the adversarial run: by one ranking and at random.

    The stem is left out.
    """

    sizes: tuple[int, ...]
    restored: tuple[float, ...]
    """Share of images whose clean label came back."""
    random: tuple[float, ...]
    """The same with equally many random maps, mean over the draws."""
    restores_at: int | None
    """Smallest of `sizes` from which on at least 9 of 10 images are restored, each with maps of its own; or None."""
    draws: int = 0
    """Random sets per image behind `random`; 0 in results of versions that did not say."""
    ranking: StoredRanking = PLAIN_FLOW
    """In what order they are patched."""
    layer_matched: tuple[float, ...] = ()
    """The same with as many maps of the same layers, drawn from all maps of each; empty in results of version 0.1."""
    excess: tuple[Estimate, ...] = ()
    """By how much `restored` exceeds `layer_matched`, paired on images; of one image, by its draws alone."""

    p_value: float = 1.0
    """That layer-matched maps in place of the ranking restore at as many sizes (`statistics.exchanged`)."""

    @property
    def best(self) -> int | None:
        """Index of the size where the excess is largest, the smallest such size; None without layer-matched maps."""
        if not self.excess:
            return None
        return max(range(len(self.sizes)), key=lambda k: (self.excess[k].value, -k))

    def verdict(self, images: int) -> RestorationVerdict:
        """Return what may be said of the maps at `best`, of so many images.

        One size of many always looks best, so the test is over all sizes. Of one image that a chance of one half does as
        well, any maps of these layers do the same; between the two its trials are too few.
        """
        if self.best is None:
            return "untested"
        if not max(self.restored, default=0.0):
            return "no effect"
        if self.p_value <= 1 - statistics.CONFIDENCE and self.excess[self.best].low > 0:
            return "supported"
        return "same layers" if images > 1 or self.p_value > statistics.HALF else "too few"


@dataclass(frozen=True, slots=True)
class ClassSimilarity:
    """Per site, how alike the adversarial datapath is to the true class's and to the fooled-into class's (Jaccard)."""

    true_class: tuple[float, ...]
    fooled_into: tuple[float, ...]
    images: int
    """Clean images behind each class's datapath."""
    converges_at: str | None = field(metadata=stored_as("merges_at"))
    """First site from which the fooled-into class stays the nearer one, or None."""
    clean_true: tuple[float, ...] = ()
    """The clean datapath and the true class's: how alike an image is to its own class before the attack."""
    clean_fooled: tuple[float, ...] = ()
    """The clean datapath and the fooled-into class's: what both classes share without any attack."""
    noise_true: tuple[float, ...] = ()
    """The datapath of same-norm noisy copies and the true class's."""
    noise_fooled: tuple[float, ...] = ()
    """The datapath of same-norm noisy copies and the fooled-into class's: what noise of the same size brings nearer."""
    classes: tuple[float, ...] = ()
    """The true class's datapath and the fooled-into class's."""
    convergence_span: SiteSpan | None = field(default=None, metadata=stored_as("merges_span"))
    """Of `merges_at`, over the images with the class datapaths held fixed; None for a single pair."""


@dataclass(frozen=True, eq=False, slots=True)
class ClassDatapaths:
    """The datapaths of clean images of the true and of the fooled-into class, for sets of any size."""

    true: tuple[Array, ...]
    """Per site (channels,): strength of each map, mean over the class's images."""
    fooled: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class InputByTarget:
    """The 2 x 2 design, per site as Jaccard similarities: what differs because of the answer, what because of the input.

    Four datapaths: of the clean and of the adversarial image, each asked for the true and for the fooled-into class.
    """

    same_input_clean: tuple[float, ...]
    """The clean image asked for the true and for the fooled-into class."""
    same_input_adversarial: tuple[float, ...]
    same_answer_true: tuple[float, ...]
    """The clean and the adversarial image, both asked for the true class."""
    same_answer_fooled: tuple[float, ...]
    """Both asked for the class the attack led to."""
    each_its_own: tuple[float, ...] = ()
    """The clean image asked for the true class and the adversarial one for the fooled-into class: the two that are drawn."""
    exchanged: tuple[float, ...] = ()
    """The clean image asked for the fooled-into class and the adversarial one for the true class."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Whether a group's strongest maps, filled from a held-out image, carry that image's label into its references."""

    images: int
    """Held-out images, none of which had a part in the choice of maps."""
    references: int
    sizes: tuple[int, ...]
    """Numbers of maps, all of them outside the stem."""
    carried: tuple[float, ...]
    """Per size the share of held-out images that reach at least 9 of 10 references."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """95 % Wilson interval of `carried`."""
    random: tuple[float, ...]
    """The same with equally many random maps, mean over the draws."""


@dataclass(frozen=True, eq=False, slots=True)
class GroupDatapath:
    """What the images of a group have in common; arrays are read-only."""

    name: str
    """`clean`, `adversarial`, `fooled-into` (clean images of the classes the attack led to) or `noise`."""
    method: StoredMethod
    images: int
    """Images behind `strength`; of noise, the noisy copies of them."""
    strength: tuple[Array, ...]
    """Per site (channels,): mean over images of |score|, each image scaled to sum to one over all sites."""
    specific: tuple[Array, ...]
    """Strength less the mean over classes: above zero where a map matters more here than for classes at large."""
    held_out: HeldOut


@dataclass(frozen=True, eq=False, slots=True)
class Groups:
    """The groups of an attack, each made of half of its images and tried on the other half."""

    groups: tuple[GroupDatapath, ...]
    """Empty where there are too few images to hold one out."""
    classes: tuple[int, ...]
    """Classes behind the mean that `specific` is measured from."""


@dataclass(frozen=True, slots=True)
class LayerShare:
    """How many of one layer's maps must be patched, alone, for the label to return."""

    site: str
    channels: int
    restored: int
    """Images that all of the layer's maps together restore; the shares are of these."""
    ranked: Estimate | None = None
    """Share of the layer's maps, by the default ranking, mean over images; None where no image is restored."""
    random: Estimate | None = None
    """The same with maps in random order. Of one image the interval is of the draws."""
    p_value: float = 1.0
    """That one of the random orders in place of the ranking needs as few maps (`statistics.exchanged`)."""

    @property
    def ratio(self) -> float | None:
        """How many times as many random maps it takes: near one, the attack is everywhere in the layer."""
        return self.random.value / self.ranked.value if self.ranked and self.random else None


@dataclass(frozen=True, slots=True)
class Localisation:
    """Layer by layer, whether the attack is in a few maps there, or everywhere."""

    layers: tuple[LayerShare, ...]
    """In the order of the network: those that every path runs through and that claims may use."""
    images: int
    draws: int
    """Random orders per image."""

    @property
    def sharpest(self) -> LayerShare | None:
        """The layer of the largest ratio among those where no random order does as well, or None.

        Each layer is one more chance to find such a one, so p-values are multiplied by their number (Bonferroni).
        """
        clear = [layer for layer in self.layers if self._is_clear(layer.p_value) and layer.restored == self.images]
        return max(clear, key=lambda layer: layer.ratio or 0.0, default=None)

    @property
    def can_decide(self) -> bool:
        """Whether the images are enough for a layer to stand out: of few, a random order often does as well by chance."""
        return self._is_clear((self.draws + 1.0) ** -self.images)

    def _is_clear(self, p_value: float) -> bool:
        return p_value * len(self.layers) <= 1 - statistics.CONFIDENCE


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """What is known so far of how far an explanation can be trusted; parts arrive one by one."""

    SCHEMA: ClassVar[Schema] = Schema("faithfulness/1", "Certificates")

    clean: DatapathChecks = DatapathChecks()
    adversarial: DatapathChecks = DatapathChecks()
    restoration: Restoration | None = None
    class_similarity: ClassSimilarity | None = field(default=None, metadata=stored_as("kinship"))
    done: tuple[str, ...] = ()
    """Names of the parts that have arrived."""
    failed: tuple[str, ...] = ()
    """Messages of parts that ended without a result."""
    unavailable: tuple[str, ...] = ()
    """Why a part can say nothing of this data; it is done, and asked again it would say the same."""
    classes: ClassDatapaths | None = None
    cross: InputByTarget | None = None
    groups: Groups | None = None
    localisation: Localisation | None = None


PART_TITLES: Final = {
    "clean": "the clean datapath", "adversarial": "the adversarial datapath", "restoration": "what clean channels restore",
    "localisation": "localisation", "stability": "stability", "kinship": "likeness to the classes", "weights": "random weights",
    "cross": "both inputs for both answers", "groups": "groups",
}  # fmt: skip
"""What whoever waits is told, by part, in the order in which they are asked for."""
PARTS: Final = tuple(PART_TITLES)


def merge(partials: Sequence[Faithfulness]) -> Faithfulness:
    """Return what several parts say together: of each field the value that is there, of `done` and `failed` all."""
    return Faithfulness(
        clean=_joined([partial.clean for partial in partials]),
        adversarial=_joined([partial.adversarial for partial in partials]),
        restoration=next((partial.restoration for partial in partials if partial.restoration is not None), None),
        class_similarity=next(
            (partial.class_similarity for partial in partials if partial.class_similarity is not None), None
        ),
        classes=next((partial.classes for partial in partials if partial.classes is not None), None),
        cross=next((partial.cross for partial in partials if partial.cross is not None), None),
        groups=next((partial.groups for partial in partials if partial.groups is not None), None),
        localisation=next((partial.localisation for partial in partials if partial.localisation is not None), None),
        done=tuple(part for part in PARTS if any(part in partial.done for partial in partials)),
        failed=tuple(message for one in partials for message in one.failed),
        unavailable=tuple(message for one in partials for message in one.unavailable),
    )


def _joined(sides: Sequence[DatapathChecks]) -> DatapathChecks:
    """One side's faithfulness checks; a field that no part has set stays None, which reads `not run`."""
    known: dict[str, Any] = {}
    for side in sides:
        for declared in dataclasses.fields(side):
            value = getattr(side, declared.name)
            if value is not None and value != ():
                known.setdefault(declared.name, value)
    return DatapathChecks(**known)


FAITHFULNESS_SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the maps that claims may use at which faithfulness is measured, as the MIB circuit track does."""
Intervention = Literal["denoising", "noising"]
INTERVENTIONS: dict[Intervention, str] = {
    "denoising": "Clean values of the set put into the adversarial run, all else recomputed: is the set enough?",
    "noising": "Adversarial values of all other maps put into the clean run, the set recomputed: is nothing else needed?",
}
"""What is done to measure the faithfulness of a set of maps; in both a set of all maps has 1 and the empty one 0."""


@dataclass(frozen=True, slots=True)
class FaithfulnessLine:
    """Faithfulness of growing sets: the ratio of two means over images, with its bootstrap interval over images."""

    faithfulness: tuple[Estimate, ...]
    """One entry per size."""
    cpr: Estimate
    """Area under it over the sizes, on a linear axis; 0.999 is the most where it stays within 1."""
    cmd: Estimate
    """Area between it and 1; 0 is the best."""
    image_cpr: Estimate
    """The same of each image's own ratio, mean over images."""
    image_cmd: Estimate


@dataclass(frozen=True, slots=True)
class FaithfulnessCurve:
    """The chosen maps beside layer-matched random ones: in every layer as many, drawn from all maps of the layer."""

    chosen: FaithfulnessLine
    random: FaithfulnessLine
    beyond: Estimate
    """CPR of the chosen less that of the random ones, paired on images."""


@dataclass(frozen=True, slots=True)
class SetTest:
    """What one intervention with a set of maps did, beside the same with layer-matched random sets."""

    labels: Estimate
    """Share of images that give the class aimed at."""
    margin: Estimate
    """Share of the logit difference between the two runs, mean over images."""
    random_labels: Estimate
    random_margin: Estimate


@dataclass(frozen=True, slots=True)
class Minimality:
    """Whether leaving one map out of the set costs more than leaving out a random map that was added to it."""

    lost: tuple[float, ...]
    """Per map of the set, in its order: denoising faithfulness lost without it."""
    inflated: tuple[float, ...]
    """Per random map of the same layers: faithfulness lost without it by the set that it was added to."""
    p_values: tuple[float, ...]
    """Per map of the set: share of the added ones that cost as much or more, itself counted among them."""
    needed: int
    """Maps of the set with a p-value of at most 0.05; of maps that do not matter one in twenty has one."""


@dataclass(frozen=True, slots=True)
class SetStability:
    """Jaccard similarity of the sets chosen on two halves of the images: mean, and where 95 % of the splits lie."""

    jaccard: Estimate
    chance: Estimate
    """Of layer-matched random sets in place of the two."""


@dataclass(frozen=True, slots=True)
class SetTests:
    """One set of maps, the same for all images: those ranked first in the mean over the images."""

    sites: tuple[str, ...]
    channels: tuple[tuple[int, ...], ...]
    """The maps by site, as in `MapSet`."""
    sufficiency: SetTest
    """Clean values of the set into the adversarial runs; restoring is right."""
    necessity: SetTest
    """Adversarial values of the set into the clean runs; giving the attack's class is right."""
    independence: SetTest
    """Clean values of all other maps into the adversarial runs; restoring speaks against the set."""
    minimality: Minimality | None
    stability: SetStability | None


@dataclass(frozen=True, slots=True)
class CircuitMeasures:
    """The field's measures of one ranking, on the images that an attack fools."""

    counts: tuple[int, ...]
    """Maps at each of `FAITHFULNESS_SIZES`, rounded down."""
    denoising: FaithfulnessCurve
    noising: FaithfulnessCurve
    tests: SetTests | None
    images: int
    left_out: int
    """Images whose two runs differ too little in their logits to divide by."""
    draws: int
    """Random sets per image."""
    missing: tuple[str, ...]
    """Tests that could not be made, each with its reason."""


PoolName = Literal["ranked last", "random half"]
POOLS: dict[PoolName, str] = {
    "ranked last": "The half of every layer's channels that have the least attack conductance.",
    "random half": "A random half of every layer's maps.",
}
"""Maps among which the same search is made, as controls: a search finds something in any pool."""


@dataclass(frozen=True, slots=True)
class PoolSearch:
    """What the search for the smallest sets finds when it may choose from some of the maps alone."""

    name: PoolName
    maps: tuple[int, ...]
    """Maps of each image's set, 0 where all maps of the pool together do not restore it; images as in the study."""
    sizes: Estimate | None
    """Mean number of maps over the images that it restores; None for fewer than two."""


@dataclass(frozen=True, slots=True)
class Monotone:
    """How often more maps undo what a set restores: random supersets of the sets found, each tried by a real pass."""

    tried: int
    held: int
    """Those that still restore. A bound below a set's size takes it that all do."""


Estimates = tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class RankingRow:
    """What the first maps of one ranking restore, and how much of it is owed to which maps they are; one entry per size."""

    ranking: StoredRanking
    restored: Estimates
    """Clean channels patched into the adversarial run give the clean label."""
    layer_matched: Estimates
    """In every layer as many clean maps as the ranking takes there, drawn from all maps of the layer, give it."""
    excess: Estimates
    """`restored` less `layer_matched`, paired on images (bootstrap)."""
    wrong_class: Estimates | None
    """Maps ranked for a third class give that class; None of a network of two classes."""
    noisy_copy: Estimates
    """The same maps from a noisy copy of the adversarial image give the clean label."""
    swap: Estimates | None
    """The same maps from another clean image give that image's class: high is right. None without images of a third class."""
    largest: Estimate
    """Largest mean excess over the sizes; every resample of its interval has its own best size."""
    largest_at: int
    """The size that has it."""
    area: Estimate
    """Mean excess over the logarithm of the size."""
    behind: Estimate | None = None
    """The default ranking's `largest` less this one's, paired on images; None for the default and where it was not asked for."""
    area_behind: Estimate | None = None
    """The same of `area`."""


@dataclass(frozen=True, slots=True)
class RankingTable:
    """Rankings by their excess over layer-matched random maps."""

    rows: tuple[RankingRow, ...]
    random: Estimates
    """As many maps drawn from all layers that claims may use give the clean label."""
    draws: int
    """Random sets per image and size, of both controls."""


@dataclass(frozen=True, slots=True)
class Sufficient:
    """The published criterion: a share of every site kept, all else zeroed. One entry per share."""

    agreement: Estimates
    """The answer stays."""
    kl: Estimates
    """Divergence of the masked from the full answer, in nats."""
    wrong_class: Estimates | None
    """A mask aimed at a wrong third class gets it; None of a network of two classes."""
    swap: Estimates
    """An image of another class under this image's mask is called this image's class: high means the mask says nothing
    about the image."""


@dataclass(frozen=True, slots=True)
class Transplant:
    """The chosen maps copied into the run of another class's image, the rest recomputed. One entry per number of maps."""

    carried: Estimates
    """The label goes over."""
    wrong_class: Estimates | None
    """Maps chosen for a wrong third class give that class; None of a network of two classes."""
    swap: Estimates | None
    """The same maps filled from a third image give that image's class: high is right. None without images of a third class."""
    quota_carried: Estimates
    """`carried` where a share of every site is copied; one entry per share."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Clean channels patched into the adversarial run. One entry per number of maps."""

    restored: Estimates
    """The clean label comes back."""
    wrong_class: Estimates | None
    """Maps chosen for a wrong third class give that class; None of a network of two classes."""
    noisy_copy: Estimates
    """The same maps from a noisy copy of the adversarial image restore the clean label."""
    swap: Estimates | None
    """The same maps from another clean image give that image's class: high is right. None without images of a third class."""
    mean_maps: Estimate
    """Fewest maps that restore, by bisection of each image's ranking; more maps are taken to restore too."""


@dataclass(frozen=True, slots=True)
class ClassJaccard:
    """Similarity of datapaths of images of one class, and of images of two."""

    within: Estimate | None
    """None where fewer than two images have another one of their class."""
    between: Estimate


@dataclass(frozen=True, slots=True)
class Stability:
    """Means over images of the Jaccard similarity of the kept fifths, itself a mean over sites. Chance is about 0.11."""

    seed_jaccard: Estimate
    """Another seed, which also draws other partners as reference runs."""
    noise_jaccard: Estimate
    """The same image with a little Gaussian noise."""
    class_jaccard: ClassJaccard
    random_weights_jaccard: Estimate
    """The same network with shuffled weights: must fall to chance."""
