"""Train the two networks of the demo: `python -m engine.demo.train --out DIR`, five minutes on two quiet cores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from engine import demo, images
from engine.attacks import runner
from engine.data.sources import Images
from engine.demo import ARCHITECTURE, CLASSES, EPSILON, LICENCE
from engine.models import network as bundle
from engine.models.zoo import DIGITS_MEAN, DIGITS_STD, DigitsResNet
from engine.specs import catalogue

Kind = Literal["standard", "robust"]
EPOCHS: dict[Kind, int] = {"standard": 12, "robust": 20}
SEED = 0
BATCH = 64
LARGEST_SHIFT = 2
"""Training images are moved by up to this many pixels each way."""
WEAKEST, STRONGEST = 0.05, 0.15
"""Budgets of the robust network's training images, drawn for each batch."""
ADVERSARIAL_STEPS = 4


@dataclass(frozen=True, slots=True)
class Figures:
    """How a network does on the held-out images, as shares of all of them."""

    images: int
    clean: float
    robust: float
    """Not fooled by PGD-10 at the demo's epsilon, judged on the stored 8-bit image, and right to begin with."""


def train(kind: Kind, epochs: int, seed: int, *, make: Callable[[], nn.Module] = DigitsResNet) -> nn.Module:
    """Return a network trained on the demo's training images, in eval mode; leaves torch's global generator alone.

    make: builds the untrained network for (batch, 1, 32, 32) images and ten classes.
    """
    x, y = tensors(demo.training())
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        network = make()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=5e-3)
        steps = epochs * -(-len(x) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(BATCH):
                batch = _shifted(x[rows])
                if kind == "robust":
                    batch = _attacked(network, batch, y[rows])
                _step(network, optimizer, batch, y[rows])
                schedule.step()
    return network.eval()


def measure(network: nn.Module) -> Figures:
    """Return how a network does on the held-out images, clean and under PGD-10 at the demo's epsilon."""
    x, y = tensors(demo.held_out())
    preprocessing = bundle.Preprocessing(channels=1, size=(demo.SIDE, demo.SIDE), mean=DIGITS_MEAN, std=DIGITS_STD)
    subject = bundle.bundle(network, preprocessing, bundle.Identity(CLASSES))
    keys = tuple(f"{index:05d}" for index in range(len(y)))
    attacked = runner.run(subject, x, y, catalogue.PgdLinf(EPSILON), torch.arange(len(y)), samples=keys)
    statuses = [outcome.status for outcome in attacked.outcomes]
    wrong, resisted = statuses.count("clean_wrong"), statuses.count("resisted")
    return Figures(len(y), 1 - wrong / len(y), resisted / len(y))


def save(network: nn.Module, figures: Figures, file: Path) -> None:
    """Write weights as safetensors; the header says what they are, what they were trained on and how they do."""
    metadata = {
        "architecture": ARCHITECTURE,
        "classes": ",".join(CLASSES),
        "mean": ",".join(map(str, DIGITS_MEAN)),
        "std": ",".join(map(str, DIGITS_STD)),
        "data": "scikit-learn digits (UCI optical recognition of handwritten digits), 8x8 enlarged to 32x32",
        "data_licence": LICENCE,
        "held_out_images": str(figures.images),
        "held_out_accuracy": f"{figures.clean:.4f}",
        "held_out_robust_accuracy": f"{figures.robust:.4f}",
        "robust_accuracy_attack": catalogue.PgdLinf(EPSILON).text,
    }
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file, metadata=metadata)


def tensors(part: Images) -> tuple[Tensor, Tensor]:
    """Return (images, 1, 32, 32) float32 in [0, 1] and (images,) int64 labels."""
    # Not `permute`: the strides of a permuted one-channel batch read as channels-last, and there torch 2.15's weight
    # gradient on two CPU threads crashes for odd batch sizes.
    return torch.from_numpy(images.to_float(part.x[..., 0])).unsqueeze(1), torch.tensor(part.y)


def main(arguments: list[str]) -> None:
    """Train both networks, write their weights and say how they do."""
    parser = argparse.ArgumentParser(prog="python -m engine.demo.train", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the two .safetensors files")
    folder = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    for kind in get_args(Kind):
        network = train(kind, EPOCHS[kind], SEED)
        figures = measure(network)
        save(network, figures, folder / f"digits-{kind}.safetensors")
        sys.stdout.write(
            f"digits-{kind}: {figures.clean:.1%} of {figures.images} held-out images right, "
            f"{figures.robust:.1%} still right under {catalogue.PgdLinf(EPSILON).text}\n"
        )


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor, labels: Tensor) -> None:
    network.train()
    loss = F.cross_entropy(network(_normalised(batch)), labels, label_smoothing=0.05)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _normalised(batch: Tensor) -> Tensor:
    return (batch - DIGITS_MEAN[0]) / DIGITS_STD[0]


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
        loss = F.cross_entropy(network(_normalised((batch + change).clamp(0, 1))), labels)
        (gradient,) = torch.autograd.grad(loss, change)
        change = (change.detach() + epsilon / 2 * gradient.sign()).clamp(-epsilon, epsilon)
    return (batch + change).clamp(0, 1)


if __name__ == "__main__":
    main(sys.argv[1:])
