"""The commands `examine`, `evaluate` and `prove`: one explanation, the table of methods, every study of a group."""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine import benchmark, class_names, serialization, statistics
from engine.attribution import comparison
from engine.cli import command
from engine.cli.command import STUDIES, Told
from engine.errors import BadInput, BadSetting, UnknownName
from engine.jobs.worker import Report
from engine.patching import tables
from engine.service import answers as at_once
from engine.service import tasks
from engine.service.answers import Answers
from engine.specs import catalogue, methods
from engine.specs.threat_model import Attack
from engine.store import files
from engine.store.store import Store
from engine.types import faithfulness
from engine.types.core import SIDES, Datapath, Examination, ExaminationRequest, Outcome, Prediction
from engine.types.faithfulness import Certificates, Comparison, GroupDatapath, Groups
from engine.types.patching import (
    CorrectRequest,
    EvaluateRequest,
    EvaluationRequest,
    FooledRequest,
    GroupProofRequest,
    SiteChoice,
    StrongestRequest,
)
from engine.types.requests import CertificatePart

SHARE = 0.2
SPECIFIC = 16
"""Maps named for each group: those that exceed the mean over classes most."""
MEANING = {
    "clean_only, shared, adversarial_only": "maps among the strongest share of the site in the clean datapath alone, in both, "
    "in the adversarial one alone",
    "target_only": "maps of the datapath of clean images of the fooled-into class that neither of the two has",
    "noise_also": "those of adversarial_only that noise of the same L2 size brings into the datapath too",
    "distance": "1 - Jaccard of the clean and the adversarial datapath, mean over images, with a 95 % bootstrap interval over "
    "images; floor: the same for noise of the same size",
    "p_value": "one-sided, that the distance exceeds the floor, Holm-adjusted over the sites; null for a single pair",
    "parts_at": "first site whose distance exceeds the floor for two sites running; parts_span: its 95 % bootstrap interval over "
    "images, `share` the part of the resamples that part at all, `last` null where more than 2.5 % never do; apart_from: first "
    "site from which on every one exceeds its floor; sites of which nothing may be claimed (the stem) never count",
    "merges_at": "first site from which on the adversarial datapath is more like the fooled-into class's than the true class's; "
    "merges_span as parts_span, the class datapaths held fixed",
    "kinship": "Jaccard per site of the adversarial datapath (true_class, fooled_into), the clean one (clean_*) and that of "
    "same-norm noise (noise_*) with the datapaths of other clean images of the true and of the fooled-into class; classes: "
    "of these two with each other",
    "cross": "2 x 2 design, Jaccard per site of four datapaths, clean or adversarial image asked for the true or the fooled-into "
    "class; same_input_*: one image, both questions; same_answer_*: one question, both images; each_its_own: clean asked for "
    "true, adversarial for fooled-into; exchanged: the other way round",
    "groups": "datapath of half of a group's images; held_out: share of the other half whose label its strongest maps carry into "
    "at least 9 of 10 references, with a 95 % Wilson interval, beside random maps; specific: strength less the mean over classes",
    "certificate": "null reads not run, never passed; not_applicable names the checks that mean nothing for the method",
}
"""What stands under the names of an examination's JSON."""


LONGEST_COUNT = 9
"""Digits of a number of maps."""


def examine(options: argparse.Namespace) -> Told:
    """Examine one pair or a small group."""
    attack, method = catalogue.attack(options.attack), methods.method(options.method)
    samples = tuple(options.sample)
    request = ExaminationRequest(options.model, options.data, attack, samples, method, options.seed)
    found = examined(_answers(options, _told_to_nobody), request, options.out, certify=not options.quick)
    return Told(sentence(found), found)


def evaluate(options: argparse.Namespace) -> Told:
    """Ask every method the same questions of the same images."""
    names = [part.strip() for part in options.methods.split(",")] if options.methods else list(methods.METHODS)
    attack, scored = catalogue.attack(options.attack), tuple(methods.method(name) for name in names)
    settings = EvaluationRequest(attack, options.images, scored, options.first, options.seed, _counts(options.maps))
    request = EvaluateRequest(options.model, options.data, options.sites, settings)
    found = evaluated(_answers(options, _told_on_stderr), request, options.out)
    return Told(tables.evaluation_text(found), found)


