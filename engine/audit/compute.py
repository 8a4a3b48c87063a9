"""What a worker computes of a run: one block under one condition, and how fast this machine does it."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import parameters
from engine.attacks import attacked, runner
from engine.attacks.attacked import AttackedImages, Batch
from engine.attacks.gradient import Classifier
from engine.attacks.guards import isolated
from engine.attribution import baselines, datapaths, explain, scorers
from engine.attribution.baselines import Case, References
from engine.audit import manifest as manifests
from engine.audit import shards
from engine.audit.connections import Sampled, SampledImage
from engine.audit.manifest import Condition, Manifest, Place
from engine.audit.plan import Precomputed
from engine.audit.shards import Found, NoShard, Receipt, Rows
from engine.errors import BadInput, UnknownName
from engine.models import hooks
from engine.models.network import ModelBundle
from engine.specs.methods import NO_METHOD, Method
from engine.store import Dataset, Store
from engine.store.store import image_hash
from engine.types.core import Outcome, Status
from engine.types.requests import Pace

REPEATS = 3
"""Of which the fastest counts: whatever else runs on the machine only ever makes a pass slower."""


def measure_attack(bundle: Classifier, pictures: Tensor, labels: Tensor) -> Pace:
    """Return the seconds per image of a pass over a batch of the size that will be used.

    pictures: (batch, channels, height, width) in [0, 1]; labels: (batch,) int64; both on the bundle's device.
    """

    def forward() -> None:
        with torch.no_grad():
            bundle.logits(pictures)

    def forward_backward() -> None:
        points = pictures.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(bundle.logits(points), labels, reduction="sum"), points)

    with isolated(bundle.network):
        passes, forwards = (_fastest(run, bundle.device) for run in (forward_backward, forward))
    return Pace(passes / len(pictures), forwards / len(pictures))


def _fastest(run: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of the fastest of some runs, after one that does not count."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


Check = Callable[[int], None]
"""Called between batches with how many images are done; it raises where the work is to stop."""
BROKEN: Final[Status] = "broken_before"
HELD = 32
"""Reference sets kept while a block is scored."""


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """What a block is computed on."""

    bundle: ModelBundle
    dataset: Dataset
    manifest: Manifest
    condition: Condition
    broken: frozenset[str] = frozenset()
    """Samples that an attack before this one has fooled: they are not attacked."""


@dataclass(slots=True)
class _Drawn:
    """Reference images by the classes they must avoid: many images of a block share them."""

    subject: Subject
    held: OrderedDict[frozenset[int], References] = field(default_factory=OrderedDict)

    def references(self, case: Case, avoid: frozenset[int]) -> References:
        if avoid in self.held:
            self.held.move_to_end(avoid)
            return self.held[avoid]
        seed = self.subject.manifest.plan.seed
        result = baselines.references(self.subject.bundle, self.subject.dataset, case, avoid=avoid, seed=seed)
        if result.kind == "references":
            self.held[avoid] = result
            if len(self.held) > HELD:
                self.held.popitem(last=False)
        return result


def require_fit(manifest: Manifest, condition: Condition, bundle: ModelBundle) -> None:
    """Raise BadInput where this worker would compute something else than was planned."""
    differs = manifests.difference(manifest.versions, manifests.installed())
    if differs:
        raise BadInput(f"This worker is not what the run was planned for: {differs}.")
    _require_model(manifest, condition, bundle)
    if bundle.device.type != manifest.plan.device:
        raise BadInput(
            f"The plan says device = '{manifest.plan.device}' and this worker computes on {bundle.device.type}; "
            "write the worker's device into the plan."
        )


def require_same(manifest: Manifest, condition: Condition, bundle: ModelBundle, dataset: Dataset) -> None:
    """Raise BadInput where model or data are not those that a run was planned with."""
    _require_model(manifest, condition, bundle)
    if dataset.card.content_hash != manifest.images.content_hash:
        raise BadInput(f"The data set '{dataset.card.name}' is not the one the run was planned with.")


def _require_model(manifest: Manifest, condition: Condition, bundle: ModelBundle) -> None:
    if bundle.content_hash != manifest.model(condition.role).content_hash:
        raise BadInput(f"The model '{bundle.name}' is not the one the run was planned with.")


def compute(subject: Subject, store: Store, samples: Sequence[int], check: Check) -> Found:
    """Return the rows of some of the run's images (indices, sorted by class) under one condition, with the images.

    What is computed for an image depends on the others of its batch in the last bits of a sum at most. Raises BadInput
    for images that changed since the run was planned.
    """
    parts: list[AttackedImages] = []
    drawn = _Drawn(subject)
    with threads(subject.manifest.plan.threads):
        for place in range(0, len(samples), hooks.batch_limit(subject.bundle)):
            check(place)
            chosen = list(samples[place : place + hooks.batch_limit(subject.bundle)])
            parts.append(_judged(subject, store, chosen))
        whole = attacked.joined(parts)
        measured = (
            _measured(subject, whole, drawn, check)
            if subject.manifest.scores(subject.condition)
            else _Measured.nothing(len(samples))
        )
        connections = _sampled(drawn, samples, whole, measured)
    pictures = attacked.pixels(whole.adversarial)
    rows = _rows(subject, list(samples), whole, measured, pictures)
    return Found(rows, pictures if subject.manifest.plan.images.is_kept else None, connections)


def _judged(subject: Subject, store: Store, chosen: list[int]) -> AttackedImages:
    """Attack some images, or judge them as they are, or as somebody else changed them."""
    bundle, held = subject.bundle, subject.manifest.images
    samples = tuple(held.samples[k] for k in chosen)
    if subject.dataset.image_hashes(samples) != tuple(held.hashes[k] for k in chosen):
        raise BadInput(f"The data set '{held.data}' is not the one the run was planned with.")
    clean = baselines.load(bundle, subject.dataset, samples)
    labels = torch.tensor([held.labels[k] for k in chosen], device=bundle.device)
    asked = Batch(clean, labels, samples)
    if subject.condition.kind == "clean":
        return _unattacked(subject, asked, clean)
    if subject.condition.kind == "premade":
        return _precomputed(subject, store, chosen, asked)
    left = [place for place, sample in enumerate(samples) if sample not in subject.broken]
    if len(left) == len(samples):
        return _attacked(subject, clean, labels, samples)
    outcomes, stored = [replace(item, status=BROKEN) for item in runner.judged(bundle, asked, clean)], clean.clone()
    if left:
        part = _attacked(subject, clean[left], labels[left], tuple(samples[place] for place in left))
        stored[left] = part.adversarial
        for place, outcome in zip(left, part.outcomes, strict=True):
            outcomes[place] = outcome
    return AttackedImages.of(clean, stored, _seeds(subject, samples), tuple(outcomes))


def _unattacked(subject: Subject, asked: Batch, stored: Tensor) -> AttackedImages:
    outcomes = runner.judged(subject.bundle, asked, stored)
    return AttackedImages.of(asked.pictures, stored, _seeds(subject, asked.samples), outcomes)


def _attacked(subject: Subject, clean: Tensor, labels: Tensor, samples: tuple[str, ...]) -> AttackedImages:
    attack, fellows = subject.condition.attack, baselines.fellows(subject.bundle, subject.dataset)
    return runner.run(subject.bundle, clean, labels, attack, _seeds(subject, samples), samples=samples, fellows=fellows)


def _seeds(subject: Subject, samples: tuple[str, ...]) -> Tensor:
    manifest = subject.manifest
    return explain.image_seeds(subject.condition.name, manifest.images.content_hash, samples, manifest.plan.seed)


def _precomputed(subject: Subject, store: Store, chosen: list[int], asked: Batch) -> AttackedImages:
    manifest = subject.manifest
    (paired,) = [item for item in manifest.precomputed if item.name == subject.condition.name]
    other = store.dataset(paired.data)
    samples = tuple(paired.samples[k] for k in chosen)
    if other.image_hashes(samples) != tuple(paired.hashes[k] for k in chosen):
        raise BadInput(f"The data set '{paired.data}' is not the one the run was planned with.")
    return _unattacked(subject, asked, baselines.load(subject.bundle, other, samples))


@dataclass(frozen=True, eq=False, slots=True)
class _Measured:
    """Scores and flow of a block, per site (images, channels) float64; zero where not scored."""

    scores: tuple[np.ndarray, ...]
    flow: tuple[np.ndarray, ...]
    is_scored: np.ndarray

    @classmethod
    def nothing(cls, count: int) -> _Measured:
        return cls((), (), np.zeros(count, dtype=bool))


def _measured(subject: Subject, whole: AttackedImages, drawn: _Drawn, check: Check) -> _Measured:
    """Score the datapath of every image that was right without attack; where it was attacked, also the flow.

    Each image is explained against references of classes that play no part in it, as in its explanation.
    """
    count, widths = len(whole.outcomes), [site.channels for site in subject.bundle.sites]
    is_clean = subject.condition.kind == "clean"
    result = tuple(np.zeros((count, width)) for width in widths)
    flow = () if is_clean else tuple(np.zeros((count, width)) for width in widths)
    scored = [k for k, one in enumerate(whole.outcomes) if is_scored(one.status, is_clean=is_clean)]
    for group in _groups(whole.outcomes, scored):
        for part in _split(group, hooks.batch_limit(subject.bundle)):
            check(count)
            _fill(result, part, _scores(subject, whole, part, drawn))
            if flow:
                _fill(flow, part, _flow(subject.bundle, whole, part))
    mask = np.zeros(count, dtype=bool)
    mask[scored] = True
    return _Measured(result, flow, mask)


def is_scored(status: str, *, is_clean: bool) -> bool:
    """Tell whether the feature maps of an image are scored: right ones, or such as an attack changed."""
    return status == "unperturbed" if is_clean else status in ("fooled", "resisted")


def _groups(outcomes: tuple[Outcome, ...], scored: list[int]) -> list[list[int]]:
    """Gather images whose references must avoid the same classes, in the order of their first image."""
    groups: dict[frozenset[int], list[int]] = {}
    for k in scored:
        groups.setdefault(attacked.played([outcomes[k]]), []).append(k)
    return list(groups.values())


def _split(group: list[int], limit: int) -> Iterator[list[int]]:
    for place in range(0, len(group), limit):
        yield group[place : place + limit]


def _scores(subject: Subject, whole: AttackedImages, part: list[int], drawn: _Drawn) -> tuple[Tensor, ...]:
    targets = torch.tensor([whole.outcomes[k].after.label for k in part], device=subject.bundle.device)
    case = Case(whole.adversarial[part], targets)
    references = drawn.references(case, attacked.played([whole.outcomes[part[0]]]))
    if references.kind != "references" and len(part) > 1:
        # Without other-class images the reference is a blurred copy, which must be the image's own.
        alone = [_scores(subject, whole, [k], drawn) for k in part]
        return tuple(torch.cat(site) for site in zip(*alone, strict=True))
    plan = subject.manifest.plan
    result, _ = datapaths.score(subject.bundle, case, references, method=plan.method, seed=plan.seed)
    return result


def _flow(bundle: ModelBundle, whole: AttackedImages, part: list[int]) -> tuple[Tensor, ...]:
    """The attack conductance from the adversarial image to its own clean run, as in an explanation."""
    rivals = torch.tensor([attacked.rival(whole.outcomes[k]) for k in part], device=bundle.device)
    question = scorers.Question(whole.clean[part], whole.before[part], rivals)
    return scorers.conductance(bundle, question, whole.adversarial[part]).scores


def _sampled(drawn: _Drawn, samples: Sequence[int], whole: AttackedImages, measured: _Measured) -> Sampled | None:
    """Return the connections of the images of the sample that are scored, each alone, as an explanation of it has them."""
    manifest, links = drawn.subject.manifest, drawn.subject.bundle.links
    if not manifest.connects(drawn.subject.condition):
        return None
    places = set(manifest.connected)
    images = [_connected(drawn, whole, k) for k, row in enumerate(samples) if row in places and measured.is_scored[k]]
    return Sampled.of([(link.source, link.target) for link in links], images) if images else None


def _connected(drawn: _Drawn, whole: AttackedImages, row: int) -> SampledImage:
    bundle, pair = drawn.subject.bundle, whole.rows(torch.tensor([row]))
    (outcome,) = pair.outcomes
    clean, case = explain.sides(pair)
    references = drawn.references(case, attacked.played([outcome]))
    extracted = datapaths.connected(bundle, case, references)
    head = explain.head(bundle, case, references, (clean, case))
    last = len(bundle.sites)
    found = [
        (head.matrices[link.source], head.completeness)
        if link.target == last
        else (extracted.matrices[link.source, link.target], extracted.completeness[link.target])
        for link in bundle.links
    ]
    return SampledImage(
        sample=outcome.sample,
        group=shards.group_of(outcome.status),
        label=outcome.label,
        matrices=tuple(matrix.float().cpu().numpy() for matrix, _ in found),
        completeness=np.array([error for _, error in found], dtype=np.float32),
    )


def _fill(target: tuple[np.ndarray, ...], part: list[int], values: tuple[Tensor, ...]) -> None:
    for site, value in zip(target, values, strict=True):
        site[part] = value.double().cpu().numpy()


def _rows(
    subject: Subject, chosen: list[int], whole: AttackedImages, measured: _Measured, pictures: np.ndarray
) -> Rows:
    outcomes = whole.outcomes
    nothing: tuple[tuple[np.ndarray, ...], np.ndarray] = ((), np.zeros(len(outcomes)))
    scaled_scores, score_total = shards.scaled(measured.scores) if measured.scores else nothing
    scaled_flow, flow_total = shards.scaled(measured.flow) if measured.flow else nothing
    return Rows(
        samples=tuple(outcome.sample for outcome in outcomes),
        names=tuple(subject.manifest.images.names[k] for k in chosen),
        labels=np.array([outcome.label for outcome in outcomes], dtype=np.int32),
        before=np.array([outcome.before.label for outcome in outcomes], dtype=np.int32),
        before_confidence=np.array([outcome.before.confidence for outcome in outcomes]),
        after=np.array([outcome.after.label for outcome in outcomes], dtype=np.int32),
        after_confidence=np.array([outcome.after.confidence for outcome in outcomes]),
        status=tuple(outcome.status for outcome in outcomes),
        linf=np.array([outcome.linf for outcome in outcomes]),
        l2=np.array([outcome.l2 for outcome in outcomes]),
        in_budget=_in_budget(subject, outcomes),
        targets=np.array(
            [shards.NO_TARGET if outcome.target is None else outcome.target for outcome in outcomes], dtype=np.int32
        ),
        image_hashes=tuple(image_hash(picture) for picture in pictures),
        is_scored=measured.is_scored,
        score_total=score_total,
        flow_total=flow_total,
        scores=scaled_scores,
        flow=scaled_flow,
    )


def _in_budget(subject: Subject, outcomes: tuple[Outcome, ...]) -> np.ndarray:
    """(images,) bool. Attacks run here verify their own budgets; pre-made images are measured against the declared one."""
    if subject.condition.kind != "premade":
        return np.ones(len(outcomes), dtype=bool)
    (precomputed,) = [item for item in subject.manifest.plan.precomputed if item.name == subject.condition.name]
    limit = float(_budget(precomputed)) + runner.TOLERANCE
    return np.array([outcome.size(precomputed.norm) <= limit for outcome in outcomes])


def _budget(precomputed: Precomputed) -> Fraction:
    return parameters.read_fraction("epsilon", precomputed.epsilon)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with a fixed number of threads, on which the last bits of a sum depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Report = Callable[[int, int, str], None]


class Cancelled(Exception):
    """The run was told to stop."""


def make(store: Store, load: Callable[[str], ModelBundle], request: tuple[str, str, int], report: Report) -> None:
    """Make the shard (run, condition folder, block) unless it is there; leave nothing where the run was cancelled.

    load: returns the bundle of a stored model. Raises BadInput, StoreError.
    """
    run, folder, block = request
    place = manifests.place(store.root, run)
    manifest = manifests.read(place)
    condition = _condition(manifest, folder, block)
    try:
        shards.check(place, folder, block)
    except NoShard:
        try:
            _make_shard(store, load, (place, manifest, condition, block), report)
        except Cancelled:
            return


def _make_shard(
    store: Store,
    load: Callable[[str], ModelBundle],
    task: tuple[Place, Manifest, Condition, int],
    report: Report,
) -> None:
    place, manifest, condition, block = task
    rows = manifest.rows(block)

    def check(done: int) -> None:
        if place.cancel.exists():
            raise Cancelled
        report(done, rows.stop - rows.start, f"{condition.name}, block {block + 1} of {manifest.blocks}")

    check(0)
    bundle = load(manifest.model(condition.role).name)
    require_fit(manifest, condition, bundle)
    started = time.perf_counter()
    broken = shards.broken(place, condition, [block])
    subject = Subject(bundle, store.dataset(manifest.images.data), manifest, condition, broken)
    result = compute(subject, store, range(rows.start, rows.stop), check)
    seconds = time.perf_counter() - started
    receipt = Receipt(place.run, condition.folder, block, len(result.rows.samples), seconds, str(bundle.device))
    shards.write(place, manifest, condition, receipt, result)


def _condition(manifest: Manifest, folder: str, block: int) -> Condition:
    for condition in manifest.conditions:
        if condition.folder == folder and 0 <= block < manifest.blocks:
            return condition
    raise UnknownName("shard", f"{folder}, block {block}", [condition.folder for condition in manifest.conditions])


BATCH = 64
"""Images of a measured pass: most of an audit's passes run on blocks of about this size."""
GROUP = 4
"""Images that are explained together: as many as share true, first and last answer in a block of 96, on average."""


