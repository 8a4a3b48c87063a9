"""From a store to the file of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.commands import studied
from engine.evaluation import table, walk
from engine.evaluation.walk import EvaluationRequest, Report
from engine.models import load
from engine.records.restoration import SiteChoice
from engine.store.store import Store

text = table.text


def evaluate(
    store: Store, place: tuple[str, str, SiteChoice], request: EvaluationRequest, out: Path, report: Report
) -> dict[str, Any]:
    """Run an evaluation, write its JSON and return it. Raises BadInput for a file that exists or cannot be there."""
    studied.require_new(out)
    model, data, sites = place
    dataset = store.dataset(data)
    bundle = (load.block_bundle if sites == "blocks" else load.bundle)(store, model)
    found = table.as_json(walk.run(bundle, dataset, request, report))
    found["site_choice"] = sites
    studied.write(out, found, "writing an evaluation")
    return found
