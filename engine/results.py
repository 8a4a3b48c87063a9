"""What a run holds, as pandas tables for notebooks.

    from engine import results
    run = results.open("faultline-store", RUN)
    run.conditions.query("kind == 'attack'")[["role", "name", "accuracy", "accuracy_low", "accuracy_high"]]
    run.confusion("pgd-linf:eps=24/255,steps=10")
    run.maps("pgd-linf:eps=24/255,steps=10", classes=["3", "8"]).nlargest(10, "flow")

Only who imports this loads pandas.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from engine import class_names, statistics
from engine.audit import frames, manifest
from engine.audit import results as files
from engine.audit.manifest import CANDIDATE, Condition, Role
from engine.audit.runs import Run
from engine.audit.shards import GROUPS, Group, MapStatistics, Measure
from engine.errors import BadInput, UnknownName
from engine.store import Store


def open(store: str | Path | Store, run: str) -> Results:
    """Return a run by its id, or by as many of its first digits as tell it apart. Raises UnknownName, BadInput, StoreError.

    store: a store, or its folder, which is not changed.
    """
    opened = store if isinstance(store, Store) else Store(store, create=False)
    return Results(opened, Run.open(opened, manifest.whole_id(opened.root, run)))


@dataclass(frozen=True, eq=False)
class Results:
    """The tables of one run; each is read once."""

    store: Store
    run: Run

    @functools.cached_property
    def rows(self) -> pd.DataFrame:
        """One row per image and condition: answers, confidences, status, norms in [0, 1] units; classes by name."""
        return frames.images(self.store, self.run.id)

    @functools.cached_property
    def conditions(self) -> pd.DataFrame:
        """One row per model and condition: how many images ended how, rates with their intervals, doubts."""
        return frames.conditions(self.store, self.run.id)

    @functools.cached_property
    def thresholds(self) -> pd.DataFrame:
        """One row per agreed threshold: what it asks, what was found, and what that decides."""
        return frames.thresholds(self.store, self.run.id)

    def confusion(self, condition: str, *, role: Role = CANDIDATE) -> pd.DataFrame:
        """Return how many images of each true class (rows) were answered as each class (columns) under a condition.

        Images that were wrong without attack stand in it too, as they were answered. Raises UnknownName.
        """
        self._condition(condition, role)
        own = self.rows[(self.rows["role"] == role) & (self.rows["condition"] == condition)]
        classes = list(class_names.handles(self.run.manifest.classes))
        table = pd.crosstab(own["true_class"], own["after"])
        return table.reindex(index=classes, columns=classes, fill_value=0)

    def maps(
        self,
        condition: str,
        *,
        role: Role = CANDIDATE,
        group: Group = "fooled",
        classes: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return one row per feature map of a finished run: mean score and attack flow over images, with 95 % intervals.

        `score`: |contribution| to the answer, where 1 is a map of average importance. `flow`: what the map's change adds to the
        margin that the attack took, in the same unit, signed; 0 without attack. n: images behind it.
        condition: `clean`, an attack's full id, or a precomputed set. group: images that were `fooled`, or that `kept` their
        right answer. classes: names of true classes, all by default. Raises UnknownName, StoreError, and BadInput for a run or
        a condition whose maps were not scored.
        """
        planned = self.run.manifest
        chosen = self._condition(condition, role)
        if not planned.scores(chosen):
            raise BadInput(f"The feature maps of '{condition}' were not scored in this run.")
        if group not in GROUPS:
            raise BadInput(f"A group is one of {', '.join(GROUPS)}, got '{str(group)[:40]}'.")
        place = planned.of(role).index(chosen)
        labels = None if classes is None else [self._class(name) for name in classes]
        cube = files.open_cube(self.run.place, role)
        layers = [(name, channel) for name, channels in planned.model(role).sites for channel in range(channels)]
        table = pd.DataFrame(layers, columns=["layer", "channel"])
        measures: tuple[Measure, ...] = ("score", "flow")
        for measure in measures:
            found = cube.statistics(place, group, measure, labels)
            table["n"] = found.n
            table[measure] = found.mean
            table[f"{measure}_low"], table[f"{measure}_high"] = _interval(found)
        return table

    def _condition(self, name: str, role: Role) -> Condition:
        own = {condition.name: condition for condition in self.run.manifest.of(role)}
        if name not in own:
            raise UnknownName("condition", name, own)
        return own[name]

    def _class(self, name: str) -> int:
        classes = class_names.handles(self.run.manifest.classes)
        if name not in classes:
            raise UnknownName("class", name, classes)
        return classes.index(name)


def _interval(found: MapStatistics) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a mean over images by Student's t; NaN for fewer than two images."""
    reach = statistics.reach(np.sqrt(found.variance / max(found.n, 1)), found.n)
    return found.mean - reach, found.mean + reach
