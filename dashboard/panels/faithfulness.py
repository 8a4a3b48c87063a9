"""What may be claimed of an explanation: the headline, and the checks that speak for and against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dash import html

from dashboard import ids
from dashboard.wording import percent
from engine import (
    HALF,
    SIDES,
    Comparison,
    Datapath,
    DatapathChecks,
    Explanation,
    Faithfulness,
    GroupDatapath,
    Restoration,
    SiteSpan,
    against_half,
    narrowest_cut,
)

NOT_RUN = "not run"
NOT_APPLICABLE = "not applicable"
NAMED = 4
"""Maps named as special to a class."""
CARRIES_LABEL = 0.5
"""From this share of other images on, a mask is said to carry the label alone."""
AGAINST = "✘ "
"""Before a check that speaks against the datapath."""
UNDECIDED = "? "
"""Before a check whose trials are too few to tell."""


Standing = Literal["fact", "held", "refuted", "open"]


@dataclass(frozen=True, slots=True)
class Clause:
    """One claim, or the plain statement that it is not yet checked."""

    claim: str
    is_known: bool = True
    state: Standing = "fact"
    """Measured as it stands; a claim that its control bears out; one that it speaks against; one not decided yet."""
    detail: str = ""
    """What the claim rests on, in sentences of their own."""

    @property
    def text(self) -> str:
        """The claim and what it rests on."""
        return f"{self.claim} {self.detail}".rstrip()


def headline(explanation: Explanation, comparison: Comparison, faithfulness_checks: Faithfulness) -> tuple[Clause, ...]:
    """Return the clauses in reading order; each claims only what a record holds."""
    return (
        Clause(_predictions(explanation)),
        _diverging(explanation, comparison),
        _merging(explanation, faithfulness_checks),
        _localising(explanation, faithfulness_checks),
        _restoring(explanation, faithfulness_checks.restoration),
    )


def compared(explanation: Explanation, comparison: Comparison) -> str:
    """Return in one sentence what the attack that is drawn beside did to the same images."""
    diverging = _diverging(explanation, comparison).text
    return f"Compared with {attack(explanation)}: {_predictions(explanation)} {diverging}"


def group(versus: str | None, explanation: Explanation) -> str | None:
    """Return the name of a group that is drawn beside; None where another attack is, or nothing."""
    into = explanation.classes[explanation.adversarial.target]
    return {"class": f"clean images of class '{into}'", "noise": "noise of the same size"}.get(versus or "")


def compared_group(name: str, comparison: Comparison) -> str:
    """Return in one sentence how the adversarial datapath stands to a group: what both keep, over all sites."""
    shared = sum(len(site.shared) for site in comparison.sites)
    adversarial = shared + sum(len(site.adversarial_only) for site in comparison.sites)
    return (
        f"Compared with {name} (blue) against the adversarial run (orange): they share {shared} of the {adversarial} channels that "
        "the adversarial datapath keeps."
    )


def attack(explanation: Explanation) -> str:
    """Return the attack as a short name with its strength, for example `mifgsm-linf 8/255`."""
    own = explanation.request.attack
    return f"{own.name} {own.strength_text}".rstrip()


def _predictions(explanation: Explanation) -> str:
    if len(explanation.outcomes) > 1:
        return _group(explanation)
    outcome = explanation.outcomes[0]
    before, after = (explanation.classes[side.label] for side in (outcome.before, outcome.after))
    if outcome.before.label == outcome.after.label:
        return f"Clean '{before}' stays '{after}' at {percent(outcome.after.confidence)}."
    return f"Clean '{before}' → '{after}' at {percent(outcome.after.confidence)}."


def _group(explanation: Explanation) -> str:
    outcomes = explanation.outcomes
    changed = [outcome for outcome in outcomes if outcome.before.label != outcome.after.label]
    name = explanation.classes[explanation.clean.target]
    if not changed:
        return f"{len(outcomes)} images of '{name}', every one keeps its class."
    into = explanation.classes[explanation.adversarial.target]
    landed = sum(outcome.after.label == explanation.adversarial.target for outcome in changed)
    if landed == len(outcomes):
        return f"{landed} images of '{name}', all → '{into}'."
    return f"{len(outcomes)} images of '{name}', {len(changed)} change class, {landed} of them to '{into}'."


def _diverging(explanation: Explanation, comparison: Comparison) -> Clause:
    """Return where the datapaths differ by more than noise does: nothing before the noise control is there."""
    if not explanation.has_noise_control:
        text = "Where the datapaths diverge is not known yet: the noise control is still being computed."
        return Clause(text, is_known=False, state="open")
    return Clause(_parting(comparison))


def _parting(comparison: Comparison) -> str:
    if comparison.diverges_at is None and comparison.images > 1:
        return f"With {comparison.images} images no two layers in a row lie further apart than under noise of the same size."
    if comparison.diverges_at is None:
        return "The datapaths nowhere differ by more than under noise of the same size, two layers in a row."
    where = f"{comparison.diverges_at}{spanned(comparison.divergence_span)}"
    if comparison.diverges_from == comparison.diverges_at:
        return f"The datapaths diverge at {where} and stay apart."
    if comparison.diverges_from is None:
        return f"The datapaths diverge at {where}, but not for good: later layers lie within noise again."
    return f"The datapaths first diverge at {where}; from {comparison.diverges_from} on they stay apart."


def _merging(explanation: Explanation, faithfulness_checks: Faithfulness) -> Clause:
    into = explanation.classes[explanation.adversarial.target]
    if keeps_class(explanation):
        return Clause("Both runs give the same class, so there is no other class to converge on.")
    class_similarity = faithfulness_checks.class_similarity
    if class_similarity is None:
        why = "this data cannot tell" if "kinship" in faithfulness_checks.done else "not yet checked"
        return Clause(f"Where the adversarial one joins class '{into}': {why}.", is_known=False)
    if class_similarity.converges_at is None:
        return Clause(f"The adversarial one never stays nearer to class '{into}' than to the true class.")
    return Clause(
        f"From {class_similarity.converges_at}{spanned(class_similarity.convergence_span)} on the adversarial one is "
        f"nearer to class '{into}'."
    )


def _localising(explanation: Explanation, faithfulness_checks: Faithfulness) -> Clause:
    """Return at which layer, alone, the label hangs on the fewest channels: the one causal answer to where it takes hold."""
    if keeps_class(explanation):
        return Clause("The class was not lost, so no layer lost it.")
    found = faithfulness_checks.localisation
    if found is None:
        why = "this data cannot tell" if "localisation" in faithfulness_checks.done else "not yet checked"
        return Clause(f"At which layer few channels decide: {why}.", is_known=False, state="open")
    if not found.can_decide:
        few = f"{found.images} image{'s are' if found.images > 1 else ' is'} too few to tell at which layer few channels decide."
        why = "A random order of channels often needs as few by chance."
        return Clause(few, is_known=False, state="open", detail=why)
    layer = found.sharpest
    if layer is None or layer.ranked is None or layer.random is None:
        why = "The ranking needs as many as a random order."
        return Clause("At no layer alone do few channels decide.", state="refuted", detail=why)
    return Clause(
        f"Fewest channels decide at {layer.site}.",
        state="held",
        detail=f"There alone {percent(layer.ranked.value)} of its {layer.channels} restore the label, in random order "
        f"{percent(layer.random.value)} ({layer.ratio or 0.0:.1f} times as many).",
    )


def _restoring(explanation: Explanation, restoration: Restoration | None) -> Clause:
    """Return what clean channels restore, at the size where they exceed random ones of the same layers most."""
    name, images = explanation.classes[explanation.clean.target], len(explanation.outcomes)
    if keeps_class(explanation):
        return Clause("The class was not lost, so there is nothing to restore.")
    if restoration is None:
        return Clause(
            f"Whether clean channels patched in restore '{name}': not yet checked.", is_known=False, state="open"
        )
    if not restoration.sizes:
        return Clause(
            f"No number of clean channels was patched in, so nothing is known of restoring '{name}'.", state="open"
        )
    verdict = restoration.verdict(images)
    if restoration.best is None:
        return Clause(
            f"No claim of what restores '{name}': layer-matched random channels were not tried.", state="open"
        )
    if verdict == "no effect":
        return Clause(
            f"Up to {restoration.sizes[-1]} of {eligible_maps(explanation):,} clean channels do not restore '{name}'."
        )
    of_set, of_random = _compared(explanation, restoration)
    if verdict == "same layers":
        claim = "Any channels of these layers do the same."
        return Clause(claim, state="refuted", detail=f"{of_set} {of_random}")
    if verdict == "too few":
        return Clause("Too few trials to tell.", is_known=False, state="open", detail=f"{of_set} {of_random}")
    return Clause(of_set, state="held", detail=of_random)


def _compared(explanation: Explanation, restoration: Restoration) -> tuple[str, str]:
    """Return what the channels at the best size restore, and what random ones of the same layers and of all layers do.

    Of a group every image gets back its own maps, ranked by its own attack conductance: no common set.
    """
    k = restoration.best or 0
    size, excess, is_group = restoration.sizes[k], restoration.excess[k], len(explanation.outcomes) > 1
    points = f"{100 * excess.value:+.0f} points [{100 * excess.low:.0f}, {100 * excess.high:.0f}]".replace("-", "−")
    own = "clean channels, each image's own, restore" if is_group else "clean channels restore"
    return (
        f"{size} of {eligible_maps(explanation):,} {own} {restored(explanation, restoration, k)}.",
        f"Layer-matched random: {percent(restoration.layer_matched[k])} ({points}); random in all layers: "
        f"{percent(restoration.random[k])}.{_bound_mark(explanation, size)}",
    )


def _bound_mark(explanation: Explanation, size: int) -> str:
    """Return the trivial bound beside a count that reaches it."""
    cut = narrowest_cut(explanation.sites)
    if cut is None or size < cut.channels:
        return ""
    return f" Trivial bound: {cut.channels} ({cut.name} alone restores any label)."


def restored(explanation: Explanation, restoration: Restoration, k: int) -> str:
    """Return what the k-th number of maps restores: the class of the one image, or of how many images of a group."""
    name, images = explanation.classes[explanation.clean.target], len(explanation.outcomes)
    return f"'{name}'" if images == 1 else f"'{name}' in {round(restoration.restored[k] * images)} of {images} images"


def spanned(span: SiteSpan | None) -> str:
    """Return the interval of a site over the images of a group, as ` [first, last]`; nothing where there is none."""
    return "" if span is None else f" [{span.first}, {span.last or 'nowhere'}]"


def keeps_class(explanation: Explanation) -> bool:
    """Whether the attack left the class as it was, so that there is no margin to be patched."""
    return explanation.keeps_class


def eligible_maps(explanation: Explanation) -> int:
    """Return the number of maps that restoration may choose from."""
    return sum(site.channels for site in explanation.sites if site.is_eligible)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the faithfulness checks."""

    name: str
    good: str
    """Which way is good, as words."""
    help: str
    clean: str
    adversarial: str


