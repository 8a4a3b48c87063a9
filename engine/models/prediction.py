"""From logits to what stands on the screen."""

from __future__ import annotations

from torch import Tensor

from engine.records import Prediction

TOP = 5


def predictions(logits: Tensor) -> list[Prediction]:
    """Return one prediction per row of (batch, classes) logits; ties go to the lower class.

    Softmax is taken in float64: in float32 a confident network's runners-up all read 0.
    """
    shares = logits.detach().double().cpu().softmax(dim=1)
    values, labels = shares.sort(dim=1, descending=True, stable=True)
    rows = zip(labels[:, :TOP].tolist(), values[:, :TOP].tolist(), strict=True)
    return [Prediction(row[0], share[0], tuple(zip(row, share, strict=True))) for row, share in rows]
