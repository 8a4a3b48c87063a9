"""What may be claimed of an examination: the headline, and the checks that speak for and against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dash import html

from dashboard import ids
from dashboard.wording import percent
from engine import (
    SIDES,
    Certificate,
    Certificates,
    Comparison,
    Datapath,
    Examination,
    GroupDatapath,
    Restoration,
    SiteSpan,
)

NOT_RUN = "not run"
NOT_APPLICABLE = "not applicable"
NAMED = 4
"""Maps named as special to a class."""
CARRIES_LABEL = 0.5
"""From this share of other images on, a mask is said to carry the label alone."""
WRONG_SIDE = 0.5
"""A share that should be near 0 speaks against a datapath from here on, one that should be near 1 up to here."""
AGAINST = "✘ "
"""Before a check that speaks against the datapath."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One claim, or the plain statement that it is not yet checked."""

    text: str
    is_known: bool = True


def headline(examination: Examination, comparison: Comparison, certificates: Certificates) -> tuple[Clause, ...]:
    """Return the clauses in reading order; each claims only what a record holds."""
    return (
        Clause(_predictions(examination)),
        Clause(_parting(comparison)),
        _merging(examination, certificates),
        _restoring(examination, certificates.restoration),
    )


def beside(examination: Examination, comparison: Comparison) -> str:
    """Return in one sentence what the attack that is drawn beside did to the same images."""
    return f"Beside, {attack(examination)}: {_predictions(examination)} {_parting(comparison)}"


def group(versus: str | None, examination: Examination) -> str | None:
    """Return the name of a group that is drawn beside; None where another attack is, or nothing."""
    into = examination.classes[examination.adversarial.target]
    return {"class": f"clean images of class '{into}'", "noise": "noise of the same size"}.get(versus or "")


def beside_group(name: str, comparison: Comparison) -> str:
    """Return in one sentence how the adversarial datapath stands to a group: what both keep, over all sites."""
    shared = sum(len(site.shared) for site in comparison.sites)
    adversarial = shared + sum(len(site.adversarial_only) for site in comparison.sites)
    return (
        f"Beside, {name} (blue) against the adversarial run (orange): they share {shared} of the {adversarial} maps that "
        "the adversarial datapath keeps."
    )


def attack(examination: Examination) -> str:
    """Return the attack as a short name with its strength, for example `mifgsm-linf 8/255`."""
    own = examination.request.attack
    return f"{own.name} {own.strength_text}".rstrip()


def _predictions(examination: Examination) -> str:
    if len(examination.outcomes) > 1:
        return _group(examination)
    outcome = examination.outcomes[0]
    before, after = (examination.classes[side.label] for side in (outcome.before, outcome.after))
    if outcome.before.label == outcome.after.label:
        return f"Clean '{before}' stays '{after}' at {percent(outcome.after.confidence)}."
    return f"Clean '{before}' → '{after}' at {percent(outcome.after.confidence)}."


def _group(examination: Examination) -> str:
    outcomes = examination.outcomes
    changed = [outcome for outcome in outcomes if outcome.before.label != outcome.after.label]
    name = examination.classes[examination.clean.target]
    if not changed:
        return f"{len(outcomes)} images of '{name}', every one keeps its class."
    into = examination.classes[examination.adversarial.target]
    landed = sum(outcome.after.label == examination.adversarial.target for outcome in changed)
    return f"{len(outcomes)} images of '{name}', {len(changed)} change class, {landed} of them to '{into}'."


def _parting(comparison: Comparison) -> str:
    if comparison.parts_at is None and comparison.images > 1:
        return f"With {comparison.images} images no two layers in a row lie further apart than under noise of the same size."
    if comparison.parts_at is None:
        return "The datapaths nowhere differ by more than under noise of the same size, two layers in a row."
    where = f"{comparison.parts_at}{spanned(comparison.parts_span)}"
    if comparison.apart_from == comparison.parts_at:
        return f"The datapaths part at {where} and stay apart."
    if comparison.apart_from is None:
        return f"The datapaths part at {where}, but not for good: later layers lie within noise again."
    return f"The datapaths first part at {where}; from {comparison.apart_from} on they stay apart."


