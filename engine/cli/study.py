"""The commands `explain`, `evaluate` and `patching`: one explanation, the table of methods, every study of a group."""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from engine import benchmark, class_names, serialization, statistics
from engine.attribution import comparison
from engine.cli import command
from engine.cli.command import STUDIES, TEST, Reply
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
from engine.types.core import SIDES, Datapath, Explanation, ExplanationRequest, Outcome, Prediction
from engine.types.faithfulness import Comparison, Faithfulness, GroupDatapath, Groups
from engine.types.patching import (
    EvaluateRequest,
    EvaluationRequest,
    FooledRequest,
    GroupTestRequest,
    SiteChoice,
    StrongestRequest,
)
from engine.types.requests import CorrectRequest, FaithfulnessRequest, SmallestRequest

EXPLANATION, OLD_EXPLANATION = "explanation.json", "examination.json"
"""The second is the name of version 0.1, which this version still writes."""
SHARE = 0.2
SPECIFIC = 16
"""Maps named for each group: those that exceed the mean over classes most."""
MEANING = {
    "clean_only, shared, adversarial_only": "channels among the strongest share of the layer in the clean datapath alone, in both, "
    "in the adversarial one alone",
    "target_only": "channels of the datapath of clean images of the fooled-into class that neither of the two has",
    "noise_also": "those of adversarial_only that noise of the same L2 size brings into the datapath too",
    "distance": "1 - Jaccard of the clean and the adversarial datapath, mean over images, with a 95 % bootstrap interval over "
    "images; floor: the same for noise of the same size",
    "p_value": "one-sided, that the distance exceeds the floor, Holm-adjusted over the layers; null for a single pair",
    "diverges_at": "first layer whose distance exceeds the floor for two layers running; divergence_span: its 95 % "
    "bootstrap interval over "
    "images, `share` the part of the resamples that diverge at all, `last` null where more than 2.5 % never do; "
    "diverges_from: first "
    "layer from which on every one exceeds its floor; layers of which nothing may be claimed (the stem) never count",
    "converges_at": "first layer from which on the adversarial datapath is more like the fooled-into class's than the "
    "true class's; "
    "convergence_span as divergence_span, the class datapaths held fixed",
    "class_similarity": "Jaccard per layer of the adversarial datapath (true_class, fooled_into), the clean one "
    "(clean_*) and that of "
    "same-norm noise (noise_*) with the datapaths of other clean images of the true and of the fooled-into class; classes: "
    "of these two with each other",
    "input_by_target": "2 x 2 design, Jaccard per layer of four datapaths, clean or adversarial image asked for the "
    "true or the fooled-into "
    "class; same_input_*: one image, both questions; same_answer_*: one question, both images; each_its_own: clean asked for "
    "true, adversarial for fooled-into; exchanged: the other way round",
    "groups": "datapath of half of a group's images; held_out: share of the other half whose label its strongest "
    "channels carry into "
    "at least 9 of 10 references, with a 95 % Wilson interval, beside random channels; specific: strength less the "
    "mean over classes",
    "faithfulness": "null reads not run, never passed; not_applicable names the checks that mean nothing for the method",
}
"""What stands under the names of an explanation's JSON."""
OLD_NAMES: Final = {
    "diverges_at": "parts_at",
    "divergence_span": "parts_span",
    "diverges_from": "apart_from",
    "converges_at": "merges_at",
    "convergence_span": "merges_span",
    "class_similarity": "kinship",
    "input_by_target": "cross",
    "faithfulness_parts": "certificate_parts",
    "faithfulness": "certificate",
}
"""Names in the JSON of version 0.1, which this version still writes beside the new ones."""


Named = TypeVar("Named")
LONGEST_COUNT = 9
"""Digits of a number of maps."""


def explain(options: argparse.Namespace) -> Reply:
    """Explain one attacked image or a small group."""
    attack, method = catalogue.attack(options.attack), methods.method(options.method)
    samples = tuple(options.sample)
    request = ExplanationRequest(options.model, options.data, attack, samples, method, options.seed)
    result = explained(_answers(options, _told_to_nobody), request, options.out, with_checks=not options.quick)
    return Reply(sentence(result), result)