@dataclass(frozen=True, slots=True)
class Restored:
    """One line of the restoration table."""

    maps: int
    by_flow: str
    at_random: str
    layer_matched: str = ""
    """Empty in results that lack this control."""


@dataclass(frozen=True, slots=True)
class Card:
    """All that stands on the card of the checks."""

    checks: tuple[Check, ...]
    restored: tuple[Restored, ...]
    best: int | None
    """The size to mark in the table."""
    restoration_note: str
    failures: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """What a control says against a datapath."""
    counted: str = ""
    """How many trials the shares are of."""


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    good: str
    help: str
    read: Callable[[DatapathChecks], str]
    share: Callable[[DatapathChecks], float | None] = lambda _: None
    """Of trials: what is weighed against one half. None of a fact, which can neither hold nor fail."""
    is_high_good: bool = False
    index: Callable[[DatapathChecks], float | None] = lambda _: None
    """A similarity, no share of trials, that must stay below one half."""


def _rate(value: float | None) -> str:
    return NOT_RUN if value is None else percent(value)


def _number(value: float | None) -> str:
    return NOT_RUN if value is None else f"{value:.2f}"


def _standing(line: _Line, checks: DatapathChecks, trials: int) -> Standing:
    """Return how a check of so many trials ends: it holds, fails, or its trials are too few to tell; else it is a fact."""
    share, index = line.share(checks), line.index(checks)
    if index is not None:
        return "held" if index < HALF else "refuted"
    if share is None:
        return "fact"
    side = against_half(round(share * trials), trials)
    if side == "too few":
        return "open"
    return "held" if (side == "above") == line.is_high_good else "refuted"


