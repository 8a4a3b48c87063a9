"""The adversarial datapath against other groups than the clean run: the class it was fooled into, and mere noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine import ClassDatapaths, Connection, Datapath, Examination

CLASS, NOISE = "class", "noise"
"""Values of `versus` that name a group of the same examination instead of another attack."""


def against_class(examination: Examination, classes: ClassDatapaths) -> Examination:
    """Return the examination with clean images of the fooled-into class in the clean run's place.

    Their datapath is a mean over images, so it stands for every image of a group; of their connections nothing is known.
    """
    images = len(examination.outcomes)
    scores = tuple(np.repeat(site[None].astype(np.float32), images, axis=0) for site in classes.fooled)
    return _in_place_of_clean(examination, scores, examination.adversarial.target)


def against_noise(examination: Examination) -> Examination:
    """Return the examination with each image's first same-norm noisy copy in the clean run's place."""
    images = len(examination.outcomes)
    scores = tuple(site[:: max(1, len(site) // images)][:images] for site in examination.noise.scores)
    return _in_place_of_clean(examination, scores, examination.noise.target)


def _in_place_of_clean(examination: Examination, scores: tuple[np.ndarray, ...], target: int) -> Examination:
    path: Datapath = replace(examination.clean, scores=scores, target=target, carries_at=None, sizes=(), carried=())
    unknown = tuple(_without_clean(link) for link in examination.connections)
    return replace(examination, clean=path, connections=unknown)


def _without_clean(link: Connection) -> Connection:
    return replace(link, clean=np.zeros_like(link.clean))
