"""A finished run in which one feature map carries the attacks on two classes of ten: written from made-up rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.audit import shards
from engine.audit.connections import Sampled, SampledImage
from engine.audit.manifest import Condition, Manifest
from engine.audit.runs import Run
from engine.audit.shards import Found, Receipt, Rows
from engine.store import Store
from engine.store.store import image_hash
from tests import audits

PLAN = (
    audits.PLAN.replace(
        'attacks = ["fgsm-linf:eps=24/255"]', 'attacks = ["fgsm-linf:eps=24/255", "pgd-linf:eps=24/255"]'
    )
    .replace("controls = false", "controls = true")
    .replace("count = 6\nblock = 2", "count = 40\nblock = 16")
    .replace('model = "digits-standard"', 'model = "digits-standard"\nbaseline = "digits-robust"')
)
CLASSES = (3, 8)
LAYER, CHANNEL = 4, 5
STRENGTH = 400.0
EMPTY = 6
"""A class of which no image is fooled."""


def finish(store: Store, text: str = PLAN) -> Run:
    """Drive a run whose shards are made up."""
    manifest = audits.planned(store, text)

    def plant(task: dict[str, Any]) -> bool:
        folder, block = task["request"]["condition"], task["request"]["block"]
        (condition,) = [one for one in manifest.conditions if one.folder == folder]
        place = Run(store, manifest).place
        rows = made_up(manifest, condition, block)
        receipt = Receipt(place.run, folder, block, len(rows.samples), 0.1, "cpu")
        kept = pictures(manifest, len(rows.samples)) if manifest.plan.images.is_kept else None
        found = Found(rows, kept, made_up_connections(store, condition, manifest, rows))
        shards.write(place, manifest, condition, receipt, found)
        return False

    run, state, _ = audits.drive(store, manifest, plant)
    assert state.state == "finished", state.message
    return run


def pictures(manifest: Manifest, count: int) -> np.ndarray:
    """Return black pictures as the models take them."""
    model = manifest.models[0]
    return np.zeros((count, *model.size, len(model.mean)), dtype=np.uint8)


def made_up(manifest: Manifest, condition: Condition, block: int) -> Rows:
    """Return rows of one block: attacks fool every class but one, noise fools nobody."""
    chosen = manifest.rows(block)
    labels = np.array(manifest.images.labels[chosen], dtype=np.int32)
    count, generator = len(labels), np.random.default_rng([block, len(condition.folder), condition.kind == "attack"])
    is_attack, is_clean = condition.kind == "attack", condition.kind == "clean"
    fooled = is_attack & (labels != EMPTY)
    status = ["unperturbed" if is_clean else "fooled" if own else "resisted" for own in fooled]
    sites = manifest.model(condition.role).sites
    drawn = [generator.normal(size=(count, channels)) for _, channels in sites]
    if is_attack:
        drawn[LAYER][np.isin(labels, CLASSES), CHANNEL] += STRENGTH
    scores, totals = shards.scaled(drawn)
    flow, flow_totals = shards.scaled(
        [_flow(generator, labels, k, channels, is_attack) for k, (_, channels) in enumerate(sites)]
    )
    sure, small = np.full(count, 0.9), np.full(count, 0.05)
    return Rows(
        samples=manifest.images.samples[chosen], names=manifest.images.names[chosen], labels=labels, before=labels,
        before_confidence=sure, after=np.where(fooled, (labels + 1) % 10, labels).astype(np.int32), after_confidence=sure,
        status=tuple(status), linf=0 * small if is_clean else small, l2=small, in_budget=np.ones(count, dtype=bool),
        targets=np.full(count, shards.NO_TARGET, dtype=np.int32), image_hashes=(image_hash(pictures(manifest, 1)[0]),) * count,
        is_scored=np.ones(count, dtype=bool), score_total=totals, flow_total=flow_totals,
        scores=scores if manifest.scores(condition) else (),
        flow=flow if manifest.scores(condition) and not is_clean else (),
    )  # fmt: skip


def _flow(generator: np.random.Generator, labels: np.ndarray, site: int, channels: int, is_attack: bool) -> np.ndarray:
    values = generator.normal(0.5, 1.0, size=(len(labels), channels))
    if is_attack and site == LAYER:
        values[np.isin(labels, CLASSES), CHANNEL] += STRENGTH
    return values


def made_up_connections(store: Store, condition: Condition, manifest: Manifest, rows: Rows) -> Sampled | None:
    """Return connections of the block's sampled images, drawn at random."""
    card = store.model_card(manifest.model(condition.role).name)
    widths = [*(site.channels for site in card.sites), 2]
    places = {manifest.images.samples[place] for place in manifest.connected}
    generator = np.random.default_rng(len(condition.folder))
    images = [
        SampledImage(
            sample=sample,
            group=shards.group_of(status),
            label=int(label),
            matrices=tuple(generator.normal(size=(widths[link.target], widths[link.source])) for link in card.links),
            completeness=np.zeros(len(card.links)),
        )
        for sample, status, label in zip(rows.samples, rows.status, rows.labels, strict=True)
        if sample in places
    ]
    links = [(link.source, link.target) for link in card.links]
    return Sampled.of(links, images) if images and manifest.connects(condition) else None