def evaluate(options: argparse.Namespace) -> Reply:
    """Ask every method the same questions of the same images."""
    attack, scored = catalogue.attack(options.attack), _named(options.methods, methods.METHODS, methods.method)
    settings = EvaluationRequest(
        attack,
        options.images,
        scored,
        options.first,
        options.seed,
        _counts(options.maps),
        rankings=_named(options.rankings, [item.text for item in methods.rankings_of(scored)], methods.ranking),
        set_maps=options.set,
    )
    request = EvaluateRequest(options.model, options.data, options.sites, settings)
    result = evaluated(_answers(options, _told_on_stderr), request, options.out)
    return Reply(tables.evaluation_text(result), result)


def patching(options: argparse.Namespace) -> Reply:
    """Run activation patching in a group: every study."""
    images = Images(tuple(options.sample or ()), options.label, options.images, options.first)
    study = Study(
        model=options.model,
        data=options.data,
        attack=catalogue.attack(options.attack),
        images=images,
        maps=options.maps,
        studies=tuple(OLD_STUDIES.get(part.strip(), part.strip()) for part in options.studies.split(",")),
        sites=options.sites,
        seed=options.seed,
        passes=options.passes,
    )
    result = intervened(_answers(options, _told_on_stderr), study, options.out)
    return Reply(tables.patching_text(result), result)


def measure(options: argparse.Namespace) -> Reply:
    """Measure speed and memory."""
    result = benchmark.run(Store(options.store, create=False), options.model, options.data)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return Reply(benchmark.text(result), result)


def _answers(options: argparse.Namespace, report: Report) -> Answers:
    return at_once.answers(Store(options.store, create=False), report)


def _told_to_nobody(done: int, total: int, message: str) -> None:
    """Progress of a command that ends in seconds is not shown."""


def _told_on_stderr(done: int, total: int, message: str) -> None:
    sys.stderr.write(f"{done}/{total} {message}\n")
    sys.stderr.flush()


def _named(text: str | None, every: Iterable[str], read: Callable[[str], Named]) -> tuple[Named, ...]:
    """Return the values of comma-separated names: all where no text is given, none for `none`."""
    if text == methods.NO_METHOD.name:
        return ()
    names = every if text is None else [part.strip() for part in text.split(",")]
    return tuple(read(name) for name in names)


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= LONGEST_COUNT for part in parts):
        raise BadInput(f"--maps must be whole numbers such as 8,16,32, got '{text[:80]}'.")
    return tuple(int(part) for part in parts)


