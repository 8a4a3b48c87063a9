"""A torch-free auditor with made-up but consistent records, for testing the dashboard without an engine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import IO, Any, Literal

import numpy as np

import engine
from engine import CONTROLS, AttackCard, CausalTest, Control, Direction, Effect, Estimate, MapSet, SettingCard
from engine.specs.methods import STANDOUT
from engine.types.checks import FeatureVisualization, Responses
from engine.types.core import (
    Answer,
    AttackResults,
    AttackResultsRequest,
    Connection,
    Datapath,
    DatasetCard,
    Explanation,
    ExplanationRequest,
    Gallery,
    Link,
    ModelCard,
    Outcome,
    Prediction,
    Site,  # fmt: skip
)
from engine.types.faithfulness import ClassDatapaths, ClassSimilarity, DatapathChecks, Faithfulness, Restoration

ABSENT: Answer[Any] = Answer("failed", message="The fake makes none of these.")
CLASSES = tuple("0123456789")
LAST = (int(os.environ.get("FAKE_CHANNELS", "48")), int(os.environ.get("FAKE_SIDE", "8")))
"""Feature maps of the last stage and their side: tests of wide layers start a process of their own with other numbers."""
WIDTHS = (("stem", 12, 32), ("layer1", 12, 32), ("layer2", 24, 16), ("layer3", *LAST))


def _sites() -> tuple[Site, ...]:
    sites = [Site("stem", 12, 32, 32, "stem", "stem", True, 3, 1, 0.5)]
    for stage, channels, side in WIDTHS[1:]:
        for block in range(2):
            for name, role in ((f"{stage}.{block}.relu1", "inner"), (f"{stage}.{block}", "block")):
                sites.append(Site(name, channels, side, side, stage, role, False, 15, 32 // side, 0.5))
    return tuple(sites)


SITES = _sites()


def _links() -> tuple[Link, ...]:
    links = []
    for k in range(0, len(SITES) - 1, 2):
        links += [Link(k, k + 1), Link(k + 1, k + 2), Link(k, k + 2)]
    return (*links, Link(len(SITES) - 1, len(SITES)))


LINKS = _links()
MODELS = tuple(
    ModelCard(name, "digits_resnet", name * 4, 99_000, CLASSES, 1, (32, 32), (0.5,), (0.5,), SITES, LINKS, "2026-11-22")
    for name in ("digits-standard", "digits-robust")
)
DATA = (DatasetCard("digits", "abcd", 500, CLASSES, (50,) * 10, 1, (32, 32), "embedded demo", "2026-11-22"),)
EPSILON = SettingCard("epsilon", "0.05", 0.0, 0.5, "Largest change of any pixel.", unit="1/255")
STEPS = SettingCard("steps", "10", 1, 1000, "Gradient steps.")
ATTACKS = (
    AttackCard("fgsm-linf", "FGSM", "linf", False, (EPSILON,)),
    AttackCard("pgd-linf", "PGD", "linf", False, (EPSILON, STEPS)),
    AttackCard("mifgsm-linf", "MI-FGSM", "linf", False, (EPSILON, STEPS)),
)


def _outcome(sample: int, label: int) -> Outcome:
    wrong = (label + 3) % 10
    status = ("fooled", "fooled", "resisted", "clean_wrong")[sample % 4]
    after = wrong if status == "fooled" else label
    before = Prediction(label, 0.98, ((label, 0.98), (wrong, 0.01)))
    return Outcome(
        f"{sample:05d}", label, status, before, Prediction(after, 0.9, ((after, 0.9), (label, 0.1))), 0.05, 1.2
    )


def _datapath(rng: np.random.Generator, target: int, rows: int, base: list[np.ndarray], drift: float) -> Datapath:
    scores = []
    for k, site in enumerate(SITES):
        mix = drift * k / len(SITES)
        values = (1 - mix) * base[k] + mix * rng.exponential(size=(rows, site.channels))
        scores.append((values * np.sign(rng.normal(size=values.shape))).astype(np.float32))
    return Datapath(
        engine.method("two-run"), target, "references", tuple(scores), (4, 8, 16, 32), (0.25, 0.5, 1.0, 1.0), 16, True
    )


def _connections(rng: np.random.Generator) -> tuple[Connection, ...]:
    found = []
    for link in LINKS:
        rows = 2 if link.target == len(SITES) else SITES[link.target].channels
        shape = (rows, SITES[link.source].channels)
        found.append(
            Connection(
                link.source, link.target, rng.normal(size=shape).astype("f4"), rng.normal(size=shape).astype("f4"), 1e-6
            )
        )
    return tuple(found)


def explanation(request: ExplanationRequest) -> Explanation:
    """Return a made-up explanation whose datapaths drift apart with depth."""
    rng = np.random.default_rng(len(request.samples) + int(request.samples[0]))
    n = len(request.samples)
    base = [rng.exponential(size=(1, site.channels)) ** 2 for site in SITES]
    outcomes = tuple(_outcome(int(sample), int(sample) % 10) for sample in request.samples)
    pictures = {
        side: rng.integers(0, 255, size=(n, 32, 32, 1), dtype=np.uint8) for side in ("clean", "adversarial", "noise")
    }
    flow = tuple(rng.normal(0.1 * k, 0.1, size=(n, site.channels)).astype("f4") for k, site in enumerate(SITES))
    noise_flow = tuple(rng.normal(0, 0.02, size=(4 * n, site.channels)).astype("f4") for site in SITES)
    change = tuple(rng.uniform(0, 2, size=site.channels).astype("f4") for site in SITES)
    return Explanation(
        "fake" + "-".join(request.samples), request, SITES, LINKS, CLASSES, outcomes,
        _datapath(rng, outcomes[0].before.label, n, base, 0.05), _datapath(rng, outcomes[0].after.label, n, base, 1.4),
        _datapath(rng, outcomes[0].before.label, 4 * n, base, 0.1), flow, noise_flow, change, _connections(rng),
        pictures, ("00007", "00011", "00013", "00017"), 260, 0.4,
    )  # fmt: skip


def gated(known: Explanation, *targets: int) -> Explanation:
    """Return the explanation with a gate named `gateK` between each site K of `targets` and the one before; skip links stay."""
    links = tuple(
        replace(link, through=(f"gate{link.target}",))
        if link.target in targets and link.source == link.target - 1
        else link
        for link in known.links
    )
    return replace(known, links=links)


class NoRuns:
    """No audit runs: tests of the audits page make real ones."""

    def cards(self) -> tuple[engine.RunCard, ...]:
        return ()

    def view(self, run: str) -> engine.RunView:
        raise engine.UnknownName("run", run, [])

    def inside(self, run: str, scope: engine.Scope) -> engine.Inside:
        raise engine.UnknownName("run", run, [])

    def confusion(self, run: str, scope: engine.Scope, most: int | None = None) -> engine.Confusion:
        raise engine.UnknownName("run", run, [])

    def versus(self, run: str, scope: engine.Scope, most: int | None = None) -> engine.Versus:
        raise engine.UnknownName("run", run, [])

    def matching(self, run: str, act: engine.Act) -> Answer[engine.MapMatching] | None:
        raise engine.UnknownName("run", run, [])

    def held_out(self, run: str, scope: engine.Scope, count: int, act: engine.Act) -> Answer[engine.HeldOutTest] | None:
        raise engine.UnknownName("run", run, [])

    def halves(self, run: str, scope: engine.Scope) -> tuple[str, engine.Halves]:
        raise engine.UnknownName("run", run, [])

    def damaged(self, run: str) -> tuple[str, ...]:
        raise engine.UnknownName("run", run, [])

    def rebuilt(self, run: str, act: engine.Act) -> Answer[engine.Rebuilt] | None:
        raise engine.UnknownName("run", run, [])

    def river(self, run: str, scope: engine.Scope, share: float) -> engine.RunRiver:
        raise engine.UnknownName("run", run, [])

    def images(self, run: str, selection: engine.Selection) -> engine.Listing:
        raise engine.UnknownName("run", run, [])

    def picture(self, run: str, folder: str, sample: str, expected: str) -> np.ndarray:
        raise engine.UnknownName("run", run, [])

    def forecast(self, values: Mapping[str, Any]) -> Answer[engine.Forecast]:
        return ABSENT

    def check(self, values: Mapping[str, Any]) -> None:
        return None

    def values(self, run: str) -> Mapping[str, Any]:
        raise engine.UnknownName("run", run, [])

    def start(self, values: Mapping[str, Any]) -> str:
        raise engine.BadInput("The fake starts no runs.")

    def resume(self, run: str) -> None:
        raise engine.UnknownName("run", run, [])

    def cancel(self, run: str) -> None:
        raise engine.UnknownName("run", run, [])


class BareRegistry:
    """A desk where nothing is archived, nothing was checked and nothing can be added."""

    has_import_folder = False
    takes_uploads = False

    def models(self, *, archived: bool = False) -> tuple[ModelCard, ...]:
        return () if archived else MODELS

    def datasets(self, *, archived: bool = False) -> tuple[DatasetCard, ...]:
        return () if archived else DATA

    def archive(self, shelf: Literal["models", "data"], name: str, *, archived: bool = True) -> None:
        raise engine.UnknownName(shelf, name, [])

    def reports(self, model: str, datasets: Iterable[str]) -> tuple[engine.ValidationReport, ...]:
        return ()

    def architectures(self) -> tuple[str, ...]:
        return ()

    def entries(self) -> tuple[engine.Entry, ...]:
        return ()

    def receive(self, name: str, stream: IO[bytes], size: int) -> engine.Entry:
        raise engine.BadInput("The fake takes no files.")

    def left_out(self) -> str:
        return ""

    def take_model(self, order: engine.ModelOrder) -> Answer[engine.Taken]:
        return ABSENT

    def take_data(self, order: engine.DataOrder) -> Answer[engine.Taken]:
        return ABSENT

    def forget(self, order: engine.ModelOrder | engine.DataOrder) -> None:
        return None


class FakeAuditor:
    """Answers like `engine.service.auditor.Auditor`, at once and from nothing."""

    def models(self) -> tuple[ModelCard, ...]:
        return MODELS

    def datasets(self) -> tuple[DatasetCard, ...]:
        return DATA

    def attacks(self) -> tuple[AttackCard, ...]:
        return ATTACKS

    def attack_of_run(self, text: str, model: str, data: str) -> engine.AttackCard:
        raise engine.BadInput("The fake holds no runs.")

    def methods(self) -> tuple[str, ...]:
        return ("two-run", "mask", "gradient", "activation", "random")

    def attack_results(self, request: AttackResultsRequest) -> Answer[AttackResults]:
        outcomes = tuple(_outcome(k, request.label) for k in range(request.label, 500, 10))
        return Answer("ready", AttackResults(request, outcomes))

    def explanation(self, request: ExplanationRequest) -> Answer[Explanation]:
        return Answer("ready", explanation(request))

    def faithfulness_checks(self, request: ExplanationRequest) -> Answer[Faithfulness]:
        one = DatapathChecks(16, 0.0, 0.1, 0.02, 0.95, 0.0, 0.6, 0.8, 0.85, 0.12)
        partial = DatapathChecks(32, 0.0, 0.2)
        matched = (0.0, 0.0, 0.05, 0.3)
        shares = (0.0, 1.0, 1.0, 1.0) if len(request.samples) == 1 else (0.0, 0.5, 1.0, 1.0)
        excess = tuple(Estimate(a - b, a - b - 0.15, a - b, 20) for a, b in zip(shares, matched, strict=True))
        restoration = Restoration(
            (4, 8, 16, 32), shares, (0.0, 0.0, 0.0, 0.05), 16, 20, STANDOUT, matched, excess, 1 / 21
        )
        true = tuple(0.8 - 0.05 * k for k in range(len(SITES)))
        fooled = tuple(0.2 + 0.05 * k for k in range(len(SITES)))
        known = Faithfulness(
            one,
            partial,
            restoration,
            ClassSimilarity(true, fooled, 8, SITES[7].name),
            ("clean", "restoration", "kinship"),
        )
        rng = np.random.default_rng(3)
        strengths = [tuple(rng.random(site.channels) for site in SITES) for _ in range(2)]
        known = replace(known, classes=ClassDatapaths(*strengths))
        return Answer("working", known, 3, 5, "Certificate: controls of the adversarial datapath")

    def is_stored(self, request: AttackResultsRequest | ExplanationRequest) -> bool:
        return False

    def gallery(self, model: str, data: str) -> Answer[Gallery]:
        rng = np.random.default_rng(1)
        order = tuple(rng.integers(0, 500, size=(site.channels, 16)).astype("i4") for site in SITES)
        spots = tuple(
            rng.integers(0, site.height * site.width, size=(site.channels, 16)).astype("i4") for site in SITES
        )
        return Answer(
            "ready", Gallery(tuple(f"{k:05d}" for k in range(500)), np.arange(500) % 10, order, spots, order, spots)
        )

    def feature_visualization(self, model: str, data: str, layer: str, channel: int) -> Answer[FeatureVisualization]:
        """Return a made-up picture; a map divisible by three has doubts. Raises UnknownName for what is not there."""
        sites = {site.name: site for site in SITES}
        if layer not in sites or not 0 <= channel < sites[layer].channels:
            raise engine.UnknownName("feature map", f"{layer}, {channel}", list(sites))
        rng = np.random.default_rng(channel)
        picture = rng.integers(0, 255, size=(32, 32, 1), dtype=np.uint8)
        real = np.sort(rng.uniform(2, 4, size=16)).astype("f4")[::-1]
        recognition = 0.4 if channel % 3 == 0 else 0.95
        return Answer(
            "ready",
            FeatureVisualization(
                layer, channel, picture, (8, 8, 23, 23), True, 7.5, real, 0.2, recognition, False, 96, 0
            ),
        )

    def responses(self, explanation: str) -> Answer[Responses]:
        """Return made-up responses that grow with the strength, for the attack more than for the noise."""
        outcomes = self.explained(explanation).outcomes
        strengths = ("0", "1/8", "1/4", "1/2", "3/4", "1", "3/2")
        grown = np.array([0, 1, 2, 4, 6, 8, 12]) / 8
        rng = np.random.default_rng(3)
        base = [rng.exponential(size=(1, site.channels)) for site in SITES]
        sides = [
            tuple((item * height * (1 + slope * grown[:, None])).astype("f4") for item in base)
            for slope in (1.0, 0.1)
            for height in (1.0, 4.0)
        ]
        truth = np.array([outcome.label for outcome in outcomes])
        fooled = np.broadcast_to(grown[:, None] >= 0.5, (len(grown), len(truth)))
        quiet = np.zeros((len(grown), 4 * len(truth)), dtype=bool)
        labels = np.where(fooled, (truth + 3) % 10, truth)
        noise_labels = np.broadcast_to(np.repeat(truth, 4), quiet.shape)
        epsilons = tuple(f"{8 * value:g}/255" for value in grown)
        lengths = np.repeat(grown[:, None], len(truth), axis=1).astype("f4")
        return Answer(
            "ready",
            Responses(explanation, strengths, epsilons, *sides, lengths, labels, fooled, noise_labels, quiet),
        )

    def noise_maps(self, key: str, site: int) -> np.ndarray:
        """Return the activations of the first noise copy at a site, as `maps` returns the others."""
        clean, _ = self.maps(key, site)
        return clean * np.random.default_rng(5).uniform(0.9, 1.1, size=clean.shape).astype("f4")

    def explained(self, key: str) -> Explanation:
        """Return a stored explanation by its key; raises UnknownName."""
        if not key.startswith("fake"):
            raise engine.UnknownName("examination", key, [])
        samples = tuple(key.removeprefix("fake").split("-"))
        return explanation(ExplanationRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=0.05"), samples))

    def maps(self, key: str, site: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the clean and adversarial activations at a site, (channels, height, width) float32, mean over images.

        Sides longer than 32 are max-pooled down to at most 32. Raises UnknownName for a key that is not stored.
        """
        self.explained(key)
        rng = np.random.default_rng(site)
        shape = (SITES[site].channels, SITES[site].height, SITES[site].width)
        clean = rng.exponential(size=shape).astype("f4")
        return clean, clean * rng.uniform(0, 2, size=(shape[0], 1, 1)).astype("f4")

    def pictures(self, data: str, samples: tuple[str, ...]) -> np.ndarray:
        """Return the images of some samples, (images, height, width, channels) uint8."""
        made = [np.random.default_rng([2, *sample.encode()]) for sample in samples]
        return np.stack([rng.integers(0, 255, size=(32, 32, 1), dtype=np.uint8) for rng in made])

    def causal_test(self, explanation: str, chosen: MapSet, direction: Direction) -> Answer[CausalTest]:
        """Return a made-up causal test whose chosen maps do more the more they are."""
        outcomes = self.explained(explanation).outcomes
        share = min(1.0, chosen.count / 20)

        def effect(part: float) -> Effect:
            return Effect(20, part, part / 2, min(1.0, part * 1.2), part, part / 2, min(1.0, part * 1.2))

        excess = Estimate(0.9 * share, 0.5 * share, share, 20)
        controls = tuple(
            Control(
                name,
                effect(0.1 * share),
                20,
                0.9 if name == "another image" else None,
                excess if name in ("random", "same layers") else None,
            )
            for name in CONTROLS
        )
        labels = tuple(outcome.before.label for outcome in outcomes)
        confidences = (0.8,) * len(outcomes)
        trivial = ("stem",) if "stem" in chosen.sites else ()
        recoveries = (share,) * len(outcomes)
        return Answer(
            "ready",
            CausalTest(
                explanation, direction, chosen, effect(share), recoveries, labels, confidences, controls, (), trivial
            ),
        )

    audits = NoRuns()
    model_registry = BareRegistry()

    def validation(self, model: str, data: str = "") -> Answer[engine.ValidationReport]:
        return ABSENT

    def smallest_sets(self, group: engine.FooledRequest) -> Answer[engine.SmallestSets]:
        return ABSENT

    def restoration_curve(self, group: engine.FooledRequest) -> Answer[engine.RestorationCurve]:
        return ABSENT

    def site_profile(self, group: engine.FooledRequest) -> Answer[engine.SiteProfile]:
        return ABSENT

    def localisation(self, group: engine.FooledRequest) -> Answer[engine.LocalisationStudy]:
        return ABSENT

    def faithfulness_curve(self, group: engine.FooledRequest) -> Answer[engine.FaithfulnessStudy]:
        return ABSENT

    def defence(self, group: engine.FooledRequest) -> Answer[engine.Defence]:
        return ABSENT

    def attack_sanity(self, run: str) -> Answer[engine.AttackSanity]:
        return ABSENT

    def install_demo(self) -> Answer[tuple[ModelCard, ...]]:
        return Answer("ready", MODELS)

    def close(self) -> None:
        return None
