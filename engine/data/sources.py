"""Labelled images from npz files and folders of pictures, and what other programs leave among them."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

import numpy as np

from engine import class_names, images
from engine.errors import BadInput, UnknownName, printable

NAMES: Final = frozenset(
    (
        "__macosx", "__pycache__", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "lost+found", "recycler",
        "system volume information", "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "icon\r", "picasa.ini", "thumbs.db",
    )
)  # fmt: skip
"""Of macOS' archives, Windows, network drives and file systems, in small letters."""
SHOWN: Final = 6


def is_left_over(name: str) -> bool:
    """Tell whether a file or folder is hidden (`.DS_Store`, `._1.png`, `.ipynb_checkpoints`), or known to be left behind."""
    return name.startswith(".") or name.casefold() in NAMES


def sentence(names: Sequence[str]) -> str:
    """Return what is said of names that were left out."""
    entries = f"{len(names)} {'entry' if len(names) == 1 else 'entries'}"
    more = ", …" if len(names) > SHOWN else ""
    return f"Hidden, or left by other programs, and so left out: {entries} ({', '.join(names[:SHOWN])}{more})."


MOST_BYTES = 4 * 2**30
HARMLESS_BYTES = 64 * 2**20
LARGEST_RATIO = 200
"""How many times its compressed size a larger array may have: pictures stay below 50, a zip bomb is at 1000."""
LARGEST_FILE: Final = 4 * MOST_BYTES
LONGEST_HEADER: Final = 10_000
"""Bytes; the header of a plain array takes 128."""
COMPRESSIONS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The two that numpy writes; others can ask for any amount of memory."""
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Archive:
    """An open npz file."""

    def __init__(self, name: str, archive: zipfile.ZipFile, size: int) -> None:
        """size: bytes of the file."""
        self.name = name
        self._archive = archive
        self._size = size

    def __contains__(self, key: str) -> bool:
        return f"{key}.npy" in self._archive.namelist()

    def array(self, key: str) -> np.ndarray:
        """Return one array. Raises BadInput when it is missing, of Python objects, too large or damaged."""
        if key not in self:
            known = ", ".join(sorted(name.removesuffix(".npy") for name in self._archive.namelist())[:12])
            raise BadInput(f"{self.name} has no array '{key}'. It has: {known[:200] or 'nothing'}.")
        what, entry = f"The array '{key}' in {self.name}", self._archive.getinfo(f"{key}.npy")
        if entry.flag_bits & 1:
            raise BadInput(f"{what} is encrypted; save it without a password.")
        if entry.compress_type not in COMPRESSIONS:
            raise BadInput(f"{what} is compressed in another way than numpy does; save it with numpy.savez_compressed.")
        with images.read_errors(what, "an npy array"):
            with self._archive.open(entry) as member:
                self._check_header(what, member, entry)
            with self._archive.open(entry) as member:
                return np.lib.format.read_array(member, allow_pickle=False)

    def _check_header(self, what: str, member: IO[bytes], entry: zipfile.ZipInfo) -> None:
        header = io.BytesIO(member.read(LONGEST_HEADER))
        version = np.lib.format.read_magic(header)
        if version not in HEADERS:
            raise BadInput(f"{what} has the unknown npy version {version[0]}.{version[1]}.")
        shape, _, dtype = HEADERS[version](header)
        if dtype.hasobject:
            raise BadInput(f"{what} holds Python objects; save plain numbers or text.")
        size, declared = math.prod(shape) * dtype.itemsize, entry.file_size
        if size > MOST_BYTES or declared > MOST_BYTES:
            raise BadInput(f"{what} declares {size:,} bytes; at most {MOST_BYTES:,} are read.")
        if size + header.tell() != declared:
            raise BadInput(f"{what} declares {size:,} bytes but holds another number.")
        # The compressed size is only declared too; the file's is a fact.
        if declared > max(HARMLESS_BYTES, LARGEST_RATIO * min(entry.compress_size, self._size)):
            raise BadInput(f"{what} unpacks to over {LARGEST_RATIO} times its size; save it uncompressed.")


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an npz file. Raises BadInput for what is not one."""
    with images.opened(path, "an npz file", LARGEST_FILE) as file, zipfile.ZipFile(file) as archive:
        yield Archive(path.name, archive, os.fstat(file.fileno()).st_size)


MOST_CLASSES = 100_000
MOST_IMAGES = 1_000_000
LONGEST_NAME = 200
LARGEST_LIST: Final = 4 * 2**20
"""Bytes of a list of class names: 21,841 names of ImageNet take 0.6 million."""
FIRST_LABELS: Final = (0, 1)
"""What labels may call the first class."""


