"""The files of `examine`: one pair as JSON and arrays, readable without Faultline."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine import certificate_parts, certificates, comparison, examination, selection
from engine.errors import BadInput
from engine.models import load
from engine.records import (
    Certificates,
    Comparison,
    Datapath,
    Examination,
    ExaminationRequest,
    Outcome,
    Prediction,
)
from engine.store import durable
from engine.store.store import Store

SHARE = 0.2


def examine(store: Store, request: ExaminationRequest, out: Path, *, certify: bool) -> dict[str, Any]:
    """Examine a request with the models and data of a store, write `examination.json` and `arrays.npz`, return the JSON.

    Raises BadInput when `out` already holds another examination, and whatever the request lacks.
    """
    if (out / "examination.json").exists():
        raise BadInput(f"{out.name} already holds an examination; choose another folder.")
    dataset = store.dataset(request.data)
    for sample in request.samples:
        dataset.row(sample)
    started = time.perf_counter()
    bundle = load.bundle(store, request.model)
    found, _ = examination.examine(bundle, dataset, request, _quiet)
    parts = certificate_parts.PARTS if certify else ()
    known = certificate_parts.merge([certificates.part(name, bundle, dataset, found, _quiet) for name in parts])
    compared = comparison.compare(found, SHARE)
    summary = _summary(found, compared, known, time.perf_counter() - started)
    with durable.disk_errors("writing an examination"):
        out.mkdir(parents=True, exist_ok=True)
        durable.write_file(out / "arrays.npz", _arrays(found))
        durable.write_file(out / "examination.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def sentence(found: dict[str, Any]) -> str:
    """Return one line that says what an examination's JSON holds."""
    before, after = (f"'{found[side]['class']}' ({found[side]['confidence']:.0%})" for side in ("before", "after"))
    where = f"parts at {found['parts_at'] or 'no site'}, merges at {found['merges_at'] or 'no site'}"
    return f"{found['sample']} {before} -> {after}, {found['status']}; {where}; {found['seconds']:.1f} s"


def _quiet(done: int, total: int, message: str) -> None:
    """Progress of a command that ends in seconds is not shown."""


def _summary(found: Examination, compared: Comparison, known: Certificates, seconds: float) -> dict[str, Any]:
    first = found.outcomes[0]
    return {
        **_outcome(first, found),
        "pairs": [_outcome(outcome, found) for outcome in found.outcomes],
        "model": found.request.model,
        "data": found.request.data,
        "attack": found.request.attack,
        "seed": found.request.seed,
        "share": SHARE,
        "references": list(found.references),
        "clean": _datapath(found.clean, known.clean),
        "adversarial": _datapath(found.adversarial, known.adversarial),
        "restoration": _plain(known.restoration),
        "kinship": _plain(known.kinship),
        "cross": _plain(known.cross),
        "certificate_parts": {"done": list(known.done), "failed": list(known.failed)},
        "sites": [
            {
                "name": site.name,
                "stage": site.stage,
                "channels": site.channels,
                "clean_only": list(row.clean_only),
                "shared": list(row.shared),
                "adversarial_only": list(row.adversarial_only),
                "distance": row.distance,
                "floor": [row.floor_low, row.floor_high],
                "flow": row.flow,
                "flow_floor": row.flow_floor,
            }
            for site, row in zip(found.sites, compared.sites, strict=True)
        ],
        "connections_complete_to": max(edge.completeness for edge in found.connections),
        "parts_at": compared.parts_at,
        "merges_at": known.kinship.merges_at if known.kinship else None,
        "passes": found.passes,
        "seconds": seconds,
    }


def _outcome(outcome: Outcome, found: Examination) -> dict[str, Any]:
    return {
        "sample": outcome.sample,
        "label": found.classes[outcome.label],
        "status": outcome.status,
        "before": _prediction(outcome.before, found),
        "after": _prediction(outcome.after, found),
        "norms": {"linf": outcome.linf, "l2": outcome.l2},
    }


def _prediction(prediction: Prediction, found: Examination) -> dict[str, Any]:
    return {"class": found.classes[prediction.label], "confidence": prediction.confidence}


def _datapath(datapath: Datapath, certificate: object) -> dict[str, Any]:
    values = _plain(certificate)
    values["random_band"] = [values.pop("random_low"), values.pop("random_high")]
    return {
        "method": datapath.method,
        "baseline": datapath.baseline,
        "maps": datapath.carries_at,
        "total": sum(site.shape[1] for site in datapath.scores),
        "sizes": list(datapath.sizes),
        "carried": list(datapath.carried),
        "converged": datapath.converged,
        "certificate": values,
    }


def _plain(record: object) -> Any:
    from engine import serial

    return serial.flatten(record).value


def _arrays(found: Examination) -> bytes:
    members: dict[str, np.ndarray] = dict(found.images)
    members["images"] = np.stack([found.images["clean"], found.images["adversarial"]])
    for side, datapath in (("clean", found.clean), ("adversarial", found.adversarial)):
        kept = selection.per_site(datapath.strength, SHARE)
        for site, scores, chosen in zip(found.sites, datapath.scores, kept, strict=True):
            members[f"scores_{side}/{site.name}"] = scores
            members[f"kept_{side}/{site.name}"] = chosen
    for site, flow in zip(found.sites, found.flow, strict=True):
        members[f"flow/{site.name}"] = flow
    for edge in found.connections:
        target = found.sites[edge.target].name if edge.target < len(found.sites) else "logits"
        members[f"edges_clean/{found.sites[edge.source].name}->{target}"] = edge.clean
        members[f"edges_adversarial/{found.sites[edge.source].name}->{target}"] = edge.adversarial
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **members)
    return buffer.getvalue()
