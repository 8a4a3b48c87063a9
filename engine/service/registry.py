"""The registry: models and data sets come in from a folder on the server, and leave the menus when they are archived."""

from __future__ import annotations

import datetime
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Final, Literal, final

from engine import hashing
from engine.data import csv_table, sources
from engine.errors import BadInput, StoreError, UnknownName, printable
from engine.service import tasks
from engine.service.answers import Answers
from engine.store import files
from engine.types.checks import ValidationReport
from engine.types.core import Answer, DatasetCard, ModelCard
from engine.types.requests import DataOrder, DataTask, Entry, EntryKind, ModelOrder, ModelTask, Place, Taken

SUFFIXES: Final[dict[str, EntryKind]] = {
    ".safetensors": "weights",
    ".pt": "weights",
    ".pth": "weights",
    ".bin": "weights",
    ".npz": "npz",
    ".csv": "csv",
    ".txt": "classes",
}
"""What a file is offered as; what it really is, its content decides when it is added."""
MOST: Final = 500
"""Entries that are listed."""
MOST_BELOW: Final = 100_000
"""Files of a folder by which it is known; measured, 50,000 take 0.2 s."""
KEY_WIDTH: Final = 16
LARGEST: Final[dict[EntryKind, int]] = {
    "weights": 4 * 2**30,
    "npz": sources.LARGEST_FILE,
    "csv": csv_table.LARGEST_FILE,
    "classes": sources.LARGEST_LIST,
}
"""Bytes of a file of each kind from which on it would not be read when it is added."""
LONGEST_NAME: Final = 120
UNUSUAL: Final = re.compile(r"[^A-Za-z0-9._-]+")
CHUNK: Final = 1 << 20
PART: Final = ".part"
LEFT: Final = re.compile(rf"{re.escape(files.PREFIX + files.HOST)}-(\d+)-[0-9a-f]{{8}}{re.escape(PART)}")
"""What a file is called while it comes in: the machine and the process that writes it."""
SPARE: Final = 64 * 2**20
"""Bytes that a file sent in leaves free on the disk."""


@final
class ImportFolder:
    """The files and folders of one folder; hidden ones, what other programs left, links and names that cannot be shown are not."""

    def __init__(self, root: Path | None, *, takes_uploads: bool = True) -> None:
        """root: the folder, or None where the administrator has not set one; raises StoreError for one that is not there."""
        self.takes_uploads = takes_uploads and root is not None
        if root is not None and not root.is_dir():
            raise StoreError("The import folder is not a folder; make it, or start without one.")
        self._root = root.resolve() if root else None

    @property
    def is_set(self) -> bool:
        """Whether the administrator has set an import folder."""
        return self._root is not None

    def entries(self) -> tuple[Entry, ...]:
        """Return what can be added, by name; raises StoreError where the folder cannot be read."""
        return tuple(sorted((entry for entry, _ in self._entries_with_paths()), key=lambda one: one.name.casefold()))[
            :MOST
        ]

    def left_out(self) -> str:
        """Return one sentence on what is hidden there or was left by other programs, empty for nothing; raises StoreError."""
        names = sorted(path.name for path in self._paths() if sources.is_left_over(path.name))
        return printable(sources.sentence(names)) if names else ""

    def receive(self, name: str, stream: IO[bytes], size: int) -> Entry:
        """Put a file of `size` bytes into the folder, whole or not at all, and return its entry; one of its name stays.

        The name is reduced to letters, digits, '.', '_' and '-'. Raises BadInput, StoreError.
        """
        if self._root is None or not self.takes_uploads:
            raise BadInput("This server takes no files from the page.")
        target = self._root / received_name(name, size)
        if os.path.lexists(target):
            raise BadInput(f"{target.name} lies in the import folder already; give the file another name.")
        with files.disk_errors("taking in a file"):
            _sweep(self._root)
            if shutil.disk_usage(self._root).free < size + SPARE:
                raise BadInput(f"The disk of the server has no room for {target.name} ({size:,} bytes).")
            _write_whole(target, stream, size)
        entry = _entry(target)
        if entry is None:
            raise StoreError(f"{target.name} was taken away as soon as it was there.")
        return entry

    def path(self, key: str, kinds: tuple[EntryKind, ...]) -> tuple[Path, EntryKind]:
        """Return where an entry lies and what it is; raises UnknownName, BadInput for another kind."""
        for entry, path in self._entries_with_paths():
            if entry.key == key:
                if entry.kind not in kinds:
                    raise BadInput(f"'{entry.name[:80]}' is {entry.kind}; what is needed is {' or '.join(kinds)}.")
                return path, entry.kind
        raise UnknownName("entry of the import folder", key, [entry.name for entry, _ in self._entries_with_paths()])

    def model(self, order: ModelOrder) -> ModelTask:
        """Return an order with its files; raises UnknownName, BadInput."""
        weights, _ = self.path(order.entry, ("weights",))
        return ModelTask(order, str(weights), self._classes(order.classes))

    def data(self, order: DataOrder) -> DataTask:
        """Return an order with its files; raises UnknownName, BadInput."""
        source, kind = self.path(order.entry, ("npz", "folder", "csv"))
        if kind == "csv" and not order.images:
            raise BadInput("A table of pictures needs the folder in which they lie.")
        images = str(self.path(order.images, ("folder",))[0]) if order.images and kind == "csv" else None
        return DataTask(order, kind, str(source), self._classes(order.classes) if order.classes else None, images)

    def _classes(self, named: str) -> str | None:
        return None if named.startswith("data:") else str(self.path(named, ("classes",))[0])

    def _entries_with_paths(self) -> Iterator[tuple[Entry, Path]]:
        for path in self._paths():
            entry = None if sources.is_left_over(path.name) else _entry(path)
            if entry is not None:
                yield entry, path

    def _paths(self) -> list[Path]:
        try:
            return list(self._root.iterdir()) if self._root else []
        except OSError as error:
            raise StoreError(f"The import folder cannot be read: {error.strerror}.") from error