@dataclass(frozen=True, eq=False, slots=True)
class Images:
    """Labelled images of one size."""

    x: np.ndarray
    """(images, height, width, channels) uint8; 1 channel where all images are grey, else 3."""
    y: np.ndarray
    """(images,) int64 class indices."""
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """What to call each image, each once: its file's stem or path, or its index."""
    remarks: tuple[str, ...] = ()
    """What was left out or taken as it lies, one sentence each."""


def check_options(source: str, size: tuple[int, int] | None, first_label: int) -> None:
    """Refuse what a kind of source (npz, folder, csv or torchvision) would ignore; raises BadInput."""
    if first_label not in FIRST_LABELS:
        raise BadInput(f"--first-label must be 0 or 1, got {str(first_label)[:80]}.")
    if first_label and source not in ("npz", "csv"):
        raise BadInput(f"--first-label is for npz files and tables; a {source} source names its classes itself.")
    if size and source == "npz":
        raise BadInput("--size is for picture files; the images of an npz file are taken as they are.")


def read_npz(path: Path, classes: Sequence[str] | None = None, *, first_label: int = 0) -> Images:
    """Return the images of an npz file: `x` (images, height, width, 1 or 3) uint8, `y` integers, optionally `classes`.

    classes: names to use instead of the file's own; without either they are called 0, 1, ... first_label: what `y` calls
    the first class. Raises BadInput in one line for anything else.
    """
    with opened(path) as result:
        x, y = result.array("x"), result.array("y")
        own = result.array("classes") if "classes" in result else None
    _check_pixels(path.name, x)
    labels = _labels(path.name, y, len(x), first_label)
    names = _named(path.name, own, labels)
    read = labelled(path.name, x, labels, names, tuple(f"{index:05d}" for index in range(len(x))))
    return read if classes is None else with_classes(read, classes)


def labelled(source: str, x: np.ndarray, labels: np.ndarray, classes: Sequence[str], names: tuple[str, ...]) -> Images:
    """Return images with labels that have been read from `source`, called so in messages; arrays are read-only then.

    x: (images, height, width, channels) uint8; labels: (images,) int64. Raises BadInput for a label that has no name.
    """
    _check_named(source, labels, classes)
    return Images(_stored(x), _read_only(labels), tuple(classes), names)


def read_folder(path: Path, classes: Sequence[str] | None = None, *, size: tuple[int, int] | None = None) -> Images:
    """Return the pictures of a folder that holds one folder per class.

    The sorted folder names are the classes unless a list is given, which must then hold every folder's name once. What other
    programs leave in folders and class folders without a picture are left out, and `remarks` say so. All pictures must be
    of one size unless `size` (height, width) is given, to which each is then fitted (`images.fit`). Raises BadInput naming
    the file or folder that cannot be used, and UnknownName for a folder that is no class.
    """
    sorted_out = _sorted_out(path)
    folders = sorted_out.pictures
    names = (
        tuple(classes) if classes is not None else tuple(sorted(class_names.plain(folder.name) for folder in folders))
    )
    places = indices((folder.name for folder in folders), names)
    pictures = [file for inside in folders.values() for file in inside]
    samples = file_names(pictures)
    labels = np.asarray([places[file.parent.name] for file in pictures], dtype=np.int64)
    opened = decoded(pictures, size)
    result = labelled(path.name, opened.pixels, labels, names, samples)
    return replace(result, remarks=(*sorted_out.remarks(), *opened.remarks))


