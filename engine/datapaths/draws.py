"""Random numbers that belong to an image: its batch mates, the batch size and the worker do not change them."""

from __future__ import annotations

import torch
from torch import Tensor

from engine import keys


def uniform(images: Tensor, count: int, *, seed: int) -> Tensor:
    """Return (images, count) float32 in [0, 1), each row drawn from `seed` and the pixels of its own image."""
    drawn = torch.empty(len(images), count)
    for row, image in enumerate(images.cpu().numpy()):
        own = int(keys.content_key((seed, keys.array_hash(image)))[:15], 16)
        drawn[row].uniform_(generator=torch.Generator().manual_seed(own))
    return drawn.to(images.device)