def _band(faithfulness_part: DatapathChecks) -> str:
    if faithfulness_part.random_low is None or faithfulness_part.random_high is None:
        return NOT_RUN
    return f"{percent(faithfulness_part.random_low)} to {percent(faithfulness_part.random_high)}"


_CONTROLS = (
    _Line(
        "Random channels",
        "near 0",
        "Share of references carried by equally many channels drawn at random (95 % of the draws).",
        _band,
        lambda one: one.random_high,
    ),
    _Line(
        "Wrong class",
        "near 0",
        "Share carried to a third class when the score is aimed at that class.",
        lambda one: NOT_APPLICABLE if "wrong_class" in one.not_applicable else _rate(one.wrong_class),
        lambda one: one.wrong_class,
    ),
    _Line(
        "Noisy copy",
        "near 0",
        "Share carried when a noisy copy of the reference stands in for the image.",
        lambda one: NOT_APPLICABLE if "noisy_copy" in one.not_applicable else _rate(one.noisy_copy),
        lambda one: one.noisy_copy,
    ),
    _Line(
        "One layer at a time",
        "high",
        "Single-layer test: prediction kept minus cross-image control when one layer keeps its top 30 %, mean over layers.",
        lambda one: _number(one.one_site_gap),
    ),
    _Line(
        "Other seed",
        "high",
        "Jaccard of the datapath with the one found from another seed; equally strong channels are drawn anew.",
        lambda one: _number(one.seed_jaccard),
    ),
    _Line(
        "Under noise",
        "high",
        "Jaccard of the datapath with that of a slightly noisy copy of the image.",
        lambda one: _number(one.noise_jaccard),
    ),
    _Line(
        "Random weights",
        "low",
        "Jaccard with the datapath of the same network with random weights: high would mean the weights do not matter.",
        lambda one: _number(one.random_weights_jaccard),
        index=lambda one: one.random_weights_jaccard,
    ),
)