def with_classes(images: Images, classes: Sequence[str]) -> Images:
    """Return images with their labels read as indices into `classes`; raises BadInput for a label that has no name."""
    _check_named("The data set", images.y, classes)
    return replace(images, classes=tuple(classes))


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the class names of a UTF-8 text file, one per line; raises BadInput naming the line that is not one."""
    with images.opened(path, "text in UTF-8", LARGEST_LIST) as file:
        lines = file.read().decode("utf-8-sig").rstrip().splitlines()
    return checked_names(path.name, [line.strip() for line in lines])


def _check_pixels(name: str, x: np.ndarray) -> None:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3) or x.size == 0:
        raise BadInput(
            f"'x' in {name} must be uint8 (images, height, width, 1 or 3), not empty; got {x.dtype} {x.shape}."
        )


def _labels(name: str, y: np.ndarray, count: int, first: int) -> np.ndarray:
    if y.dtype.kind not in "iu" or y.shape != (count,):
        raise BadInput(f"'y' in {name} must be {count} whole numbers, one per image; got {y.dtype} {y.shape}.")
    last = first + MOST_CLASSES - 1
    if int(y.min()) < first or int(y.max()) > last:
        outside = int(y.min()) if int(y.min()) < first else int(y.max())
        raise BadInput(f"Labels in {name} must lie between {first} and {last}, got {outside}.")
    return y.astype(np.int64) - first


def _check_named(source: str, labels: np.ndarray, classes: Sequence[str]) -> None:
    if int(labels.min()) < 0:
        raise BadInput(f"{source} has the label {int(labels.min())}; every image must have one of its classes.")
    if int(labels.max()) >= len(classes):
        raise BadInput(f"{source} has the label {int(labels.max())}, but only {len(classes)} classes.")


def _named(name: str, classes: np.ndarray | None, labels: np.ndarray) -> tuple[str, ...]:
    if classes is None:
        return tuple(str(index) for index in range(int(labels.max()) + 1))
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise BadInput(f"'classes' in {name} must be a list of texts, got {classes.dtype} {classes.shape}.")
    if len(classes) > MOST_CLASSES:
        raise BadInput(f"{name} must name between 1 and {MOST_CLASSES} classes, got {len(classes)}.")
    with images.read_errors(f"The array 'classes' in {name}", "text"):
        texts = classes.tolist()
    return checked_names(name, texts)


def checked_names(source: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return class names as they may be shown and compared (`class_names.plain`).

    Raises BadInput naming the first that is empty, too long or not printable.
    """
    if not 1 <= len(names) <= MOST_CLASSES:
        raise BadInput(f"{source} must name between 1 and {MOST_CLASSES} classes, got {len(names)}.")
    for number, name in enumerate(names, start=1):
        if not class_names.is_visible(name) or len(name) > LONGEST_NAME or not name.isprintable():
            raise BadInput(
                f"Class {number} in {source} must be 1 to {LONGEST_NAME} printable characters, got {name[:40]!r}."
            )
    return tuple(map(class_names.plain, names))


@dataclass(frozen=True, slots=True)
class SortedOut:
    """The class folders of a folder that hold pictures, and what lay beside those."""

    pictures: dict[Path, list[Path]]
    """By class folder, in the order of their names."""
    left_over: tuple[str, ...]
    empty: tuple[str, ...]
    """Names of class folders without a picture."""

    def remarks(self) -> Iterator[str]:
        """Yield one sentence each on what was left out."""
        if self.left_over:
            yield sentence(self.left_over)
        if self.empty:
            more = ", …" if len(self.empty) > SHOWN else ""
            yield (
                f"{len(self.empty)} class folder{'s' if len(self.empty) > 1 else ''} without a picture left out: "
                f"{', '.join(self.empty[:SHOWN])}{more}."
            )


def _sorted_out(path: Path) -> SortedOut:
    folders, beside = _class_folders(path)
    inside = {folder: _entries(folder) for folder in folders}
    left_over = (*beside, *(f"{folder.name}/{name}" for folder, (_, names) in inside.items() for name in names))
    pictures = {folder: kept for folder, (kept, _) in inside.items() if kept}
    empty = tuple(folder.name for folder in folders if folder not in pictures)
    if not pictures:
        raise BadInput(f"{path.name} holds no class folder with a picture in it.")
    return SortedOut(pictures, tuple(map(printable, left_over)), empty)


def _class_folders(path: Path) -> tuple[list[Path], list[str]]:
    """Return the class folders, no two of one class, and the names of what other programs left beside them."""
    if not path.is_dir():
        raise BadInput(f"{path.name} is not a folder.")
    entries, left_over = _entries(path)
    stray = next((entry for entry in entries if not entry.is_dir()), None)
    if stray is not None:
        raise BadInput(f"{stray.name} lies beside the class folders; put every picture into the folder of its class.")
    if not entries:
        raise BadInput(f"{path.name} holds no class folders.")
    (often, count), *_ = Counter(checked_names(path.name, [entry.name for entry in entries])).most_common(1)
    if count > 1:
        raise BadInput(
            f"{count} folders of {path.name} are called '{often[:80]}' and differ only in white space or in how letters are "
            "composed; put the pictures of a class into one folder."
        )
    return entries, left_over


def _entries(folder: Path) -> tuple[list[Path], list[str]]:
    """Return what lies in a folder, by name, and the names of what other programs left there.

    Raises BadInput for a link, which could lead to what nobody handed in.
    """
    with images.read_errors(folder.name, "a folder"):
        result = sorted(folder.iterdir())
        kept = [entry for entry in result if not is_left_over(entry.name)]
        link = next((entry for entry in kept if entry.is_symlink()), None)
    if link is not None:
        raise BadInput(f"{folder.name}/{link.name} is a link; put what it leads to in its place.")
    return kept, [entry.name for entry in result if is_left_over(entry.name)]


