"""The certificate of both datapaths as a table: each check, which way is good, and what came out or "not run"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dashboard.viewmodels.headline import Clause, keeps_class, percent, restored
from engine import SIDES, Certificate, Certificates, Datapath, Examination, GroupDatapath

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


def build(examination: Examination, certificates: Certificates) -> Card:
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