def prove(options: argparse.Namespace) -> Told:
    """Put clean maps back in a group: every study."""
    images = Images(tuple(options.sample or ()), options.label, options.images, options.first)
    study = Study(
        model=options.model,
        data=options.data,
        attack=catalogue.attack(options.attack),
        images=images,
        maps=options.maps,
        studies=tuple(part.strip() for part in options.studies.split(",")),
        sites=options.sites,
        seed=options.seed,
    )
    found = proved(_answers(options, _told_on_stderr), study, options.out)
    return Told(tables.patching_text(found), found)


def measure(options: argparse.Namespace) -> Told:
    """Measure speed and memory."""
    found = benchmark.run(Store(options.store, create=False), options.model, options.data)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return Told(benchmark.text(found), found)


def _answers(options: argparse.Namespace, report: Report) -> Answers:
    return at_once.answers(Store(options.store, create=False), report)


def _told_to_nobody(done: int, total: int, message: str) -> None:
    """Progress of a command that ends in seconds is not shown."""


def _told_on_stderr(done: int, total: int, message: str) -> None:
    sys.stderr.write(f"{done}/{total} {message}\n")
    sys.stderr.flush()


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= LONGEST_COUNT for part in parts):
        raise BadInput(f"--maps must be whole numbers such as 8,16,32, got '{text[:80]}'.")
    return tuple(int(part) for part in parts)


def examined(answers: Answers, request: ExaminationRequest, out: Path, *, certify: bool) -> dict[str, Any]:
    """Examine a request with the models and data of a store, write `examination.json` and `arrays.npz`, return the JSON.

    What the store holds already, a page's examinations among it, is not computed again.

    Raises BadInput when `out` already holds another examination, and whatever the request lacks.
    """
    if (out / "examination.json").exists():
        raise BadInput(f"{out.name} already holds an examination; choose another folder.")
    started = time.perf_counter()
    found = at_once.result(answers, tasks.EXAMINATION, request)
    requests = [CertificatePart(found.key, name) for name in (faithfulness.PARTS if certify else ())]
    known = faithfulness.merge([at_once.result(answers, tasks.CERTIFICATE, part) for part in requests])
    compared = comparison.compare(found, SHARE, known.classes)
    summary = _summary(found, compared, known, time.perf_counter() - started)
    with files.disk_errors("writing an examination"):
        out.mkdir(parents=True, exist_ok=True)
        files.write_file(out / "arrays.npz", _arrays(found, known.groups))
        files.write_file(out / "examination.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def sentence(found: dict[str, Any]) -> str:
    """Return one line that says what an examination's JSON holds."""
    before, after = (f"'{found[side]['class']}' ({found[side]['confidence']:.0%})" for side in ("before", "after"))
    where = (
        f"parts {_at(found['parts_at'], found['parts_span'])}, merges {_at(found['merges_at'], found['merges_span'])}"
    )
    return f"{found['sample']} {before} -> {after}, {found['status']}; {where}; {found['seconds']:.1f} s"


def _at(site: str | None, span: dict[str, Any] | None) -> str:
    if span is None:
        return f"at {site or 'no site'}"
    return f"at {site or 'no site'} [{span['first']}, {span['last'] or 'no site'}]"


def _summary(found: Examination, compared: Comparison, known: Certificates, seconds: float) -> dict[str, Any]:
    first = found.outcomes[0]
    return {
        **_outcome(first, found),
        "pairs": [_outcome(outcome, found) for outcome in found.outcomes],
        "model": found.request.model,
        "data": found.request.data,
        "attack": found.request.attack.text,
        "seed": found.request.seed,
        "share": SHARE,
        "references": list(found.references),
        "clean": _datapath(found.clean, known.clean),
        "adversarial": _datapath(found.adversarial, known.adversarial),
        "restoration": _plain(known.restoration),
        "kinship": _plain(known.kinship),
        "cross": _plain(known.cross),
        "unavailable": list(known.unavailable),
        "groups": [_group(group, found) for group in known.groups.groups] if known.groups else [],
        "certificate_parts": {"done": list(known.done), "failed": list(known.failed)},
        "sites": _sites(found, compared),
        "connections_complete_to": max(edge.completeness for edge in found.connections),
        "parts_at": compared.parts_at,
        "parts_span": _plain(compared.parts_span),
        "apart_from": compared.apart_from,
        "merges_at": known.kinship.merges_at if known.kinship else None,
        "merges_span": _plain(known.kinship.merges_span) if known.kinship else None,
        "meaning": MEANING,
        "passes": found.passes,
        "seconds": seconds,
    }


def _sites(found: Examination, compared: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "name": site.name,
            "stage": site.stage,
            "channels": site.channels,
            "clean_only": list(row.clean_only),
            "shared": list(row.shared),
            "adversarial_only": list(row.adversarial_only),
            "target_only": list(row.target_only),
            "noise_also": list(row.noise_also),
            "distance": row.distance,
            "distance_interval": [row.distance_low, row.distance_high],
            "floor": [row.floor_low, row.floor_high],
            "p_value": row.p_value,
            "flow": row.flow,
            "flow_floor": row.flow_floor,
        }
        for site, row in zip(found.sites, compared.sites, strict=True)
    ]