def indices(wanted: Iterable[str], classes: Sequence[str]) -> dict[str, int]:
    """Return the index of every wanted class; raises UnknownName, and BadInput for one that stands twice in the list."""
    names = tuple(map(class_names.plain, classes))
    places, often = {name: index for index, name in enumerate(names)}, Counter(names)
    results: dict[str, int] = {}
    for name in wanted:
        form = class_names.plain(name)
        if form not in places:
            raise UnknownName("class", name, classes)
        if often[form] > 1:
            raise BadInput(f"The class '{name[:80]}' stands twice in the list of classes; the label could mean either.")
        results[name] = places[form]
    return results


@dataclass(frozen=True, eq=False, slots=True)
class Decoded:
    """Picture files as one array."""

    pixels: np.ndarray
    """(images, height, width, 3) uint8."""
    remarks: tuple[str, ...]


def turned(count: int, first: str) -> tuple[str, ...]:
    """Return what is said of `count` pictures whose camera's note says to turn them; nothing where there are none.

    They stay as they lie: that is how torchvision, timm and keras open them, so how networks were trained on such files.
    """
    if not count:
        return ()
    pictures, them, are = ("picture has", "it", "it is") if count == 1 else ("pictures have", "them", "they are")
    return (
        f"{count} {pictures} a camera's note to turn {them} (EXIF orientation; first: {first}); {are} taken as the pixels lie, "
        "as torchvision opens such files.",
    )


def decoded(pictures: Sequence[Path], size: tuple[int, int] | None) -> Decoded:
    """Return picture files, each fitted to `size` (height, width) if one is given.

    Raises BadInput for pictures of different sizes without one, and for more than is read.
    """
    if len(pictures) > MOST_IMAGES:
        raise BadInput(f"{len(pictures):,} pictures are more than the {MOST_IMAGES:,} that are read.")
    # Filled in place: a list would take the memory twice.
    first = _picture(pictures[0], size).pixels
    if first.nbytes * len(pictures) > MOST_BYTES:
        raise BadInput(
            f"{len(pictures)} pictures of {first.nbytes:,} bytes are more than the {MOST_BYTES:,} that are read."
        )
    pixels = np.empty((len(pictures), *first.shape), dtype=np.uint8)
    noted = []
    for index, file in enumerate(pictures):
        opened = _picture(file, size)
        picture = opened.pixels
        if opened.is_turned:
            noted.append(f"{file.parent.name}/{file.name}")
        if picture.shape != first.shape:
            raise BadInput(
                f"{file.parent.name}/{file.name} has {picture.shape[1]} x {picture.shape[0]} pixels, the first picture "
                f"has {first.shape[1]} x {first.shape[0]}; name one size to fit all pictures to it."
            )
        pixels[index] = picture
    return Decoded(pixels, turned(len(noted), noted[0] if noted else ""))


def _picture(file: Path, size: tuple[int, int] | None) -> images.Decoded:
    result = images.read(file)
    return replace(result, pixels=fitted(file.name, result.pixels, size))


def fitted(name: str, picture: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return a (height, width, 3) picture fitted to `size` (height, width), if one is given; raises BadInput naming it."""
    try:
        return picture if size is None else images.fit(picture[None], 3, size)[0]
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error


def file_names(pictures: Sequence[Path]) -> tuple[str, ...]:
    """Return the files' stems where each occurs once, else class folder and file name, in composed letters (NFC).

    Raises BadInput for names that cannot be shown, and for two that differ only in how letters are composed.
    """
    wrong = next((file for file in pictures if not f"{file.parent.name}{file.name}".isprintable()), None)
    if wrong is not None:
        raise BadInput(
            f"The name {wrong.name[:80]!r} of a picture has characters that cannot be shown; rename the file."
        )
    stems = tuple(class_names.plain(file.stem) for file in pictures)
    if len(set(stems)) == len(stems):
        return stems
    paths = [f"{file.parent.name}/{file.name}" for file in pictures]
    (often, count), *_ = Counter(map(class_names.plain, dict.fromkeys(paths))).most_common(1)
    if count > 1:
        raise BadInput(
            f"{count} pictures are called '{often[:80]}' and differ only in how letters are composed; rename one."
        )
    return tuple(map(class_names.plain, paths))


def _stored(x: np.ndarray) -> np.ndarray:
    """Return the images with one channel where all of them are grey."""
    return _read_only(x[..., :1] if x.shape[3] == 3 and images.is_grey(x) else x)


def _read_only(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