def build_card(explanation: Explanation, faithfulness_checks: Faithfulness) -> Card:
    """Return the card; a part that has not arrived reads "not run", a part that failed is listed."""
    sides = ((explanation.clean, faithfulness_checks.clean), (explanation.adversarial, faithfulness_checks.adversarial))
    carries = tuple(_carries(one.carries_at, path.carries_at, path.sizes) for path, one in sides)
    lines = _lines(explanation)
    first = Check(
        "Transplant carries the label",
        "few channels",
        "Smallest number of channels whose transplant carries the label into every reference (a group: into 9 of 10).",
        *carries,
    )
    trials = _trials(explanation)
    checks = (Check(line.name, line.good, line.help, *(_cell(line, one, trials) for _, one in sides)) for line in lines)
    return Card(
        (first, *checks, *_group_checks(explanation, faithfulness_checks)),
        () if keeps_class(explanation) else _restored(faithfulness_checks),
        _best_size(faithfulness_checks.restoration),
        _restoration_note(explanation, faithfulness_checks),
        (*(f"Not finished: {text}" for text in faithfulness_checks.failed), *faithfulness_checks.unavailable),
        tuple(_warning(name, one) for name, (path, one) in zip(SIDES, sides, strict=True) if _is_label(path, one)),
        _counted(explanation, faithfulness_checks),
    )


def against(explanation: Explanation, faithfulness_checks: Faithfulness) -> tuple[Clause, ...]:
    """Return the clause that belongs to the headline where checks speak against a datapath; none where none does."""
    sides = zip(SIDES, (faithfulness_checks.clean, faithfulness_checks.adversarial), strict=True)
    results = [
        f"{line.name.lower()} {line.read(one)} ({name}; good is {line.good})"
        for name, one in sides
        for line in _lines(explanation)
        if _standing(line, one, _trials(explanation)) == "refuted"
    ]
    text = f"Checks speak against the datapaths: {', '.join(results)}."
    return (Clause(text, is_known=False, state="refuted"),) if results else ()


def _lines(explanation: Explanation) -> tuple[_Line, ...]:
    return (*_CONTROLS[:2], _swap(explanation.clean.baseline), *_CONTROLS[2:])


def _cell(line: _Line, checks: DatapathChecks, trials: int) -> str:
    mark = {"refuted": AGAINST, "open": UNDECIDED}.get(_standing(line, checks, trials), "")
    return f"{mark}{line.read(checks)}"


def _trials(explanation: Explanation) -> int:
    """Return how many trials each share of the checks is of."""
    runs = len(explanation.references) if explanation.clean.baseline == "references" else 1
    return len(explanation.outcomes) * max(1, runs)


def _counted(explanation: Explanation, faithfulness_checks: Faithfulness) -> str:
    """How many trials the shares are of."""
    images, references = len(explanation.outcomes), len(explanation.references)
    trials = f"{images} image{'s' * (images > 1)}"
    if explanation.clean.baseline == "references":
        trials = f"{images * references} trials ({trials} in {references} other runs)"
    again = faithfulness_checks.restoration
    draws = f" Random channels patched in: {again.draws} draws for each image." if again and again.draws else ""
    return (
        f"Shares of this table are of {trials}; {AGAINST.strip()} speaks against a datapath, "
        f"{UNDECIDED.strip()}: too few trials to tell.{draws}"
    )