def _group(group: GroupDatapath, found: Examination) -> dict[str, Any]:
    excess = np.concatenate(group.specific)
    places = [(site.name, channel) for site in found.sites for channel in range(site.channels)]
    claimable = np.repeat([site.is_claimable for site in found.sites], [site.channels for site in found.sites])
    order = np.argsort(-np.where(claimable, excess, -np.inf), kind="stable")
    strongest = [k for k in order[:SPECIFIC] if claimable[k] and excess[k] > 0]
    return {
        "name": group.name,
        "images": group.images,
        "held_out": _plain(group.held_out),
        "specific": [{"site": places[k][0], "map": places[k][1], "excess": float(excess[k])} for k in strongest],
    }


def _outcome(outcome: Outcome, found: Examination) -> dict[str, Any]:
    return {
        "sample": outcome.sample,
        "label": found.classes[outcome.label],
        "status": outcome.status,
        "before": _prediction(outcome.before, found),
        "after": _prediction(outcome.after, found),
        "norms": {"linf": outcome.linf, "l2": outcome.l2, "area": outcome.area},
    }


def _prediction(prediction: Prediction, found: Examination) -> dict[str, Any]:
    return {"class": found.classes[prediction.label], "confidence": prediction.confidence}


def _datapath(datapath: Datapath, certificate: object) -> dict[str, Any]:
    values = _plain(certificate)
    values["random_band"] = [values.pop("random_low"), values.pop("random_high")]
    return {
        "method": datapath.method.name,
        "baseline": datapath.baseline,
        "maps": datapath.carries_at,
        "total": sum(site.shape[1] for site in datapath.scores),
        "sizes": list(datapath.sizes),
        "carried": list(datapath.carried),
        "converged": datapath.converged,
        "certificate": values,
    }


def _plain(record: object) -> Any:
    return serialization.flatten(record).value


def _arrays(found: Examination, groups: Groups | None) -> bytes:
    members: dict[str, np.ndarray] = dict(found.images)
    members["images"] = np.stack([found.images["clean"], found.images["adversarial"]])
    for side, datapath in (("clean", found.clean), ("adversarial", found.adversarial)):
        kept = statistics.per_site(datapath.strength, SHARE)
        for site, scores, chosen in zip(found.sites, datapath.scores, kept, strict=True):
            members[f"scores_{side}/{site.name}"] = scores
            members[f"kept_{side}/{site.name}"] = chosen
    for site, flow in zip(found.sites, found.flow, strict=True):
        members[f"flow/{site.name}"] = flow
    for edge in found.connections:
        target = found.sites[edge.target].name if edge.target < len(found.sites) else "logits"
        for side in SIDES:
            whole = edge.whole(side, found.sites[edge.source].channels)
            members[f"edges_{side}/{found.sites[edge.source].name}->{target}"] = whole
    for group in groups.groups if groups else ():
        for site, strength, specific in zip(found.sites, group.strength, group.specific, strict=True):
            members[f"strength_{group.name}/{site.name}"] = strength
            members[f"specific_{group.name}/{site.name}"] = specific
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **members)
    return buffer.getvalue()


