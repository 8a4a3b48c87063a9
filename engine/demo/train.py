"""Train the two networks of the demo: `python -m engine.demo.train --out DIR`, about ten minutes on two cores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import images
from engine.data.intake import Images
from engine.demo import digits
from engine.models.digits_resnet import MEAN, STD, DigitsResNet

Kind = Literal["standard", "robust"]
EPOCHS: dict[Kind, int] = {"standard": 12, "robust": 24}
BATCH = 64
LARGEST_SHIFT = 2
"""Training images are moved by up to this many pixels each way."""
WEAKEST, STRONGEST = 0.05, 0.15
"""Budgets of the robust network's training images, drawn for each batch."""
ADVERSARIAL_STEPS = 4


def train(kind: Kind, epochs: int, seed: int) -> nn.Module:
    """Return a network trained on the demo's training images, in eval mode; leaves torch's global generator alone."""
    x, y = tensors(digits.training())
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        network = DigitsResNet()
        steps = epochs * -(-len(x) // BATCH)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=5e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(BATCH):
                batch = _shifted(x[rows])
                if kind == "robust":
                    batch = _attacked(network, batch, y[rows])
                _step(network, optimizer, batch, y[rows])
                schedule.step()
    return network.eval()


def tensors(part: Images) -> tuple[Tensor, Tensor]:
    """Return (images, 1, 32, 32) float32 in [0, 1] and (images,) int64 labels."""
    # Not `permute`: the strides of a permuted one-channel batch read as channels-last, and there torch 2.15's weight
    # gradient on two CPU threads crashes for odd batch sizes.
    return torch.from_numpy(images.to_float(part.x[..., 0])).unsqueeze(1), torch.tensor(part.y)


def normalised(batch: Tensor) -> Tensor:
    """Return images in [0, 1] as the network takes them."""
    return (batch - MEAN[0]) / STD[0]


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor, labels: Tensor) -> None:
    network.train()
    loss = F.cross_entropy(network(normalised(batch)), labels, label_smoothing=0.05)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _shifted(batch: Tensor) -> Tensor:
    """Return the batch moved by one random whole number of pixels each way; what comes in is black."""
    down, right = torch.randint(-LARGEST_SHIFT, LARGEST_SHIFT + 1, (2,)).tolist()
    return F.pad(batch, (right, -right, down, -down))


def _attacked(network: nn.Module, batch: Tensor, labels: Tensor) -> Tensor:
    """Return the batch after four sign-gradient steps within a budget drawn for the whole batch."""
    network.eval()
    epsilon = WEAKEST + (STRONGEST - WEAKEST) * torch.rand(()).item()
    change = torch.empty_like(batch).uniform_(-epsilon, epsilon)
    for _ in range(ADVERSARIAL_STEPS):
        change.requires_grad_()
        loss = F.cross_entropy(network(normalised((batch + change).clamp(0, 1))), labels)
        (gradient,) = torch.autograd.grad(loss, change)
        change = (change.detach() + epsilon / 2 * gradient.sign()).clamp(-epsilon, epsilon)
    return (batch + change).clamp(0, 1)
