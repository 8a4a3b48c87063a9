"""From a store to the file of an evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import BadInput
from engine.evaluation import table, walk
from engine.evaluation.walk import EvaluationRequest, Report
from engine.models import load
from engine.store import durable
from engine.store.store import Store

text = table.text


@dataclass(frozen=True, slots=True)
class Place:
    """The model and data an evaluation is of, and the file it goes to."""

    model: str
    data: str
    sites: Literal["all", "blocks"]
    out: Path


def evaluate(store: Store, place: Place, request: EvaluationRequest, report: Report) -> dict[str, Any]:
    """Run an evaluation, write its JSON and return it. Raises BadInput for a file that exists or cannot be there."""
    if place.out.exists():
        raise BadInput(f"{place.out.name} exists already; choose another file.")
    if not place.out.parent.is_dir():
        raise BadInput(f"There is no folder {place.out.parent.name} for {place.out.name}.")
    dataset = store.dataset(place.data)
    bundle = (load.block_bundle if place.sites == "blocks" else load.bundle)(store, place.model)
    found = table.as_json(walk.run(bundle, dataset, request, report))
    found["site_choice"] = place.sites
    with durable.disk_errors("writing an evaluation"):
        durable.write_file(place.out, (json.dumps(found, indent=2) + "\n").encode())
    return found
