"""The store: one folder of models, data sets and results, readable without Faultline, and the data sets in it."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol, TypeVar, final

import numpy as np

from engine import class_names, hashing, serialization
from engine.errors import BadInput, StoreError, UnknownName
from engine.hashing import schema
from engine.specs.of_run import OfRun
from engine.store import files as durable
from engine.store import files as envelope
from engine.store import files as names
from engine.store.files import Corrupt, Shelf, disk_errors
from engine.types.core import DatasetCard, ModelCard

HASH_WIDTH = 2 * hashing.DIGEST_BYTES


class Classifier(Protocol):
    """What has a name and ordered class names: a model's card or its bundle."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...


OfRunReader = Callable[[OfRun, Sequence[str]], np.ndarray]
"""From a run's condition and samples to what it stored of them."""


@final
class Dataset:
    """Images, labels and names of one data set; every sample has a key such as `00017`."""

    def __init__(self, card: DatasetCard, folder: Path) -> None:
        self.card = card
        self._folder = folder
        self._of_run: OfRunReader | None = None

    def reading(self, of_run: OfRunReader) -> Dataset:
        """Return the same data set, which also knows where the images lie that audit runs stored of it."""
        result = copy.copy(self)
        result._of_run = of_run
        return result

    def stored_images(self, attack: OfRun, samples: Sequence[str]) -> np.ndarray:
        """Return what a run stored of some samples, (samples, height, width, channels) uint8; raises BadInput, StoreError."""
        if self._of_run is None:
            raise BadInput(f"There is no store here that could hold the images of run {attack.run[:12]}.")
        return self._of_run(attack, samples)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys of all samples, in order."""
        return tuple(f"{index:05d}" for index in range(self.card.count))

    @cached_property
    def labels(self) -> np.ndarray:
        """(samples,) int64 indices into the card's classes, read-only."""
        return self._loaded("labels.npy")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What each sample was called where it came from, in order."""
        with disk_errors("reading a data set"):
            return tuple(json.loads((self._folder / "names.json").read_text(encoding="utf-8")))

    def images(self, samples: Sequence[str]) -> np.ndarray:
        """Return images as (samples, height, width, channels) uint8, read-only.

        Raises UnknownName for a key that is not there and StoreError for an image that changed since it was added.
        """
        rows = [self.row(sample) for sample in samples]
        height, width = self.card.size
        empty = np.empty((len(rows), height, width, self.card.channels), dtype=np.uint8)
        with disk_errors("reading an image"):
            for place, row in enumerate(rows):
                empty[place] = self._pixels[row]
                self._check(empty[place], row)
        empty.setflags(write=False)
        return empty

    def image_hashes(self, samples: Sequence[str]) -> tuple[str, ...]:
        """Return the hashes that guard some images, without reading the images; raises UnknownName."""
        return tuple(str(self._hashes[self.row(sample)]) for sample in samples)

    def row(self, sample: str) -> int:
        """Return the index of a sample; raises UnknownName."""
        if isinstance(sample, str) and sample.isascii() and sample.isdigit() and len(sample) < 16:
            index = int(sample)
            if index < self.card.count and sample == f"{index:05d}":
                return index
        raise UnknownName("sample", sample, [f"00000 to {self.card.count - 1:05d}"] if self.card.count else [])

    def keys_of(self, label: int) -> tuple[str, ...]:
        """Return the keys of all samples of one class (an index into the card's classes), in order."""
        return tuple(f"{index:05d}" for index in np.flatnonzero(self.labels == label))

    def labels_for(self, model: Classifier) -> np.ndarray:
        """Return (samples,) int64 labels as a model counts its classes; see `labels_for_classes`."""
        return self.labels_for_classes(model.classes)

    def labels_for_classes(self, classes: tuple[str, ...]) -> np.ndarray:
        """Return (samples,) int64 indices into a model's classes, matched by class name, read-only.

        Raises BadInput for a class with images that is not among `classes`, or stands twice in one list of the two.
        """
        if class_names.same(self.card.classes, classes):
            return self.labels
        places = class_names.matched(self.card.classes, classes)
        for name, count, place in zip(self.card.classes, self.card.class_counts, places, strict=True):
            if count and place == class_names.LACKING:
                raise self._misfit(name, classes)
        # LACKING for a class that the model lacks: no image has that label.
        result = np.asarray(places, dtype=np.int64)[self.labels]
        result.setflags(write=False)
        return result

    def _misfit(self, name: str, classes: tuple[str, ...]) -> BadInput:
        often, own = (Counter(map(class_names.plain, names)) for names in (classes, self.card.classes))
        form = class_names.plain(name)
        problem = f"{'twice' if often[form] > 1 else 'not at all'} among the model's {len(classes)} classes"
        if often[form] == 1 and own[form] > 1:
            problem = "twice among the data set's classes, and once among the model's"
        return BadInput(
            f"Class '{name[:80]}' of data set '{self.card.name}' stands {problem}; use a data set whose class names are "
            "the model's."
        )

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.load(self._folder / "images.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def _hashes(self) -> np.ndarray:
        return self._loaded("hashes.npy")

    def _check(self, image: np.ndarray, row: int) -> None:
        if image_hash(image) != str(self._hashes[row]):
            raise StoreError(
                f"Image {row:05d} of data set '{self.card.name}' changed on the disk; add the data set again."
            )

    def _loaded(self, file: str) -> np.ndarray:
        with disk_errors("reading a data set"):
            array = np.load(self._folder / file, allow_pickle=False)
        array.setflags(write=False)
        return array


def image_hash(image: np.ndarray) -> str:
    """Return the hash that guards one stored image."""
    return hashing.bytes_hash(image.tobytes())


FORMAT: Final = 1
MARKER: Final = "faultline.json"
FOREIGN_ALLOWED: Final = {"lost+found"}
"""What an empty folder may hold: the root of a freshly made file system has this one."""
WEIGHTS: Final = "weights.safetensors"
ARCHIVED: Final = "retired"
"""Name of the empty file that marks what is out of the menus; the card and its hash stay as they are."""
Card = TypeVar("Card", ModelCard, DatasetCard)
log = logging.getLogger(__name__)


@final
class Store:
    """Models, data sets and results in one folder. Nothing in it is ever half-written or overwritten silently."""

    def __init__(self, root: str | Path, *, create: bool = True) -> None:
        """Open a store, or make one of an empty or absent folder unless `create` is off; raises StoreError."""
        self.root = Path(root).resolve()
        with durable.disk_errors("being opened"):
            if not (self.root / MARKER).is_file():
                self._make(create)
            self._check_format()
            for name in ("models", "data", "records", "work"):
                (self.root / name).mkdir(mode=0o700, exist_ok=True)
        if not os.access(self.root, os.W_OK):
            raise StoreError(
                "The store's folder cannot be written to; grant this user write access or name another folder."
            )
        self.records = Shelf(self.root / "records")
        self._cards: dict[Path, tuple[tuple[int, int], ModelCard | DatasetCard]] = {}
        self._datasets: dict[str, Dataset] = {}

    def sweep(self) -> None:
        """Remove what processes that died while writing left behind."""
        with durable.disk_errors("being cleaned"):
            for name in ("", "models", "data", "work"):
                durable.sweep(self.root / name)
            self.records.sweep()

    def models(self) -> tuple[ModelCard, ...]:
        """Return the cards of all models, in the order they were added."""
        cards = [self._card("models", name, ModelCard) for name in self._listed("models")]
        return tuple(sorted(cards, key=lambda card: card.added))

    def datasets(self) -> tuple[DatasetCard, ...]:
        """Return the cards of all data sets, in the order they were added."""
        cards = [self._card("data", name, DatasetCard) for name in self._listed("data")]
        return tuple(sorted(cards, key=lambda card: card.added))

    def model_card(self, name: str) -> ModelCard:
        """Return a model's card; raises UnknownName."""
        self._require_known("model", "models", name)
        return self._card("models", name, ModelCard)

    def data_card(self, name: str) -> DatasetCard:
        """Return a data set's card; raises UnknownName."""
        self._require_known("data set", "data", name)
        return self._card("data", name, DatasetCard)

    def weights(self, name: str) -> Path:
        """Return the path of a model's weights after checking their hash; raises UnknownName, StoreError."""
        self._require_known("model", "models", name)
        path = self.root / "models" / name / WEIGHTS
        self._require_whole(path.parent, (WEIGHTS,), ModelCard)
        return path

    def weights_hash(self, name: str) -> str:
        """Return the hash that guards a model's weights, without reading them; raises UnknownName, StoreError."""
        self._require_known("model", "models", name)
        return self._sealed(self.root / "models" / name, ModelCard).files[WEIGHTS]

    def dataset(self, name: str) -> Dataset:
        """Return a data set, its labels and names checked, its images checked as they are read."""
        card = self.data_card(name)
        held = self._datasets.get(name)
        if held is None or held.card is not card:
            folder = self.root / "data" / name
            self._require_whole(folder, ("labels.npy", "names.json", "hashes.npy"), DatasetCard)
            held = self._datasets[name] = Dataset(card, folder)
        return held

    def is_archived(self, shelf: str, name: str) -> bool:
        """Tell whether a model (shelf `models`) or data set (`data`) was taken out of the menus."""
        return (self.root / shelf / name / ARCHIVED).exists()

    def archive(self, shelf: str, name: str, *, archived: bool) -> None:
        """Take a model or data set out of the menus, or back into them; raises UnknownName, StoreError."""
        self._require_known("model" if shelf == "models" else "data set", shelf, name)
        mark = self.root / shelf / name / ARCHIVED
        with durable.disk_errors("retiring" if archived else "taking back"):
            if archived:
                durable.write_file(mark, b"")
            else:
                mark.unlink(missing_ok=True)

    def add_model(self, card: ModelCard, weights: Path | bytes) -> None:
        """Add a model. The same one again changes nothing; raises BadInput for another one of that name."""
        names.require_name("model", card.name)
        if self._is_held("models", card):
            return
        with durable.disk_errors("adding a model"), durable.new_folder(self.root / "models" / card.name) as folder:
            if isinstance(weights, bytes):
                (folder / WEIGHTS).write_bytes(weights)
            else:
                shutil.copyfile(weights, folder / WEIGHTS)
            _seal(folder, card)
        # Where two processes add under one name at once, the first one wins and the other one is told.
        self._is_held("models", card)

    def add_data(
        self, card: DatasetCard, images: np.ndarray, labels: np.ndarray, sample_names: tuple[str, ...]
    ) -> None:
        """Add a data set. The same one again changes nothing; raises BadInput for another one of that name.

        images: (samples, height, width, channels) uint8; labels: (samples,) integers into the card's classes.
        """
        names.require_name("data set", card.name)
        _check_data(card, images, labels, sample_names)
        if self._is_held("data", card):
            return
        with durable.disk_errors("adding a data set"), durable.new_folder(self.root / "data" / card.name) as folder:
            np.save(folder / "images.npy", np.ascontiguousarray(images), allow_pickle=False)
            np.save(folder / "labels.npy", labels.astype(np.int64), allow_pickle=False)
            hashes = np.array([image_hash(image) for image in images], dtype=f"U{HASH_WIDTH}")
            np.save(folder / "hashes.npy", hashes, allow_pickle=False)
            (folder / "names.json").write_text(json.dumps(sample_names), encoding="utf-8")
            _seal(folder, card)
        self._is_held("data", card)

    def _make(self, create: bool) -> None:
        if not create:
            raise StoreError("This folder is no Faultline store; name the folder that the store was made in.")
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = [item.name for item in self.root.iterdir() if not item.name.startswith(durable.PREFIX)]
        if not set(foreign) <= FOREIGN_ALLOWED | {MARKER}:
            raise StoreError("This folder holds other files and is no Faultline store; name an empty or a new folder.")
        try:
            self.root.chmod(0o700)
        except PermissionError:
            log.warning("The store's folder belongs to another user; its permissions stay as they are.")
        content = json.dumps({"made_by": "faultline", "format": FORMAT})
        durable.write_file(self.root / MARKER, content.encode())

    def _check_format(self) -> None:
        try:
            marker = json.loads((self.root / MARKER).read_bytes())
            result = marker["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{MARKER} is damaged, so this folder cannot be opened as a store.") from error
        if result != FORMAT:
            raise StoreError(
                f"This store has format {str(result)[:20]}, and this Faultline reads format {FORMAT}; "
                "open it with the version that wrote it, or name a new folder."
            )

    def _listed(self, shelf: str) -> list[str]:
        with durable.disk_errors("listing what it holds"):
            return sorted(item.name for item in (self.root / shelf).iterdir() if names.is_name(item.name))

    def _require_known(self, kind: str, shelf: str, name: object) -> None:
        if not names.is_name(name) or not (self.root / shelf / str(name) / "card.json").is_file():
            raise UnknownName(kind, name, self._listed(shelf))

    def _card(self, shelf: str, name: str, noun: type[Card]) -> Card:
        """A card, read again only when its file changed: menus ask for cards at every interaction."""
        path = self.root / shelf / name / "card.json"
        with durable.disk_errors("reading a card"):
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            known = self._cards.get(path)
            if known is None or known[0] != stamp:
                known = (stamp, serialization.rebuild(noun, self._sealed(path.parent, noun).value))
                self._cards[path] = known
        if not isinstance(known[1], noun):
            raise StoreError(f"'{name}' holds a card of another kind.")
        return known[1]

    def _sealed(self, folder: Path, noun: type) -> envelope.Envelope:
        try:
            return envelope.unpack((folder / "card.json").read_bytes(), schema(noun))
        except Corrupt as error:
            raise _damaged(folder.name, "card.json") from error

    def _require_whole(self, folder: Path, files: tuple[str, ...], noun: type) -> None:
        with durable.disk_errors(f"reading '{folder.name}'"):
            hashes = self._sealed(folder, noun).files
            for file in files:
                if envelope.file_hash(folder / file) != hashes.get(file):
                    raise _damaged(folder.name, file)

    def _is_held(self, shelf: str, card: ModelCard | DatasetCard) -> bool:
        """Tell whether this very thing is here already; raises BadInput when another one has its name."""
        if not (self.root / shelf / card.name).exists():
            return False
        is_model = isinstance(card, ModelCard)
        held = self.model_card(card.name) if is_model else self.data_card(card.name)
        if _identity(held) != _identity(card):
            kind = "model" if is_model else "data set"
            raise BadInput(f"The store already holds another {kind} called '{card.name}'; choose another name.")
        if _declared(held) != _declared(card):
            raise BadInput(
                f"The store already holds '{card.name}', with {_declared(held)} declared, now with {_declared(card)}; "
                "choose another name."
            )
        return True


def _damaged(name: str, file: str) -> StoreError:
    return StoreError(f"{file} of '{name}' differs from what was added; remove that folder and add it again.")


def _identity(card: ModelCard | DatasetCard) -> tuple[object, ...]:
    """What makes two cards speak of the same thing, whenever it was added and whatever was derived from it since."""
    shared = (card.content_hash, card.classes, card.channels, card.size)
    if isinstance(card, ModelCard):
        return (*shared, card.architecture, card.mean, card.std, card.resize, card.order)
    return (*shared, card.count)


def _declared(card: ModelCard | DatasetCard) -> str:
    """What was declared beside the content: reports and menus depend on it."""
    if isinstance(card, ModelCard):
        return f"the accuracy {card.declared_accuracy:g}" if card.declared_accuracy is not None else "no accuracy"
    return f"epsilon {card.epsilon}" if card.epsilon else "no epsilon"


def _seal(folder: Path, card: ModelCard | DatasetCard) -> None:
    hashes = {file.name: envelope.file_hash(file) for file in sorted(folder.iterdir()) if file.name != "images.npy"}
    sealed = envelope.Envelope(schema(type(card)), serialization.flatten(card).value, files=hashes)
    (folder / "card.json").write_bytes(envelope.pack(sealed))


def _check_data(card: DatasetCard, images: np.ndarray, labels: np.ndarray, sample_names: tuple[str, ...]) -> None:
    shape = (card.count, *card.size, card.channels)
    if images.dtype != np.uint8 or images.shape != shape:
        raise BadInput(f"Images must be uint8 of shape {shape}, got {images.dtype} of shape {images.shape}.")
    if labels.shape != (card.count,) or labels.dtype.kind not in "iu":
        raise BadInput(f"Labels must be {card.count} integers, got {labels.dtype} of shape {labels.shape}.")
    if len(sample_names) != card.count:
        raise BadInput(f"There must be {card.count} sample names, got {len(sample_names)}.")
    if card.count and not 0 <= int(labels.min()) <= int(labels.max()) < len(card.classes):
        raise BadInput(f"Labels must lie in 0 to {len(card.classes) - 1}, got {labels.min()} to {labels.max()}.")
    counts = tuple(np.bincount(labels, minlength=len(card.classes)).tolist())
    if counts != card.class_counts:
        raise BadInput(f"The card counts {card.class_counts[:12]} images per class, the labels {counts[:12]}.")