def explained(answers: Answers, request: ExplanationRequest, out: Path, *, with_checks: bool) -> dict[str, Any]:
    """Explain a request with the models and data of a store, write `explanation.json` and `arrays.npz`, return the JSON.

    What the store holds already, a page's explanations among it, is not computed again.

    Raises BadInput when `out` already holds another explanation, and whatever the request lacks.
    """
    if any((out / name).exists() for name in (EXPLANATION, OLD_EXPLANATION)):
        raise BadInput(f"{out.name} already holds an explanation; choose another folder.")
    started = time.perf_counter()
    result = at_once.result(answers, tasks.EXPLANATION, request)
    requests = [FaithfulnessRequest(result.key, name) for name in (faithfulness.PARTS if with_checks else ())]
    known = faithfulness.merge([at_once.result(answers, tasks.FAITHFULNESS, part) for part in requests])
    compared = comparison.compare(result, SHARE, known.classes)
    summary = _summary(result, compared, known, time.perf_counter() - started)
    with files.disk_errors("writing an explanation"):
        out.mkdir(parents=True, exist_ok=True)
        files.write_file(out / "arrays.npz", _arrays(result, known.groups))
        for name in (EXPLANATION, OLD_EXPLANATION):
            files.write_file(out / name, (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def sentence(values: dict[str, Any]) -> str:
    """Return one line that says what an explanation's JSON holds."""
    before, after = (f"'{values[side]['class']}' ({values[side]['confidence']:.0%})" for side in ("before", "after"))
    where = (
        f"diverges {_at(values['diverges_at'], values['divergence_span'])}, "
        f"converges on the fooled-into class {_at(values['converges_at'], values['convergence_span'])}"
    )
    return f"{values['sample']} {before} -> {after}, {values['status']}; {where}; {values['seconds']:.1f} s"


def _at(site: str | None, span: dict[str, Any] | None) -> str:
    if span is None:
        return f"at {site or 'no layer'}"
    return f"at {site or 'no layer'} [{span['first']}, {span['last'] or 'no layer'}]"


def _summary(explanation: Explanation, compared: Comparison, known: Faithfulness, seconds: float) -> dict[str, Any]:
    first = explanation.outcomes[0]
    return _with_old_names({
        **_outcome(first, explanation),
        "pairs": [_outcome(outcome, explanation) for outcome in explanation.outcomes],
        "model": explanation.request.model,
        "data": explanation.request.data,
        "attack": explanation.request.attack.text,
        "seed": explanation.request.seed,
        "share": SHARE,
        "references": list(explanation.references),
        "clean": _datapath(explanation.clean, known.clean),
        "adversarial": _datapath(explanation.adversarial, known.adversarial),
        "restoration": _plain(known.restoration),
        "class_similarity": _plain(known.class_similarity),
        "input_by_target": _plain(known.cross),
        "unavailable": list(known.unavailable),
        "groups": [_group(group, explanation) for group in known.groups.groups] if known.groups else [],
        "faithfulness_parts": {"done": list(known.done), "failed": list(known.failed)},
        "sites": _sites(explanation, compared),
        "connections_complete_to": max(edge.completeness for edge in explanation.connections),
        "diverges_at": compared.diverges_at,
        "divergence_span": _plain(compared.divergence_span),
        "diverges_from": compared.diverges_from,
        "converges_at": known.class_similarity.converges_at if known.class_similarity else None,
        "convergence_span": _plain(known.class_similarity.convergence_span) if known.class_similarity else None,
        "meaning": MEANING,
        "passes": explanation.passes,
        "seconds": seconds,
    })  # fmt: skip


def _with_old_names(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with those that were renamed under their old names too."""
    return values | {OLD_NAMES[name]: value for name, value in values.items() if name in OLD_NAMES}


def _sites(explanation: Explanation, compared: Comparison) -> list[dict[str, Any]]:
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
        for site, row in zip(explanation.sites, compared.sites, strict=True)
    ]


def _group(group: GroupDatapath, explanation: Explanation) -> dict[str, Any]:
    excess = np.concatenate(group.specific)
    places = [(site.name, channel) for site in explanation.sites for channel in range(site.channels)]
    eligible = np.repeat(
        [site.is_eligible for site in explanation.sites], [site.channels for site in explanation.sites]
    )
    order = np.argsort(-np.where(eligible, excess, -np.inf), kind="stable")
    strongest = [k for k in order[:SPECIFIC] if eligible[k] and excess[k] > 0]
    return {
        "name": group.name,
        "images": group.images,
        "held_out": _plain(group.held_out),
        "specific": [{"site": places[k][0], "map": places[k][1], "excess": float(excess[k])} for k in strongest],
    }


def _outcome(outcome: Outcome, explanation: Explanation) -> dict[str, Any]:
    return {
        "sample": outcome.sample,
        "label": explanation.classes[outcome.label],
        "status": outcome.status,
        "before": _prediction(outcome.before, explanation),
        "after": _prediction(outcome.after, explanation),
        "norms": {"linf": outcome.linf, "l2": outcome.l2, "l1": outcome.l1, "area": outcome.area},
    }


def _prediction(prediction: Prediction, explanation: Explanation) -> dict[str, Any]:
    return {"class": explanation.classes[prediction.label], "confidence": prediction.confidence}


def _datapath(datapath: Datapath, faithfulness_part: object) -> dict[str, Any]:
    values = _plain(faithfulness_part)
    values["random_band"] = [values.pop("random_low"), values.pop("random_high")]
    return _with_old_names({
        "method": datapath.method.name,
        "baseline": datapath.baseline,
        "maps": datapath.carries_at,
        "total": sum(site.shape[1] for site in datapath.scores),
        "sizes": list(datapath.sizes),
        "carried": list(datapath.carried),
        "converged": datapath.converged,
        "faithfulness": values,
    })  # fmt: skip


def _plain(record: object) -> Any:
    return serialization.flatten(record).value


def _arrays(explanation: Explanation, groups: Groups | None) -> bytes:
    members: dict[str, np.ndarray] = dict(explanation.images)
    members["images"] = np.stack([explanation.images["clean"], explanation.images["adversarial"]])
    for side, datapath in (("clean", explanation.clean), ("adversarial", explanation.adversarial)):
        kept = statistics.per_site(datapath.strength, SHARE)
        for site, scores, chosen in zip(explanation.sites, datapath.scores, kept, strict=True):
            members[f"scores_{side}/{site.name}"] = scores
            members[f"kept_{side}/{site.name}"] = chosen
    for site, flow in zip(explanation.sites, explanation.flow, strict=True):
        members[f"flow/{site.name}"] = flow
    for edge in explanation.connections:
        target = explanation.sites[edge.target].name if edge.target < len(explanation.sites) else "logits"
        for side in SIDES:
            whole = edge.whole(side, explanation.sites[edge.source].channels)
            members[f"edges_{side}/{explanation.sites[edge.source].name}->{target}"] = whole
    for group in groups.groups if groups else ():
        for site, strength, specific in zip(explanation.sites, group.strength, group.specific, strict=True):
            members[f"strength_{group.name}/{site.name}"] = strength
            members[f"specific_{group.name}/{site.name}"] = specific
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **members)
    return buffer.getvalue()


def evaluated(answers: Answers, request: EvaluateRequest, out: Path) -> dict[str, Any]:
    """Run an evaluation, write its JSON and return it. Raises BadInput for a file that exists or cannot be there."""
    command.require_new(out)
    evaluation_json = tables.evaluation_json(at_once.result(answers, tasks.EVALUATION, request))
    evaluation_json["site_choice"] = request.sites
    command.write(out, evaluation_json, "writing an evaluation")
    return evaluation_json


OLD_STUDIES: Final = {"proof": TEST}
"""Words of version 0.1 for a study."""
OF_GROUP: Final[dict[str, tasks.Task]] = {
    "smallest": tasks.SMALLEST,
    "curve": tasks.CURVE,
    "profile": tasks.PROFILE,
    "localisation": tasks.LOCALISATION,
    "faithfulness": tasks.FAITHFULNESS_CURVE,
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
    """Maps that stand out most in their layers over the group, patched by the causal test."""
    studies: tuple[str, ...] = STUDIES
    sites: SiteChoice = "all"
    seed: int = 0
    passes: int | None = None
    """Image-passes per image for the smallest sets, about; None for the usual number."""

    def __post_init__(self) -> None:
        for name in self.studies:
            if name not in STUDIES:
                raise UnknownName("study", name, STUDIES)
        if self.images.count < 1 or self.images.first < 0 or self.maps < 1:
            raise BadSetting("--images and --maps must be at least 1, and --first not negative.")


def intervened(answers: Answers, study: Study, out: Path) -> dict[str, Any]:
    """Answer, write the JSON and return it. Raises BadInput for a file that exists or cannot be there."""
    started = time.perf_counter()
    command.require_new(out)
    samples = _samples(answers, study)
    group = FooledRequest(study.model, study.data, study.attack, samples, study.seed, study.sites)
    results: dict[str, Any] = {
        "model": study.model,
        "data": study.data,
        "attack": study.attack.text,
        "seed": study.seed,
        "site_choice": study.sites,
        "attempted": list(samples),
        **{name: _answered(answers, group, name, study) for name in study.studies},
        "seconds": time.perf_counter() - started,
    }
    if TEST in results:
        results |= {"proof": {**results[TEST], "is_proven": results[TEST].get("is_supported")}}
    command.write(out, results, "writing causal tests")
    return results


def _answered(answers: Answers, group: FooledRequest, name: str, study: Study) -> dict[str, Any]:
    if name == TEST:
        return _causal_test(answers, group, study.maps)
    if name == "smallest" and study.passes is not None:
        request = SmallestRequest(group, study.passes)
        return serialization.flatten(at_once.result(answers, tasks.SMALLEST_WITHIN, request)).value
    return serialization.flatten(at_once.result(answers, OF_GROUP[name], group)).value


def _causal_test(answers: Answers, group: FooledRequest, maps: int) -> dict[str, Any]:
    """The group's channels that stand out most in their layers patched, beside the controls; `is_supported` is the verdict."""
    chosen = at_once.result(answers, tasks.STRONGEST, StrongestRequest(group, maps, methods.STANDOUT))
    result = at_once.result(answers, tasks.GROUP_TEST, GroupTestRequest(group, chosen, "restore"))
    return {**serialization.flatten(result).value, "is_supported": result.is_supported}


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