def _group_checks(explanation: Explanation, faithfulness_checks: Faithfulness) -> tuple[Check, ...]:
    """What half of a group's images say of the other half; nothing for a pair, which has no other half."""
    if len(explanation.outcomes) == 1:
        return ()
    groups = {group.name: group for group in faithfulness_checks.groups.groups} if faithfulness_checks.groups else {}
    sides = [
        (groups.get(name), path) for name, path in zip(SIDES, (explanation.clean, explanation.adversarial), strict=True)
    ]
    held_out = Check(
        "Held-out images",
        "high",
        "Share of images that had no part in the group's datapath whose label its channels carry (95 % interval; random channels).",
        *(_held_out(group, path) for group, path in sides),
    )
    special = Check(
        "Special to this class",
        "named channels",
        "Channels that matter more for these images than for classes at large, the strongest first.",
        *(_special(group, explanation) for group, _ in sides),
    )
    return held_out, special


def _held_out(group: GroupDatapath | None, datapath: Datapath) -> str:
    """The rate at the size that carries the group's own label, else at the largest one tried."""
    if group is None:
        return NOT_RUN
    held = group.held_out
    k = held.sizes.index(datapath.carries_at) if datapath.carries_at in held.sizes else len(held.sizes) - 1
    low, high = percent(held.low[k]), percent(held.high[k])
    return (
        f"{percent(held.carried[k])} of {held.images} [{low}, {high}] with {held.sizes[k]} channels "
        f"(random {percent(held.random[k])})"
    )


def _special(group: GroupDatapath | None, explanation: Explanation) -> str:
    if group is None:
        return NOT_RUN
    rows = [(site.name, row) for site, row in zip(explanation.sites, group.specific, strict=True) if site.is_eligible]
    results = [(float(excess), name, channel) for name, row in rows for channel, excess in enumerate(row) if excess > 0]
    results.sort(key=lambda one: -one[0])
    return ", ".join(f"{site} channel {channel}" for _, site, channel in results[:NAMED]) or "none"


def _is_label(datapath: Datapath, faithfulness_part: DatapathChecks) -> bool:
    """Whether kept maps on nothing give their class to at least half of the other images."""
    return (
        datapath.baseline == "zero" and faithfulness_part.swap is not None and faithfulness_part.swap >= CARRIES_LABEL
    )


def _warning(name: str, faithfulness_part: DatapathChecks) -> str:
    return (
        f"Put on other images, the {name} mask gives {percent(faithfulness_part.swap or 0.0)} of them this class: "
        f"the mask carries the label, not the image. Read its channels as a label, not as an explanation."
    )


def _carries(checked: int | None, result: int | None, sizes: tuple[int, ...]) -> str:
    number = checked if checked is not None else result
    if number is not None:
        return f"{number} channels"
    return f"not with {sizes[-1]} channels" if sizes else NOT_RUN


def _swap(baseline: str) -> _Line:
    """The swap control reads the other way round where kept maps are put on nothing instead of into another run."""
    if baseline == "zero":
        text = (
            "Share of other images that this mask gives this image's class. High: it carries the label, not the image."
        )
        return _Line("Cross-image control", "near 0", text, lambda one: _rate(one.swap), lambda one: one.swap)
    text = "The same channels filled from another image give that image's class."
    return _Line(
        "Cross-image control", "near 100 %", text, lambda one: _rate(one.swap), lambda one: one.swap, is_high_good=True
    )


def _restored(faithfulness_checks: Faithfulness) -> tuple[Restored, ...]:
    known = faithfulness_checks.restoration
    if known is None:
        return ()
    matched = [percent(share) for share in known.layer_matched] or [""] * len(known.sizes)
    rows = zip(known.sizes, known.restored, known.random, matched, strict=True)
    return tuple(Restored(size, percent(restored), percent(random), same) for size, restored, random, same in rows)


def _restoration_note(explanation: Explanation, faithfulness_checks: Faithfulness) -> str:
    known = faithfulness_checks.restoration
    if keeps_class(explanation):
        return "The class stayed what it was, so there is nothing to restore."
    if known is None:
        return "Not run yet: whether clean channels patched into the adversarial run restore the class."
    if known.best is None:
        return "Layer-matched random channels, the control that decides, were not tried."
    return f"Marked: where the excess over layer-matched random is largest. {_compared(explanation, known)}."


def _best_size(restoration: Restoration | None) -> int | None:
    """Return the size to mark: where the excess over layer-matched random channels is largest."""
    return None if restoration is None or restoration.best is None else restoration.sizes[restoration.best]


def layout() -> html.Div:
    """Return the card; its tables are drawn in the browser when the network's facts arrive (see panels/network/view.py)."""
    checks = html.Div([html.H3("Faithfulness checks"), html.Div(id=ids.CHECKS)], className="card")
    restored = html.Div(
        [html.H3("Activation patching: clean channels into the adversarial run"), html.Div(id=ids.RESTORATION)],
        className="card",
    )
    return html.Div([checks, restored, html.Div(id=ids.FAILURES, className="failures")], className="cards")
