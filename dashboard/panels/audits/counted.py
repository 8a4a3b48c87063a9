"""From a number of a run's page to the images that it counts: the query of the table that lists them."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from engine import ConditionResult, ModelResult, RunView, class_handles

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
