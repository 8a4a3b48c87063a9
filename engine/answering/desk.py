"""The desk: models and data sets come in from the inbox, and leave the menus when they are retired."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, final

from engine import tasks
from engine.answering.answers import Answers
from engine.intake.inbox import Inbox
from engine.records import Answer, DatasetCard, ModelCard
from engine.records.imports import DataOrder, Entry, ModelOrder, Taken
from engine.records.intake import IntakeReport
from engine.records.requests import Place

SURVEY: Final = Path(__file__).parents[1] / "models" / "ARCHITECTURES.md"
ROW: Final = re.compile(r"\| `(\w+)` \|")
OWN: Final = (
    "cifar_resnet20", "cifar_resnet32", "cifar_resnet44", "cifar_resnet56", "digits_resnet", "preact_resnet18",
    "preact_resnet18_raw", "resnet2b", "resnet4b", "small_cnn",
)  # fmt: skip
"""Architectures that are not torchvision's; to ask the registry itself would load torch."""


@final
class Desk:
    """What a store holds and what could be added to it."""

    def __init__(self, answers: Answers, inbox: Inbox) -> None:
        self._answers = answers
        self._store = answers.store
        self._inbox = inbox

    def models(self, *, retired: bool = False) -> tuple[ModelCard, ...]:
        """Return the cards of all models that are in use, or of those that are retired."""
        return tuple(card for card in self._store.models() if self._store.is_retired("models", card.name) is retired)

    def datasets(self, *, retired: bool = False) -> tuple[DatasetCard, ...]:
        """Return the cards of all data sets that are in use, or of those that are retired."""
        return tuple(card for card in self._store.datasets() if self._store.is_retired("data", card.name) is retired)

    def retire(self, shelf: Literal["models", "data"], name: str, *, retired: bool = True) -> None:
        """Take a model or data set out of the menus, or back into them; nothing is deleted. Raises UnknownName, StoreError."""
        self._store.retire(shelf, name, retired=retired)

    def reports(self, model: str, datasets: Iterable[str]) -> tuple[IntakeReport, ...]:
        """Return the intake reports of a model that are made already, on noise and on these data sets; raises UnknownName."""
        places = [Place(model, name) for name in ("", *datasets)]
        made = [place for place in places if self._answers.is_stored(tasks.INTAKE, place)]
        return tuple(self._answers.stored(tasks.INTAKE, tasks.INTAKE.key(self._store, place)) for place in made)

    def architectures(self) -> tuple[str, ...]:
        """Return the names of the architectures that weights can be loaded into, those of plug-ins and timm left out."""
        rows = SURVEY.read_text(encoding="utf-8").splitlines()
        found = [ROW.match(row) for row in rows if "| refused |" not in row]
        return tuple(sorted((*OWN, *(one[1] for one in found if one))))

    @property
    def has_inbox(self) -> bool:
        """Whether the administrator has set a folder to add from."""
        return self._inbox.is_set

    def entries(self) -> tuple[Entry, ...]:
        """Return what lies in the inbox; nothing where none is set. Raises StoreError."""
        return self._inbox.entries()

    def left_out(self) -> str:
        """Return one sentence on what lies hidden in the inbox or was left there by other programs. Raises StoreError."""
        return self._inbox.left_out()

    def take_model(self, order: ModelOrder) -> Answer[Taken]:
        """Add a model; raises UnknownName and BadInput for files that are not there. The rest fails with its reason."""
        return self._answers.ask(tasks.TAKE_MODEL, self._inbox.model(order))

    def take_data(self, order: DataOrder) -> Answer[Taken]:
        """Add a data set; raises and fails as `take_model`."""
        return self._answers.ask(tasks.TAKE_DATA, self._inbox.data(order))

    def forget(self, order: ModelOrder | DataOrder) -> None:
        """Let an order that failed be tried again."""
        if isinstance(order, ModelOrder):
            self._answers.retry(tasks.TAKE_MODEL, self._inbox.model(order))
        else:
            self._answers.retry(tasks.TAKE_DATA, self._inbox.data(order))