def received_name(name: str, size: int) -> str:
    """Return the name under which a file of `size` bytes is taken in; raises BadInput for what could not be added."""
    plain = UNUSUAL.sub("-", name.replace("\\", "/").rpartition("/")[2]).strip("-")
    suffix = Path(plain).suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInput(f"'{plain[:80]}' cannot be added; what can are files ending in {', '.join(SUFFIXES)}.")
    if sources.is_left_over(plain) or len(plain) > LONGEST_NAME:
        raise BadInput(
            f"'{plain[:80]}' is hidden, or longer than {LONGEST_NAME} characters; give the file another name."
        )
    most = LARGEST[SUFFIXES[suffix]]
    if not 0 < size <= most:
        raise BadInput(f"{plain} has {size:,} bytes; 1 to {most:,} are taken.")
    return plain


def _sweep(root: Path) -> None:
    """Remove what servers of this machine that died left of files sent in, and nothing else: the folder is not the store's."""
    for path in root.glob(f"{files.PREFIX}*{PART}"):
        match = LEFT.fullmatch(path.name)
        if match and path.is_file() and not path.is_symlink() and not files.is_alive(int(match[1])):
            path.unlink(missing_ok=True)


def _write_whole(target: Path, stream: IO[bytes], size: int) -> None:
    """Write a file under a temporary name and give it its own once it is whole; another of that name stays."""
    temporary = target.parent / f"{files.PREFIX}{files.HOST}-{os.getpid()}-{secrets.token_hex(4)}{PART}"
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            left = size
            while left and (chunk := stream.read(min(CHUNK, left))):
                left -= file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if left:
            raise BadInput(f"{target.name} ended {left:,} bytes too early; send it again.")
        # A link, unlike a new name, never takes the place of a file that came in meanwhile.
        os.link(temporary, target)
    except FileExistsError as error:
        raise BadInput(f"{target.name} lies in the import folder already; give the file another name.") from error
    finally:
        temporary.unlink(missing_ok=True)


def unchanged(path: str, key: str) -> Path:
    """Return where an entry lies that is still what was ordered; raises BadInput where it changed since."""
    entry = _entry(Path(path))
    if entry is None or entry.key != key:
        raise BadInput(f"{Path(path).name[:80]} changed since it was chosen; choose it again.")
    return Path(path)


def _entry(path: Path) -> Entry | None:
    """Return what lies there; None for a link, a device, something that vanished, or a file of another kind."""
    try:
        status = path.lstat()
    except OSError:
        return None
    is_folder = stat.S_ISDIR(status.st_mode)
    kind: EntryKind | None = "folder" if is_folder else SUFFIXES.get(path.suffix.lower())
    if kind is None or not (is_folder or stat.S_ISREG(status.st_mode)) or not path.name.isprintable():
        return None
    size, below = (0, _below(path)) if is_folder else (status.st_size, "")
    key = hashing.content_key("inbox", path.name, size, _changed(status), below)[:KEY_WIDTH]
    modified = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC).isoformat(timespec="seconds")
    return Entry(key, path.name, kind, size, modified)


def _changed(status: os.stat_result) -> int:
    """When a file changed; a folder is known by what lies in it, since its own time tells of leftovers too."""
    return 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns


