"""What is behind numbers of a run's page: the images that they count, and the attack by which Explain shows one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlencode

from dashboard.links import OF_RUN
from engine import BadInput, ConditionResult, Manifest, ModelResult, RunView, attack, class_handles

ANEW: Final = ("attack", "control", "curve")
"""Kinds of conditions that the levels can attack with anew."""
STORED: Final = (*ANEW, "premade")
"""Kinds of conditions whose images a run stores."""
SEED: Final = 0
"""The seed of every attack that the levels make."""

Images = Callable[..., str]
"""From fields of a view to the query of images of one condition."""


def images_of(condition: ConditionResult, model: ModelResult, view: RunView) -> Images:
    """Return what makes the query of a condition's images; those of the worst case are the ones of every attack."""
    names = [one.name for one in view.manifest.conditions if one.role == model.role]
    places = {name: label for label, name in enumerate(class_handles(view.manifest.classes))}
    own = {"under": str(names.index(condition.name))} if condition.name in names else {}
    base = {"page": "audits", "run": view.card.run, "role": "" if model.role == "candidate" else model.role, **own}

    def query(status: str = "all", **classes: str) -> str:
        chosen = {field: str(places[name]) for field, name in classes.items() if name in places}
        return urlencode({name: value for name, value in {**base, "status": status, **chosen}.items() if value})

    return query


def shown_as(
    manifest: Manifest, run: str, condition: tuple[str, str, str], *, is_stored: bool = False
) -> dict[str, str]:
    """Return the fields of a view by which Explain shows images of a condition; none where it cannot.

    condition: its kind, name and role. The same attack is made anew where that is possible, since then other strengths can be
    looked at too; else, and where `is_stored` is wished for, the images are those that the run kept.
    """
    kind, name, role = condition
    stored = {"attack": f"{OF_RUN}{run}/{role}/{name}"} if kind in STORED and manifest.plan.images.is_kept else {}
    try:
        own = attack(name) if kind in ANEW else None
    except BadInput:  # A run of another version, whose attack is no longer there.
        return {}
    if own is not None and own.is_standard and manifest.plan.seed == SEED and not (stored and is_stored):
        return {"attack": own.name, "epsilon": own.epsilon_text}
    return stored


def image_query(
    manifest: Manifest, run: str, condition: tuple[str, str, str], where: Mapping[str, str], *, is_stored: bool = False
) -> str:
    """Return the query of Explain at an image under a condition, as `shown_as` names it; empty where it cannot be shown.

    where: label, outcome and sample.
    """
    shown = shown_as(manifest, run, condition, is_stored=is_stored)
    if not shown:
        return ""
    (model,) = [one.name for one in manifest.models if one.role == condition[2]]
    query = {"model": model, "data": manifest.images.data, **shown, **where}
    return urlencode({name: value for name, value in query.items() if value})
