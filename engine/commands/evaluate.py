"""From a store to the file of an evaluation."""

from __future__ import annotations

from typing import Any

from engine.commands import studied
from engine.commands.studied import Place
from engine.evaluation import table, walk
from engine.evaluation.walk import EvaluationRequest, Report
from engine.store.store import Store

text = table.text


def evaluate(store: Store, place: Place, request: EvaluationRequest, report: Report) -> dict[str, Any]:
    """Run an evaluation, write its JSON and return it. Raises BadInput for a file that exists or cannot be there."""
    bundle, dataset = studied.opened(store, place)
    found = table.as_json(walk.run(bundle, dataset, request, report))
    found["site_choice"] = place.sites
    studied.write(place, found, "writing an evaluation")
    return found
