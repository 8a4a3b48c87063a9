"""The three proofs of the intake report: same function, exact connections, receptive fields. What was measured, and in words."""

from __future__ import annotations

from torch import Tensor, nn

from engine.errors import Unsupported
from engine.intake import exact_edges, seen_pixels
from engine.intake.exact_edges import Exactness
from engine.intake.seen_pixels import Sight
from engine.models import same_function
from engine.models.bundle import ModelBundle
from engine.models.same_function import Agreement
from engine.records.credibility import CheckOutcome, CheckResult, Figure
from engine.records.intake import InexactLink

HEAD = "several layers compute the logits"


def of_function(handed_in: nn.Module | Agreement, bundle: ModelBundle, pictures: Tensor) -> CheckResult:
    """Return whether the audited network answers as the module handed in; pictures: (pictures, channels, height, width).

    handed_in: the module, or how both agree where that is known.
    """
    try:
        found = handed_in
        if not isinstance(found, Agreement):
            found = same_function.compare(found, bundle, pictures)
    except Unsupported as error:
        return CheckResult("function", "fail", str(error))
    figures = {
        "pictures": found.pictures,
        "together": found.together,
        "alone": found.alone,
        "batch": found.beside_others,
    }
    return _result("function", "pass" if found.holds else "fail", same_function.sentence(found), **figures)


def of_edges(bundle: ModelBundle, pictures: Tensor) -> tuple[CheckResult, tuple[InexactLink, ...]]:
    """Return whether connections are exact between two of the pictures, and the links where they are not."""
    try:
        found = exact_edges.measure(bundle, _unlike(bundle, pictures))
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        return CheckResult(
            "edges", "not run", f"Maps cannot be changed one at a time: {type(error).__name__}: {reason}."
        ), ()
    if not all(error < float("inf") for error in (found.added_up, found.changed, found.head)):
        return CheckResult("edges", "not run", "Answers that are not finite have no connections."), ()
    inexact = tuple(InexactLink(miss.source, miss.target, miss.error, ", ".join(miss.through)) for miss in found.misses)
    if not found.mass:
        text = "The pictures at hand are answered by the same maps, or no gradient flows: no connection could be tried."
        return CheckResult("edges", "not run", text), ()
    if found.head > exact_edges.EXACT:
        reason = "" if found.is_head_linear else HEAD
        inexact += tuple(InexactLink(head, len(bundle.sites), found.head, reason) for head in bundle.heads)
    unexplained = [link for link in inexact if not link.reason]
    fails = bool(unexplained) or found.added_up > exact_edges.EXACT or found.changed > exact_edges.EXACT
    figures = {
        "links": found.links,
        "added_up": found.added_up,
        "changed": found.changed,
        "head": found.head,
        "inexact": len(inexact),
    }
    text = " ".join((_sums(bundle, found), *_missing(bundle, inexact)))
    return _result("edges", "fail" if fails else "pass", text, **figures), inexact


def of_fields(bundle: ModelBundle) -> CheckResult:
    """Return whether the receptive fields of some sites are what their positions really depend on."""
    try:
        found = seen_pixels.measure(bundle)
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        return CheckResult(
            "fields", "not run", f"Gradients cannot be followed to the pixels: {type(error).__name__}: {reason}."
        )
    text = _seen(bundle, found)
    figures = {"sites": found.sites, "missing": found.missing, "excess": found.excess}
    return _result("fields", "pass" if found.holds else "fail", text, **figures)


def _seen(bundle: ModelBundle, found: Sight) -> str:
    names = [site.name for site in bundle.sites]
    if found.missing > 0:
        return (
            f"At {names[found.missing_at]} a position depends on {found.missing:g} pixels beyond its receptive field: patches are "
            "cut too small."
        )
    if not found.holds:
        return (
            f"At {names[found.excess_at]} the receptive field is {found.excess:g} pixels larger than what its position depends on: "
            "patches are cut too large."
        )
    return (
        f"At {found.sites} sites receptive fields are what positions depend on, along the height and along the width"
        f"{_but(found.excess)}; gates, which see the whole picture, are held still."
    )


def _but(excess: float) -> str:
    return f", or up to {excess:g} pixels larger" if excess else ""


def _unlike(bundle: ModelBundle, pictures: Tensor) -> Tensor:
    """Two pictures, answered differently where there are such."""
    first = pictures[:: max(1, len(pictures) // 8)][:8]
    answers = bundle.logits(first).argmax(1)
    other = (answers != answers[0]).nonzero()[:, 0]
    return first[[0, int(other[0]) if len(other) else 1]]


def _sums(bundle: ModelBundle, found: Exactness) -> str:
    names = [*(site.name for site in bundle.sites), "logits"]
    return (
        f"At every site contributions add up to what arrives there: the error is {found.added_up:.0e} of all contributions to one "
        f"map (worst at {names[found.added_up_at]}), at the logits {found.head:.0e}. Those of {exact_edges.DRAWS} maps of every "
        f"site are what changing each map alone does: the error is {found.changed:.0e} (worst at {names[found.changed_at]})."
    )


def _missing(bundle: ModelBundle, inexact: tuple[InexactLink, ...]) -> list[str]:
    names = [*(site.name for site in bundle.sites), "logits"]
    told = []
    for explained in (False, True):
        links = [link for link in inexact if bool(link.reason) is explained]
        if not links:
            continue
        worst = max(links, key=lambda link: link.error)
        why = f" ({worst.reason})" if explained else ""
        told.append(
            f"{len(links)} of {len(bundle.links)} links miss by up to {worst.error:.0%}, from {names[worst.source]} to "
            f"{names[worst.target]}{why}, and are drawn as not exact."
        )
    return told


def _result(check: str, outcome: CheckOutcome, sentence: str, **figures: float) -> CheckResult:
    shown = tuple(Figure(name.replace("_", " "), float(value)) for name, value in figures.items())
    return CheckResult(check, outcome, sentence, shown)