def _merging(examination: Examination, certificates: Certificates) -> Clause:
    into = examination.classes[examination.adversarial.target]
    if keeps_class(examination):
        return Clause("Both runs give the same class, so there is no other class to merge with.")
    kinship = certificates.kinship
    if kinship is None:
        why = "this data cannot tell" if "kinship" in certificates.done else "not yet checked"
        return Clause(f"Where the adversarial one joins class '{into}': {why}.", is_known=False)
    if kinship.merges_at is None:
        return Clause(f"The adversarial one never stays nearer to class '{into}' than to the true class.")
    return Clause(
        f"From {kinship.merges_at}{spanned(kinship.merges_span)} on the adversarial one is nearer to class '{into}'."
    )


def _restoring(examination: Examination, restoration: Restoration | None) -> Clause:
    name = examination.classes[examination.clean.target]
    if keeps_class(examination):
        return Clause("The class was not lost, so there is nothing to restore.")
    if restoration is None:
        return Clause(f"Whether clean maps put back restore '{name}': not yet checked.", is_known=False)
    if not restoration.sizes:
        return Clause(f"No number of clean maps was put back, so nothing is known of restoring '{name}'.")
    total = claimable_maps(examination)
    if restoration.restores_at is not None:
        k = restoration.sizes.index(restoration.restores_at)
        return Clause(
            f"{restoration.restores_at} of {total:,} clean maps put back{_own(examination)} restore "
            f"{restored(examination, restoration, k)} (random maps: {percent(restoration.random[k])})."
        )
    best = max(range(len(restoration.sizes)), key=lambda k: restoration.restored[k])
    many = f"Up to {restoration.sizes[-1]} of {total:,} clean maps put back{_own(examination)}"
    random = f"(random maps: {percent(restoration.random[best])})"
    if len(examination.outcomes) > 1:
        return Clause(f"{many} restore at most {restored(examination, restoration, best)} {random}.")
    does = f"restore '{name}' at some numbers only" if restoration.restored[best] else f"do not restore '{name}'"
    return Clause(f"{many} {does} {random}.")


def _own(examination: Examination) -> str:
    """Of a group every image gets back its own maps, the strongest of its own attack flow: no common set."""
    return ", each image's own," if len(examination.outcomes) > 1 else ""


def restored(examination: Examination, restoration: Restoration, k: int) -> str:
    """Return what the k-th number of maps restores: the class of the one image, or of how many images of a group."""
    name, images = examination.classes[examination.clean.target], len(examination.outcomes)
    return f"'{name}'" if images == 1 else f"'{name}' in {round(restoration.restored[k] * images)} of {images} images"


def spanned(span: SiteSpan | None) -> str:
    """Return the interval of a site over the images of a group, as ` [first, last]`; nothing where there is none."""
    return "" if span is None else f" [{span.first}, {span.last or 'nowhere'}]"


def keeps_class(examination: Examination) -> bool:
    """Whether the attack left the class as it was, so that there is no margin to be put back."""
    return examination.clean.target == examination.adversarial.target


