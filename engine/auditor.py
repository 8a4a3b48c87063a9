"""The facade: answers from the store at once, hands what is missing to a worker, and says how far that is."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar, final

import numpy as np

from engine import keys, methods, work
from engine.answering.asked import A_MOMENT, DOING, Asked, OfModel, hand_in, pending
from engine.answering.desk import Desk
from engine.answering.driving import Runs
from engine.answering.recent import Recent
from engine.attacks import catalogue
from engine.attacks.catalogue import AttackCard
from engine.audit import watching
from engine.errors import BadInput, BadSetting, UnknownName
from engine.intake.inbox import Inbox
from engine.jobs import Jobs
from engine.records import (
    Answer,
    Certificates,
    DatasetCard,
    Examination,
    ExaminationRequest,
    Gallery,
    ModelCard,
    Roster,
    RosterRequest,
    certificate_parts,
)
from engine.records.credibility import Credibility
from engine.records.feature import Responses, Synthesis
from engine.records.intake import IntakeReport
from engine.records.proof import Direction, MapSet, Proof
from engine.records.restoration import (
    Defence,
    FooledRequest,
    GroupProofRequest,
    RestorationCurve,
    SiteProfile,
    SmallestSets,
)
from engine.store import NotStored, Store

Record = TypeVar("Record")
MOST_SAMPLES: Final = 16
MOST_FOOLED: Final = 200
"""Attacked images of a group that maps are put back in."""
LARGEST_SEED: Final = 2**31 - 1
MEMORY: Final = 64 * 2**20
"""Bytes of read records that are kept; with what the libraries need the web process stays below 250 MB."""


@final
class Auditor:
    """Everything the screen may ask. Thread-safe; several processes may open one store."""

    def __init__(self, store: Store, jobs: Jobs, inbox: Inbox | None = None) -> None:
        self._store = store
        self._jobs = jobs
        self._recent = Recent(MEMORY)
        self.desk = Desk(store, jobs, inbox or Inbox(None))
        """Where models and data sets come in and are retired."""
        self.audits = Runs(store, jobs)
        """The audit runs of the store."""

    @classmethod
    def open(
        cls, root: str | Path, *, scheduler: str | None = None, allow_plain: bool = False, inbox: Path | None = None
    ) -> Auditor:
        """Open a store, or make one of an empty folder; no worker starts before the first piece of work.

        inbox: folder that models and data sets may be added from. scheduler: address of an existing Dask cluster that
        sees the same folder; by default a worker on this machine.
        Raises StoreError for a folder that cannot be used and BadInput for an unsafe address.
        """
        store = Store(root)
        store.sweep()
        jobs = Jobs(store.root, work.perform, scheduler=scheduler, allow_plain=allow_plain)
        return cls(store, jobs, Inbox(inbox))

    def models(self) -> tuple[ModelCard, ...]:
        """Return the cards of all models that are in use, in the order they were added."""
        return self.desk.models()

    def datasets(self) -> tuple[DatasetCard, ...]:
        """Return the cards of all data sets that are in use, in the order they were added."""
        return self.desk.datasets()

    def attacks(self) -> tuple[AttackCard, ...]:
        """Return the cards of all attacks and noise controls."""
        return catalogue.cards()

    def methods(self) -> tuple[str, ...]:
        """Return the names of the ways to score feature maps, the default first."""
        return tuple(methods.METHODS)

    def intake(self, model: str, data: str = "") -> Answer[IntakeReport]:
        """Return what was checked of a model when it was handed in, on labelled images if named; raises UnknownName."""
        place = work.Place(model, data)
        asked = Asked("intake", work.intake_key(self._store, place), place, "gallery", DOING["intake"])
        return self._answer(asked, IntakeReport)

    def roster(self, request: RosterRequest) -> Answer[Roster]:
        """Return how every image of a class fares under one attack; raises BadInput."""
        return self._answer(self._roster(request), Roster)

    def examination(self, request: ExaminationRequest) -> Answer[Examination]:
        """Return the examination of a pair or a small group; raises BadInput."""
        return self._answer(self._examination(request), Examination)

    def certificates(self, request: ExaminationRequest) -> Answer[Certificates]:
        """Return what is known so far of how far an examination can be trusted; raises BadInput.

        Asked for only once the examination is there. A part that failed is listed in `failed` with its reason.
        """
        examined = self.examination(request)
        if examined.value is None:
            return Answer(examined.state, None, examined.done, examined.total, examined.message)
        answers = [self._part(examined.value.key, part) for part in certificate_parts.PARTS]
        failed = Certificates(failed=tuple(one.message for one in answers if one.state == "failed"))
        merged = certificate_parts.merge([*(one.value for one in answers if one.value is not None), failed])
        working = [one for one in answers if one.state == "working"]
        done, total = len(answers) - len(working), len(answers)
        if not working:
            return Answer("ready", merged, done, total)
        return Answer("working", merged, done, total, max(working, key=lambda one: one.total).message)

    def gallery(self, model: str, data: str) -> Answer[Gallery]:
        """Return the top patches of every feature map of a model over a data set; raises BadInput."""
        return self._answer(self._gallery(model, data), Gallery)

    def synthesis(self, model: str, data: str, layer: str, channel: int) -> Answer[Synthesis]:
        """Return the picture made to excite one feature map, judged by its top patches; raises BadInput.

        Made only once the gallery is there; until then the answer says how far that is.
        """
        asked = self._gallery(model, data)
        self._check_map(model, layer, channel)
        gallery = self._answer(asked, Gallery)
        if gallery.value is None:
            return Answer(gallery.state, None, gallery.done, gallery.total, gallery.message)
        request = work.FeatureRequest(model, data, layer, channel, asked.key)
        key = self._key("synthesis", request)
        return self._answer(Asked("synthesis", key, request, "interactive", DOING["synthesis"]), Synthesis)

    def responses(self, examination: str) -> Answer[Responses]:
        """Return how every feature map answers to a stored examination's attack at other strengths.

        examination: its key; raises UnknownName. An attack without epsilon fails with its reason.
        """
        request = work.ResponsesRequest(self.examined(examination).key)
        key = _responses_key(examination)
        return self._answer(Asked("responses", key, request, "interactive", DOING["responses"]), Responses)

    def examined(self, key: str) -> Examination:
        """Return a stored examination by its key; raises UnknownName."""
        try:
            return self._stored("examination", key, Examination)
        except NotStored as error:
            raise UnknownName("examination", key, []) from error

    def maps(self, key: str, site: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the clean and adversarial activations at a site, (channels, height, width) float32, mean over images.

        Sides longer than 32 are max-pooled down to at most 32. Raises UnknownName for a key or site that is not stored.
        """
        clean, adversarial = self._maps(key, site, ("clean", "adversarial"))
        return clean, adversarial

    def noise_maps(self, key: str, site: int) -> np.ndarray:
        """Return the activations of each image's first same-norm noise copy at a site, as `maps` returns the others.

        Raises UnknownName for a key or site that is not stored, and for an examination made before these were kept.
        """
        (noise,) = self._maps(key, site, ("noise",))
        return noise

    def pictures(self, data: str, samples: tuple[str, ...]) -> np.ndarray:
        """Return the images of some samples, (images, height, width, channels) uint8; raises UnknownName."""
        return self._store.dataset(data).images(samples)

    def install_demo(self) -> Answer[tuple[ModelCard, ...]]:
        """Add the embedded demo to an empty store, and go on with it where it was interrupted.

        Ready, with the models, once the store holds something that is not a half-added demo.
        """
        asked = Asked("demo", keys.content_key("demo", keys.FORMAT), work.Nothing(), "interactive", DOING["demo"])
        progress = self._jobs.progress(asked.key)
        is_wanted = self._jobs.is_unfinished(asked.key) or not (self._store.models() or self._store.datasets())
        if progress.state == "unknown" and is_wanted:
            hand_in(self._jobs, asked, 0.0)
            progress = self._jobs.progress(asked.key)
        if progress.state == "unknown":
            return Answer("ready", self.models())
        return Answer(progress.state, None, progress.done, progress.total, progress.message)

    def retry(self, request: RosterRequest | ExaminationRequest) -> None:
        """Let work that failed be asked again at once, an examination with all parts of its certificate."""
        if isinstance(request, RosterRequest):
            self._jobs.forgive(self._roster(request).key)
            return
        key = self._examination(request).key
        self._jobs.forgive(key)
        self._jobs.forgive(_responses_key(key))
        for part in certificate_parts.PARTS:
            self._jobs.forgive(_part_key(key, part))

    def proof(self, examination: str, chosen: MapSet, direction: Direction) -> Answer[Proof]:
        """Return what putting the chosen maps of one run into the other does, with its controls.

        examination: key of a stored one; raises UnknownName. Maps that are not there, and an attack that took nothing, fail
        with their reason.
        """
        request = work.ProofRequest(self.examined(examination).key, chosen, direction)
        key = keys.content_key("proof", request, keys.FORMAT)
        return self._answer(Asked("proof", key, request, "interactive", DOING["proof"]), Proof)

    def group_proof(self, group: FooledRequest, chosen: MapSet, direction: Direction) -> Answer[Proof]:
        """Return the same for all images of a group that the attack fools, of one class or several; raises BadInput."""
        request = GroupProofRequest(self._fooled(group), chosen, direction)
        return self._answer(self._of_group("group-proof", request), Proof)

    def smallest_sets(self, group: FooledRequest) -> Answer[SmallestSets]:
        """Return the smallest sets of maps found that restore the label, per image and for the group; raises BadInput."""
        return self._answer(self._of_group("smallest", self._fooled(group)), SmallestSets)

    def restoration_curve(self, group: FooledRequest) -> Answer[RestorationCurve]:
        """Return the share of labels restored against the number of maps, with controls; raises BadInput."""
        return self._answer(self._of_group("curve", self._fooled(group)), RestorationCurve)

    def site_profile(self, group: FooledRequest) -> Answer[SiteProfile]:
        """Return what a few maps of each site alone win back; raises BadInput."""
        return self._answer(self._of_group("profile", self._fooled(group)), SiteProfile)

    def defence(self, group: FooledRequest) -> Answer[Defence]:
        """Return whether maps found on half of a group help the other half, and what fixing them costs; raises BadInput."""
        return self._answer(self._of_group("defence", self._fooled(group)), Defence)

    def credibility(self, run: str) -> Answer[Credibility]:
        """Return the credibility checks of a run's candidate, on some of the run's images at its largest pixel budget.

        The baseline's adversarial images are those that are transferred. Raises UnknownName, StoreError.
        """
        found = watching.checked(self._store, run)
        reference = self._store.model_card(found.reference) if found.reference else None
        request = work.CredibilityRequest(
            found.model,
            found.data,
            found.samples,
            found.epsilon,
            found.reference,
            work.model_key(reference) if reference else "",
        )
        asked = Asked("credibility", self._key("credibility", request), request, "gallery", DOING["credibility"])
        return self._answer(asked, Credibility)

    def close(self) -> None:
        """End the worker, if this process started it. What was in flight can be asked for again."""
        self._jobs.close()
        self.audits.close()

    def _maps(self, key: str, site: int, sides: tuple[str, ...]) -> tuple[np.ndarray, ...]:
        sites = self.examined(key).sites
        if not 0 <= site < len(sites):
            raise UnknownName("site", site, [f"0 to {len(sites) - 1}"])
        members = tuple(f"{site:03d}/{side}" for side in sides)
        try:
            found = self._store.records.read_extra("examination", key, "maps", members)
        except NotStored as error:
            raise UnknownName("examination", key, []) from error
        return tuple(_read_only(maps) for maps in found)

    def _gallery(self, model: str, data: str) -> Asked:
        place = work.Place(model, data)
        return Asked("gallery", self._key("gallery", place), place, "gallery", DOING["gallery"])

    def _check_map(self, model: str, layer: str, channel: int) -> None:
        channels = {site.name: site.channels for site in self._store.model_card(model).sites}
        if layer not in channels:
            raise UnknownName("layer", layer, channels)
        if type(channel) is not int or not 0 <= channel < channels[layer]:
            raise UnknownName(f"feature map of {layer}", channel, [f"0 to {channels[layer] - 1}"])

    def _roster(self, request: RosterRequest) -> Asked:
        _check_seed(request.seed)
        model = self._store.model_card(request.model)
        self._store.dataset(request.data).labels_for(model)
        if type(request.label) is not int or not 0 <= request.label < len(model.classes):
            raise BadSetting(f"A class index must lie in 0 to {len(model.classes) - 1}, got {str(request.label)[:20]}.")
        return Asked("roster", self._key("roster", request), request, "roster", DOING["roster"])

    def _examination(self, request: ExaminationRequest) -> Asked:
        _check_seed(request.seed)
        dataset = self._store.dataset(request.data)
        labels = dataset.labels_for(self._store.model_card(request.model))
        if not 1 <= len(request.samples) <= MOST_SAMPLES or len(set(request.samples)) != len(request.samples):
            raise BadInput(f"An examination takes 1 to {MOST_SAMPLES} different samples, got {len(request.samples)}.")
        if len({int(labels[dataset.row(sample)]) for sample in request.samples}) > 1:
            raise BadInput("The samples of an examination must be of one class.")
        return Asked("examination", self._key("examination", request), request, "interactive", DOING["examination"])

    def _fooled(self, group: FooledRequest) -> FooledRequest:
        dataset = self._store.dataset(group.data)
        dataset.labels_for(self._store.model_card(group.model))
        for sample in group.samples:
            dataset.row(sample)
        if not 1 <= len(group.samples) <= MOST_FOOLED or len(set(group.samples)) != len(group.samples):
            raise BadInput(f"A group takes 1 to {MOST_FOOLED} different samples, got {len(group.samples)}.")
        _check_seed(group.seed)
        return group

    def _of_group(self, kind: str, request: FooledRequest | GroupProofRequest) -> Asked:
        return Asked(kind, self._key(kind, request), request, "interactive", DOING[kind])

    def _part(self, examination: str, part: str) -> Answer[Certificates]:
        request = work.CertificatePart(examination, part)
        doing = f"checking the {part} part of the certificate"
        return self._answer(
            Asked("certificate", _part_key(examination, part), request, "certificate", doing), Certificates, 0
        )

    def _key(self, kind: str, request: OfModel) -> str:
        """Key of a result: all that it depends on. Raises UnknownName for a model or data set that is not there."""
        model = work.model_key(self._store.model_card(request.model))
        data = work.data_key(self._store.data_card(request.data))
        return keys.content_key(kind, request, model, data, keys.FORMAT)

    def _answer(self, asked: Asked, noun: type[Record], patience: float = A_MOMENT) -> Answer[Record]:
        try:
            return Answer("ready", self._stored(asked.kind, asked.key, noun))
        except NotStored:
            hand_in(self._jobs, asked, patience)
        try:
            return Answer("ready", self._stored(asked.kind, asked.key, noun))
        except NotStored:
            return pending(self._jobs, asked.key)

    def _stored(self, kind: str, key: str, noun: type[Record]) -> Record:
        return self._recent.read(kind, key, noun, lambda: self._store.records.read(kind, key, noun))


def _part_key(examination: str, part: str) -> str:
    return keys.content_key("certificate", examination, part, keys.FORMAT)


def _responses_key(examination: str) -> str:
    return keys.content_key("responses", examination, keys.FORMAT)


def _check_seed(seed: int) -> None:
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise BadSetting(f"A seed must be a whole number from 0 to {LARGEST_SEED}, got {str(seed)[:20]}.")


def _read_only(maps: np.ndarray) -> np.ndarray:
    found = maps.astype(np.float32)
    found.setflags(write=False)
    return found