def measure_pace(bundle: ModelBundle, dataset: Dataset, method: Method, count: int) -> Pace:
    """Return the pace on images of a data set with so many threads, scoring by a method or, for `none`, not at all.

    Takes a few passes over a batch, and explains one small group against its own mirror images.
    """
    labels = baselines.labels(bundle, dataset)
    rows = np.linspace(0, len(labels) - 1, min(BATCH, len(labels), hooks.batch_limit(bundle))).astype(int)
    with threads(count):
        pictures = baselines.load(bundle, dataset, tuple(dataset.keys[row] for row in rows))
        attack = measure_attack(bundle, pictures, torch.tensor(labels[rows], device=bundle.device))
        if method == NO_METHOD:
            return attack
        case = Case(pictures[:GROUP], torch.tensor(labels[rows][:GROUP], device=bundle.device))
        return dataclasses.replace(attack, explain_seconds=_explained(bundle, dataset, case, method))


def _explained(bundle: ModelBundle, dataset: Dataset, case: Case, method: Method) -> float:
    """Return the seconds per image of scoring a case and its flow, after a first one that does not count."""
    avoid = frozenset(case.targets.tolist())
    references = baselines.references(bundle, dataset, case, avoid=avoid, seed=0)
    rivals = (case.targets + 1) % len(bundle.classes)
    question = scorers.Question(case.images.flip(-1), case.targets, rivals)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        datapaths.score(bundle, case, references, method=method, seed=0)
        scorers.conductance(bundle, question, case.images)
        seconds.append(time.perf_counter() - started)
    return seconds[-1] / len(case.images)
