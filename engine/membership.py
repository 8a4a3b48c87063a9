"""Which datapaths keep each feature map: clean, adversarial, the fooled-into class's, and same-norm noise's. Numpy only."""

from __future__ import annotations

import numpy as np

from engine import selection
from engine.records import ClassDatapaths, Examination

CLEAN, ADVERSARIAL, CLASS, NOISE = 1, 2, 4, 8
"""Bits of a membership."""


def kept_by(examination: Examination, share: float, site: int, classes: ClassDatapaths | None) -> np.ndarray:
    """Return per channel of a site the bits of the datapaths that keep it at `share`, (channels,) int64.

    Without the class datapaths, and where the attack left the class as it was, no map has the bit `CLASS`.
    """
    strengths = {
        CLEAN: examination.clean.strength[site],
        ADVERSARIAL: examination.adversarial.strength[site],
        NOISE: examination.noise.strength[site],
    }
    if classes is not None and examination.clean.target != examination.adversarial.target:
        strengths[CLASS] = classes.fooled[site]
    found = np.zeros(examination.sites[site].channels, np.int64)
    for bit, strength in strengths.items():
        found[selection.per_site((strength,), share)[0]] |= bit
    return found