def claimable_maps(examination: Examination) -> int:
    """Return the number of maps that restoration may choose from."""
    return sum(site.channels for site in examination.sites if site.is_claimable)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the certificate."""

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


@dataclass(frozen=True, slots=True)
class Card:
    """All that stands on the certificate card."""

    checks: tuple[Check, ...]
    restored: tuple[Restored, ...]
    restores_at: int | None
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
    read: Callable[[Certificate], str]
    speaks_against: Callable[[Certificate], bool] = lambda _: False


def _rate(value: float | None) -> str:
    return NOT_RUN if value is None else percent(value)


def _number(value: float | None) -> str:
    return NOT_RUN if value is None else f"{value:.2f}"


def _high(value: float | None) -> bool:
    return value is not None and value >= WRONG_SIDE


def _low(value: float | None) -> bool:
    return value is not None and value <= WRONG_SIDE


def _band(certificate: Certificate) -> str:
    if certificate.random_low is None or certificate.random_high is None:
        return NOT_RUN
    return f"{percent(certificate.random_low)} to {percent(certificate.random_high)}"


_CONTROLS = (
    _Line(
        "Random maps",
        "near 0",
        "Share of references carried by equally many maps drawn at random (95 % of the draws).",
        _band,
        lambda one: _high(one.random_high),
    ),
    _Line(
        "Wrong class",
        "near 0",
        "Share carried to a third class when the score is aimed at that class.",
        lambda one: NOT_APPLICABLE if "wrong_class" in one.not_applicable else _rate(one.wrong_class),
        lambda one: _high(one.wrong_class),
    ),
    _Line(
        "Noisy copy",
        "near 0",
        "Share carried when a noisy copy of the reference stands in for the image.",
        lambda one: NOT_APPLICABLE if "noisy_copy" in one.not_applicable else _rate(one.noisy_copy),
        lambda one: _high(one.noisy_copy),
    ),
    _Line(
        "One site at a time",
        "high",
        "Keep minus swap when a single site keeps its top 30 %, mean over sites.",
        lambda one: _number(one.one_site_gap),
    ),
    _Line(
        "Other seed",
        "high",
        "Jaccard of the datapath with the one found from another seed; equally strong maps are drawn anew.",
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
        lambda one: _high(one.random_weights_jaccard),
    ),
)


def build_card(examination: Examination, certificates: Certificates) -> Card:
    """Return the card; a part that has not arrived reads "not run", a part that failed is listed."""
    sides = ((examination.clean, certificates.clean), (examination.adversarial, certificates.adversarial))
    carries = tuple(_carries(one.carries_at, path.carries_at, path.sizes) for path, one in sides)
    lines = _lines(examination)
    first = Check(
        "Carries the label",
        "few maps",
        "Smallest number of maps whose transplant carries the label into every reference (a group: into 9 of 10).",
        *carries,
    )
    checks = (Check(line.name, line.good, line.help, *(_cell(line, one) for _, one in sides)) for line in lines)
    return Card(
        (first, *checks, *_group_checks(examination, certificates)),
        () if keeps_class(examination) else _restored(certificates),
        certificates.restoration.restores_at if certificates.restoration else None,
        _restoration_note(examination, certificates),
        (*(f"Not finished: {text}" for text in certificates.failed), *certificates.unavailable),
        tuple(_warning(name, one) for name, (path, one) in zip(SIDES, sides, strict=True) if _is_label(path, one)),
        _counted(examination, certificates),
    )


def against(examination: Examination, certificates: Certificates) -> tuple[Clause, ...]:
    """Return the clause that belongs to the headline where checks speak against a datapath; none where none does."""
    sides = zip(SIDES, (certificates.clean, certificates.adversarial), strict=True)
    found = [
        f"{line.name.lower()} {line.read(one)} ({name}; good is {line.good})"
        for name, one in sides
        for line in _lines(examination)
        if line.speaks_against(one)
    ]
    return (Clause(f"Checks speak against the datapaths: {', '.join(found)}.", is_known=False),) if found else ()


def _lines(examination: Examination) -> tuple[_Line, ...]:
    return (*_CONTROLS[:2], _swap(examination.clean.baseline), *_CONTROLS[2:])


def _cell(line: _Line, certificate: Certificate) -> str:
    return f"{AGAINST if line.speaks_against(certificate) else ''}{line.read(certificate)}"


def _counted(examination: Examination, certificates: Certificates) -> str:
    """How many trials the shares are of."""
    images, references = len(examination.outcomes), len(examination.references)
    trials = f"{images} image{'s' * (images > 1)}"
    if examination.clean.baseline == "references":
        trials = f"{images * references} trials ({trials} in {references} other runs)"
    again = certificates.restoration
    draws = f" Random maps put back: {again.draws} draws for each image." if again and again.draws else ""
    return f"Shares of this table are of {trials}; {AGAINST.strip()} marks what speaks against a datapath.{draws}"


def _group_checks(examination: Examination, certificates: Certificates) -> tuple[Check, ...]:
    """What half of a group's images say of the other half; nothing for a pair, which has no other half."""
    if len(examination.outcomes) == 1:
        return ()
    groups = {group.name: group for group in certificates.groups.groups} if certificates.groups else {}
    sides = [
        (groups.get(name), path) for name, path in zip(SIDES, (examination.clean, examination.adversarial), strict=True)
    ]
    held_out = Check(
        "Held-out images",
        "high",
        "Share of images that had no part in the group's datapath whose label its maps carry (95 % interval; random maps).",
        *(_held_out(group, path) for group, path in sides),
    )
    special = Check(
        "Special to this class",
        "named maps",
        "Maps that matter more for these images than for classes at large, the strongest first.",
        *(_special(group, examination) for group, _ in sides),
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
        f"{percent(held.carried[k])} of {held.images} [{low}, {high}] with {held.sizes[k]} maps "
        f"(random {percent(held.random[k])})"
    )


