"""The sentence above the river: what is known of one examination, and what is not yet checked."""

from __future__ import annotations

from dataclasses import dataclass

from engine import Certificates, Comparison, Examination, Restoration, SiteSpan


@dataclass(frozen=True, slots=True)
class Clause:
    """One claim, or the plain statement that it is not yet checked."""

    text: str
    is_known: bool = True


def build(examination: Examination, comparison: Comparison, certificates: Certificates) -> tuple[Clause, ...]:
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
    return f"{own.name} {own.epsilon_text}".rstrip()


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


def bounds(low: float, high: float) -> str:
    """Return an interval of shares as `[low, high]` in percent, whose ends never round to 0 or 100 what is neither."""
    return f"[{percent(low).removesuffix(' %')}, {percent(high).removesuffix(' %')}]"


def percent(share: float) -> str:
    """Return a share as a percentage that never rounds to 0 or 100 what is neither."""
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 <= share < 1:
        return ">99 %"
    return f"{share * 100:.0f} %"