def evaluated(answers: Answers, request: EvaluateRequest, out: Path) -> dict[str, Any]:
    """Run an evaluation, write its JSON and return it. Raises BadInput for a file that exists or cannot be there."""
    command.require_new(out)
    found = tables.evaluation_json(at_once.result(answers, tasks.EVALUATION, request))
    found["site_choice"] = request.sites
    command.write(out, found, "writing an evaluation")
    return found


OF_GROUP: Final[dict[str, tasks.Task]] = {
    "smallest": tasks.SMALLEST,
    "curve": tasks.CURVE,
    "profile": tasks.PROFILE,
    "defence": tasks.DEFENCE,
}
"""Studies that take a group alone."""


@dataclass(frozen=True, slots=True)
class Images:
    """Which images to attack: the named ones, those of a class, or correctly classified ones from an index on."""

    samples: tuple[str, ...] = ()
    label: str | None = None
    """Name or index of a class, or both as `name@index`; None for images of any class."""
    count: int = 100
    first: int = 128


@dataclass(frozen=True, slots=True)
class Study:
    """What to find out of which model."""

    model: str
    data: str
    attack: Attack
    images: Images
    maps: int
    """Maps with the most attack flow over the group, put back by the proof."""
    studies: tuple[str, ...] = STUDIES
    sites: SiteChoice = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.studies:
            if name not in STUDIES:
                raise UnknownName("study", name, STUDIES)
        if self.images.count < 1 or self.images.first < 0 or self.maps < 1:
            raise BadSetting("--images and --maps must be at least 1, and --first not negative.")


def proved(answers: Answers, study: Study, out: Path) -> dict[str, Any]:
    """Answer, write the JSON and return it. Raises BadInput for a file that exists or cannot be there."""
    started = time.perf_counter()
    command.require_new(out)
    samples = _samples(answers, study)
    group = FooledRequest(study.model, study.data, study.attack, samples, study.seed, study.sites)
    found = {
        "model": study.model,
        "data": study.data,
        "attack": study.attack.text,
        "seed": study.seed,
        "site_choice": study.sites,
        "attempted": list(samples),
        **{name: _answered(answers, group, name, study.maps) for name in study.studies},
        "seconds": time.perf_counter() - started,
    }
    command.write(out, found, "writing a proof")
    return found


def _answered(answers: Answers, group: FooledRequest, name: str, maps: int) -> dict[str, Any]:
    if name == "proof":
        return _proof(answers, group, maps)
    return serialization.flatten(at_once.result(answers, OF_GROUP[name], group)).value


def _proof(answers: Answers, group: FooledRequest, maps: int) -> dict[str, Any]:
    """The group's maps with the most attack flow put back, beside the six controls; `is_proven` says what they say."""
    chosen = at_once.result(answers, tasks.STRONGEST, StrongestRequest(group, maps))
    found = at_once.result(answers, tasks.GROUP_PROOF, GroupProofRequest(group, chosen, "restore"))
    return {**serialization.flatten(found).value, "is_proven": found.is_proven}


def _samples(answers: Answers, study: Study) -> tuple[str, ...]:
    images, dataset = study.images, answers.store.dataset(study.data)
    if images.samples:
        return images.samples
    if images.label is None:
        request = CorrectRequest(study.model, study.data, images.count, images.first)
        return at_once.result(answers, tasks.CORRECT, request).samples
    card = answers.store.model_card(study.model)
    label = class_names.index(images.label, card.classes)
    rows = np.flatnonzero(dataset.labels_for(card) == label)[: images.count]
    if not len(rows):
        raise BadInput(f"The data set holds no image of class '{images.label}'.")
    return tuple(dataset.keys[k] for k in rows)