def _special(group: GroupDatapath | None, examination: Examination) -> str:
    if group is None:
        return NOT_RUN
    rows = [(site.name, row) for site, row in zip(examination.sites, group.specific, strict=True) if site.is_claimable]
    found = [(float(excess), name, channel) for name, row in rows for channel, excess in enumerate(row) if excess > 0]
    found.sort(key=lambda one: -one[0])
    return ", ".join(f"{site} map {channel}" for _, site, channel in found[:NAMED]) or "none"


def _is_label(datapath: Datapath, certificate: Certificate) -> bool:
    """Whether kept maps on nothing give their class to at least half of the other images."""
    return datapath.baseline == "zero" and certificate.swap is not None and certificate.swap >= CARRIES_LABEL


def _warning(name: str, certificate: Certificate) -> str:
    return (
        f"Put on other images, the {name} mask gives {percent(certificate.swap or 0.0)} of them this class: "
        f"the mask carries the label, not the image. Read its maps as a label, not as an explanation."
    )


def _carries(certified: int | None, found: int | None, sizes: tuple[int, ...]) -> str:
    number = certified if certified is not None else found
    if number is not None:
        return f"{number} maps"
    return f"not with {sizes[-1]} maps" if sizes else NOT_RUN


def _swap(baseline: str) -> _Line:
    """The swap control reads the other way round where kept maps are put on nothing instead of into another run."""
    if baseline == "zero":
        text = (
            "Share of other images that this mask gives this image's class. High: it carries the label, not the image."
        )
        return _Line("Swap", "near 0", text, lambda one: _rate(one.swap), lambda one: _high(one.swap))
    text = "The same maps filled from another image give that image's class."
    return _Line("Swap", "near 100 %", text, lambda one: _rate(one.swap), lambda one: _low(one.swap))


def _restored(certificates: Certificates) -> tuple[Restored, ...]:
    known = certificates.restoration
    if known is None:
        return ()
    rows = zip(known.sizes, known.restored, known.random, strict=True)
    return tuple(Restored(size, percent(restored), percent(random)) for size, restored, random in rows)


def _restoration_note(examination: Examination, certificates: Certificates) -> str:
    known, images = certificates.restoration, len(examination.outcomes)
    if keeps_class(examination):
        return "The class stayed what it was, so there is nothing to restore."
    if known is None:
        return "Not run yet: whether clean maps put back into the adversarial run restore the class."
    if known.restores_at is None:
        return f"No number that was tried restores {'the image' if images == 1 else 'nine in ten of the images'}."
    own = "" if images == 1 else ", each image's own,"
    what = restored(examination, known, known.sizes.index(known.restores_at))
    return f"{known.restores_at} maps by attack flow{own} restore {what}."


def layout() -> html.Div:
    """Return the card; its tables are drawn in the browser when the network's facts arrive (see panels/network/view.py)."""
    checks = html.Div([html.H3("Certificate"), html.Div(id=ids.CHECKS)], className="card")
    restored = html.Div([html.H3("Clean maps put back"), html.Div(id=ids.RESTORATION)], className="card")
    return html.Div([checks, restored, html.Div(id=ids.FAILURES, className="failures")], className="cards")
