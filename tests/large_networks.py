"""What one pair and a group of 16 cost at 224 pixels: `python -m tests.large_networks --network resnet50 --pairs 16`.

MobileNetV2 has its weights of ../shared/data. ResNet-50 has none there: it gets random ones, batch-norm statistics of the
pictures, and a head fitted to their labels, so that it answers right and can be attacked; its time is that of a trained one.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import engine
from engine.attribution import baselines, explain
from engine.models import hooks, register
from engine.models import network as bundles
from engine.models.network import Identity, ModelBundle, Preprocessing
from engine.patching import faithfulness
from engine.store.store import Dataset, Store
from engine.types.core import ExplanationRequest
from engine.types.faithfulness import PARTS
from tests.browser import scenes

ATTACK = "pgd-linf:eps=4/255,steps=10"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONFIDENT = 20.0
"""Logit of the right class on the pictures that the head is fitted to."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        scenes.fill_imagenet(Path(folder) / "store")
        store = Store(Path(folder) / "store")
        dataset, bundle = store.dataset("pandas"), register.bundle(store, "mobilenet")
        if options.network == "resnet50":
            bundle = resnet50(bundle, dataset)
        samples = answered(bundle, dataset)[: options.pairs]
        request = ExplanationRequest(options.network, "pandas", engine.attack(ATTACK), samples)
        sys.stdout.write(f"{options.network}, {len(samples)} pairs, batches of {hooks.batch_limit(bundle)}\n")
        first: list[float] = []
        started = time.perf_counter()
        with timed("attack, both datapaths, flow, connections, noise control"):
            found, _ = explain.explain(
                bundle, dataset, request, lambda *_: None, lambda *_: first.append(time.perf_counter() - started)
            )
        sys.stdout.write(f"the river can be shown after {first[0]:.1f} s\n")
        if options.arithmetic:
            sys.stdout.write(arithmetic(lambda: explain.explain(bundle, dataset, request, lambda *_: None)))
        fooled = sum(outcome.status == "fooled" for outcome in found.outcomes)
        sys.stdout.write(f"{fooled} fooled, {found.passes} image-passes\n")
        if options.faithfulness_checks:
            with timed("faithfulness checks, all parts"):
                for part in PARTS:
                    faithfulness.part(part, bundle, dataset, found, lambda *_: None)
    return 0


def resnet50(other: ModelBundle, dataset: Dataset) -> ModelBundle:
    """Return a ResNet-50 that answers most pictures of the data set right, with classes as `other` has them."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    preprocessing = Preprocessing(3, other.size, MEAN, STD, other.resize)
    labels = torch.as_tensor(baselines.labels(other, dataset))
    pictures = (baselines.load(other, dataset, dataset.keys) - other.mean) / other.std
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(pictures[::3])
        network.eval()
        head, network.fc = network.fc, nn.Identity()
        features = torch.cat([network(part) for part in pictures.split(8)])
        head.weight[:], head.bias[:] = _fitted(features, labels, len(other.classes))
        network.fc = head
    return bundles.bundle(network, preprocessing, Identity(other.classes, "resnet50", "resnet50"))


def _fitted(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The smallest weights and biases that answer each row of features with its label."""
    wanted = nn.functional.one_hot(labels, classes).float() * CONFIDENT
    mean = features.mean(dim=0)
    whole = torch.linalg.pinv(torch.cat([features - mean, torch.ones(len(features), 1)], dim=1)) @ wanted
    weight = whole[:-1].T
    return weight, whole[-1] - weight @ mean


def answered(bundle: ModelBundle, dataset: Dataset) -> tuple[str, ...]:
    """Return the keys of the pictures that the network answers right, giant pandas first."""
    labels = baselines.labels(bundle, dataset)
    right = []
    with torch.no_grad():
        for key in dataset.keys:
            label = int(labels[dataset.row(key)])
            if int(bundle.logits(baselines.load(bundle, dataset, (key,))).argmax()) == label:
                right.append((label != scenes.PANDA, key))
    return tuple(key for _, key in sorted(right))


def arithmetic(explain: Callable[[], object]) -> str:
    """Return how many operations an explanation is, and how long this machine takes for them in plain matrix products."""
    with FlopCounterMode(display=False) as counter:
        explain()
    side = 2048
    a, b = torch.rand(2, side, side)
    spent = [timeit.timeit(lambda: a @ b, number=1) for _ in range(10)]
    operations, rate = counter.get_total_flops(), 2 * side**3 / min(spent)
    needed = f"{operations / rate:.1f} s at the {rate / 1e9:.0f} GFLOP/s of matrix products"
    return f"{operations / 1e12:.2f} TFLOP: {needed}\n"


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long it took, on the clock and on the processors, and the most memory this process ever held."""
    clock, processor = time.perf_counter(), time.process_time()
    yield
    spent = time.perf_counter() - clock, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(f"{what}: {spent[0]:.1f} s ({spent[1]:.1f} s of processor time), at most {peak:.1f} GiB\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.large_networks", description=__doc__)
    parser.add_argument("--network", choices=("mobilenet_v2", "resnet50"), default="mobilenet_v2")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument(
        "--faithfulness-checks", action="store_true", help="also measure all of the faithfulness checks"
    )
    parser.add_argument(
        "--arithmetic", action="store_true", help="also count operations, and say what they need at least"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
