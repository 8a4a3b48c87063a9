"""Images to attack, with what they should be called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Images to attack: (batch, channels, height, width) float32 in [0, 1], (batch,) int64 labels, a key for each."""

    pictures: Tensor
    labels: Tensor
    samples: tuple[str, ...]

    def at(self, rows: Sequence[int]) -> Batch:
        """Return some of them."""
        chosen = torch.tensor(list(rows), dtype=torch.int64)
        places = chosen.to(self.labels.device)
        samples = tuple(self.samples[row] for row in rows)
        return Batch(self.pictures[chosen.to(self.pictures.device)], self.labels[places], samples)