def _below(folder: Path) -> str:
    """Return a hash of the names, sizes and times of what lies below a folder; links are not followed."""
    digest = hashing.running_hash()
    for path, status in islice(_walk(str(folder)), MOST_BELOW):
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        digest.update(f"{path}\0{size}\0{_changed(status)}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as result:
                # A Mac or Windows that only looks into a folder leaves its own files there: the pictures are the same.
                kept = (entry for entry in result if not sources.is_left_over(entry.name))
                entries = sorted(kept, key=lambda entry: entry.name)
            results = [(entry.path, entry.stat(follow_symlinks=False)) for entry in entries]
        except OSError:
            # What cannot be read is refused, with its name, when the folder is added.
            continue
        yield from results
        waiting += [path for path, status in results if stat.S_ISDIR(status.st_mode)]


SURVEY: Final = Path(__file__).parents[1] / "models" / "ARCHITECTURES.md"
ROW: Final = re.compile(r"\| `(\w+)` \|")
OWN: Final = (
    "cifar_resnet20", "cifar_resnet32", "cifar_resnet44", "cifar_resnet56", "digits_resnet", "preact_resnet18",
    "preact_resnet18_raw", "resnet2b", "resnet4b", "small_cnn",
)  # fmt: skip
"""Architectures that are not torchvision's; to ask the registry itself would load torch."""


@final
class ModelRegistry:
    """What a store holds and what could be added to it."""

    def __init__(self, answers: Answers, import_folder: ImportFolder) -> None:
        self._answers = answers
        self._store = answers.store
        self._import_folder = import_folder

    def models(self, *, archived: bool = False) -> tuple[ModelCard, ...]:
        """Return the cards of all models that are in use, or of those that are archived."""
        return tuple(card for card in self._store.models() if self._store.is_archived("models", card.name) is archived)

    def datasets(self, *, archived: bool = False) -> tuple[DatasetCard, ...]:
        """Return the cards of all data sets that are in use, or of those that are archived."""
        return tuple(card for card in self._store.datasets() if self._store.is_archived("data", card.name) is archived)

    def archive(self, shelf: Literal["models", "data"], name: str, *, archived: bool = True) -> None:
        """Take a model or data set out of the menus, or back into them; nothing is deleted. Raises UnknownName, StoreError."""
        self._store.archive(shelf, name, archived=archived)

    def reports(self, model: str, datasets: Iterable[str]) -> tuple[ValidationReport, ...]:
        """Return the validation reports of a model that are made already, on noise and on these data sets; raises UnknownName."""
        places = [Place(model, name) for name in ("", *datasets)]
        results = [place for place in places if self._answers.is_stored(tasks.VALIDATION, place)]
        return tuple(
            self._answers.stored(tasks.VALIDATION, tasks.VALIDATION.key(self._store, place)) for place in results
        )

    def architectures(self) -> tuple[str, ...]:
        """Return the names of the architectures that weights can be loaded into, those of plug-ins and timm left out."""
        rows = SURVEY.read_text(encoding="utf-8").splitlines()
        results = [ROW.match(row) for row in rows if "| refused |" not in row]
        return tuple(sorted((*OWN, *(item[1] for item in results if item))))

    @property
    def has_import_folder(self) -> bool:
        """Whether the administrator has set a folder to add from."""
        return self._import_folder.is_set

    @property
    def takes_uploads(self) -> bool:
        """Whether files may be sent into the import folder from the page."""
        return self._import_folder.takes_uploads

    def receive(self, name: str, stream: IO[bytes], size: int) -> Entry:
        """Put a file of `size` bytes into the import folder; raises BadInput, StoreError, and then nothing is there."""
        return self._import_folder.receive(name, stream, size)

    def entries(self) -> tuple[Entry, ...]:
        """Return what lies in the import folder; nothing where none is set. Raises StoreError."""
        return self._import_folder.entries()

    def left_out(self) -> str:
        """Return one sentence on what lies hidden in the import folder or was left there by other programs. Raises StoreError."""
        return self._import_folder.left_out()

    def take_model(self, order: ModelOrder) -> Answer[Taken]:
        """Add a model; raises UnknownName and BadInput for files that are not there. The rest fails with its reason."""
        return self._answers.ask(tasks.TAKE_MODEL, self._import_folder.model(order))

    def take_data(self, order: DataOrder) -> Answer[Taken]:
        """Add a data set; raises and fails as `take_model`."""
        return self._answers.ask(tasks.TAKE_DATA, self._import_folder.data(order))

    def forget(self, order: ModelOrder | DataOrder) -> None:
        """Let an order that failed be tried again."""
        if isinstance(order, ModelOrder):
            self._answers.retry(tasks.TAKE_MODEL, self._import_folder.model(order))
        else:
            self._answers.retry(tasks.TAKE_DATA, self._import_folder.data(order))
