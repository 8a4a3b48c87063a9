"""The evidence of a run as one zip file that explains itself, and that can be checked without the store and without Faultline."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from engine import hashing, serialization
from engine.audit import frames, manifest, results
from engine.audit.runs import AuditLog
from engine.errors import BadInput, EngineError, StoreError
from engine.review import book, exchange, report, schemas
from engine.review.content import Subject
from engine.store import Store, files

SCHEMA: Final = "bundle/1"
SUMS, INDEX, SIGNATURE, PUBLIC_KEY = "SHA256SUMS", "bundle.json", "SHA256SUMS.sig", "public-key.pem"
PIECE: Final = 64 * 1024
"""Bytes of the pieces whose hashes stand in bundle.json, so that a change can be placed."""
MOMENT: Final = (1980, 1, 1, 0, 0, 0)
"""Of every member: two bundles of the same content have the same bytes."""
LARGEST_MEMBER: Final = 2**31
README: Final = """# Evidence of run {run}

Everything that {name} rests on, as one file. Nothing here needs Faultline to be read.

- `report.html` is the report: open it in a browser, or print it.
- `tables/` holds every figure as CSV and Parquet; one row of `images` is one image under one condition.
- `declared.json`, `findings.json`, `decision.json` are what people declared, found and decided; `review.jsonl` is the log they
  come from, each line chained to the one before.
- `manifest.json` is what was agreed before the run; the first 32 hex digits of its BLAKE2b hash are the run's id.
- `junit.xml`, `aiverify.json`, `model-card.md`, `summary.md` say the same to other programs; `schemas/` describes every JSON.

To check that no file was changed, in this folder: `sha256sum -c SHA256SUMS`. `python -m engine verify-bundle FILE.zip` also checks
the chain of the log, the run's id, the seal, and the signature where there is one.
"""


@final
class _Archive:
    """Writes members and remembers their hashes; a member is streamed, never held whole."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.sums: dict[str, str] = {}
        self.pieces: dict[str, list[str]] = {}

    def add(self, name: str, content: bytes) -> None:
        """Write a member."""
        self.stream(name, io.BytesIO(content))

    def stream(self, name: str, source: Any) -> None:
        """Write a member from an open binary file."""
        whole, pieces = hashlib.sha256(), []
        info = zipfile.ZipInfo(name, MOMENT)
        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        with self._archive.open(info, "w", force_zip64=True) as member:
            while piece := source.read(PIECE):
                whole.update(piece)
                pieces.append(hashlib.sha256(piece).hexdigest())
                member.write(piece)
        self.sums[name] = whole.hexdigest()
        self.pieces[name] = pieces


def write(store: Store, subject: Subject, out: Path, *, key: Path | None = None) -> dict[str, str]:
    """Write the bundle of a finished run to a new file and return the SHA-256 of every member.

    key: PEM file of an Ed25519 private key that signs it. The file is there whole or not at all. Raises BadInput, StoreError.
    """
    signer = _private(key) if key else None
    with files.disk_errors("writing a bundle"):
        number, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part")
        try:
            with os.fdopen(number, "w+b") as stream:
                with zipfile.ZipFile(stream, "w") as archive:
                    sums = _fill(_Archive(archive), store, subject, signer)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).rename(out)
        finally:
            Path(name).unlink(missing_ok=True)
    return sums


def _fill(archive: _Archive, store: Store, subject: Subject, signer: Ed25519PrivateKey | None) -> dict[str, str]:
    place = subject.run.place
    archive.add("README.md", README.format(run=subject.card.run, name=subject.card.name).encode())
    archive.add("report.html", report.html(subject).encode())
    for name, content in _documents(subject).items():
        archive.add(name, content)
    archive.add("manifest.json", place.manifest.read_bytes())
    archive.add("seal.json", (place.result / results.SEAL).read_bytes())
    log = place.folder / book.FILE
    if log.exists():
        archive.add("review.jsonl", log.read_bytes())
    with (place.result / results.TABLE).open("rb") as rows:
        archive.stream("tables/rows.parquet", rows)
    for name, made in _tables(store, subject):
        archive.add(f"tables/{name}.csv", made())
    for name, value in schemas.all_of().items():
        archive.add(f"schemas/{name}", exchange.as_bytes(value))
    head = AuditLog(store.root).events()
    index = {
        "schema": SCHEMA, "run": subject.card.run, "result": subject.seal, "log_head": head[-1].hash if head else "",
        "review_head": subject.review.head if subject.review else "", "versions": dict(subject.manifest.versions),
        "piece": PIECE, "pieces": archive.pieces,
    }  # fmt: skip
    archive.add(INDEX, exchange.as_bytes(index))
    content = "".join(f"{value}  {name}\n" for name, value in sorted(archive.sums.items())).encode()
    sums = dict(archive.sums)
    archive.add(SUMS, content)
    if signer:
        archive.add(SIGNATURE, base64.b64encode(signer.sign(content)) + b"\n")
        public = signer.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        archive.add(PUBLIC_KEY, public)
    return sums


def _documents(subject: Subject) -> dict[str, bytes]:
    review = subject.review
    declared = serialization.flatten(review.declared).value if review and review.declared else None
    decision = serialization.flatten(review.decision).value if review and review.decision else None
    findings = [serialization.flatten(one).value for one in review.versions] if review else []
    return {
        "declared.json": exchange.as_bytes({"schema": book.DECLARED, "declared": declared}),
        "findings.json": exchange.as_bytes({"schema": book.FINDING, "versions": findings}),
        "decision.json": exchange.as_bytes({"schema": book.DECISION, "decision": decision}),
        "junit.xml": exchange.junit(subject),
        "aiverify.json": exchange.as_bytes(exchange.ai_verify(subject)),
        "model-card.md": exchange.model_card(subject).encode(),
        "summary.md": exchange.markdown(subject).encode(),
    }


def _tables(store: Store, subject: Subject) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield each table's name and what makes it, so that one at a time is held."""
    run = subject.card.run
    for name, table in frames.TABLES.items():
        yield name, lambda table=table: frames.as_csv(table(store, run))  # type: ignore[misc]
    if subject.inside is not None:
        yield "layers", lambda: frames.as_csv(frames.layers(subject.inside))  # type: ignore[arg-type]
        yield "maps", lambda: frames.as_csv(frames.weak_maps(subject.inside))  # type: ignore[arg-type]


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        key = pem.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path.name} is no PEM file of a private key without password.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path.name} holds another kind of key; an Ed25519 key signs a bundle.")
    return key


@dataclass(frozen=True, slots=True)
class Verified:
    """What a bundle says of itself."""

    run: str
    problems: tuple[str, ...]
    """What does not fit, one sentence each; none where all of it does."""
    members: int
    signed_by: str
    """Fingerprint of the key (SHA-256 of its PEM, 16 digits); empty for a bundle without signature."""
    is_trusted: bool
    """Whether that is the key that was given."""


def verify(path: Path, *, key: Path | None = None) -> Verified:
    """Check a bundle without store. key: PEM of the public key that must have signed it. Raises BadInput for no bundle."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {one.filename: one for one in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise BadInput(f"{path.name} holds two members of one name, which no bundle does.")
            if SUMS not in members or INDEX not in members:
                raise BadInput(f"{path.name} is no bundle: it lacks {SUMS if SUMS not in members else INDEX}.")
            return _verified(archive, set(members), key)
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path.name} cannot be read as a zip file: {error}") from error


def _verified(archive: zipfile.ZipFile, members: set[str], key: Path | None) -> Verified:
    problems: list[str] = []
    content = _read(archive, SUMS, problems)
    sums = dict(line.split("  ", 1)[::-1] for line in content.decode("utf-8", "replace").splitlines() if "  " in line)
    index = _index(archive, problems)
    pieces, size = index.get("pieces", {}), index.get("piece", PIECE)
    for name, expected in sums.items():
        problems += _member(archive, members, name, (expected, pieces.get(name), size))
    problems += [
        f"{name} is not listed in {SUMS}." for name in sorted(members - set(sums) - {SUMS, SIGNATURE, PUBLIC_KEY})
    ]
    if not problems:
        problems += _consistent(archive, members, index)
    signed_by, is_trusted = _signature(archive, members, content, key, problems)
    return Verified(str(index.get("run", "")), tuple(problems), len(members), signed_by, is_trusted)


def _index(archive: zipfile.ZipFile, problems: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(_read(archive, INDEX, problems) or b"{}")
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("pieces", {}), dict):
        problems.append(f"{INDEX} is no JSON object.")
        return {}
    if value.get("schema") != SCHEMA:
        raise BadInput(f"This bundle has the schema '{str(value.get('schema'))[:40]}'; this version knows {SCHEMA}.")
    return value


def _read(archive: zipfile.ZipFile, name: str, problems: list[str]) -> bytes:
    try:
        if archive.getinfo(name).file_size > LARGEST_MEMBER:
            raise BadInput(f"{name} has more than {LARGEST_MEMBER:,} bytes.")
        return archive.read(name)
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError) as error:
        problems.append(f"{name} cannot be read: {error}")
        return b""


def _member(
    archive: zipfile.ZipFile, members: set[str], name: str, expected: tuple[str, list[str] | None, int]
) -> list[str]:
    """Return what is wrong with one member: the piece in which it first differs, where its pieces are known."""
    if name not in members:
        return [f"{name} is missing."]
    whole, pieces, size = expected
    found, wrong, place = hashlib.sha256(), None, 0
    try:
        with archive.open(name) as member:
            while piece := member.read(size):
                found.update(piece)
                known = pieces[place] if pieces and place < len(pieces) else None
                if wrong is None and pieces is not None and hashlib.sha256(piece).hexdigest() != known:
                    wrong = place
                place += 1
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError):
        # The zip's own checksum is met at the end of what can be read.
        wrong = place if wrong is None else wrong
        return [f"{name} was changed, first between bytes {wrong * size:,} and {(wrong + 1) * size - 1:,}."]
    if found.hexdigest() == whole:
        return []
    where = "" if wrong is None else f", first between bytes {wrong * size:,} and {(wrong + 1) * size - 1:,}"
    return [f"{name} was changed{where}."]


def _consistent(archive: zipfile.ZipFile, members: set[str], index: dict[str, Any]) -> list[str]:
    """Return where files that are as they were written contradict each other."""
    problems: list[str] = []
    if manifest.run_id(archive.read("manifest.json")) != index.get("run"):
        problems.append("manifest.json is not the one that the run is named after.")
    seal = archive.read("seal.json")
    if hashing.bytes_hash(seal) != index.get("result"):
        problems.append("seal.json is not the result that the bundle names.")
    problems += _sealed(archive, seal)
    if "review.jsonl" in members:
        problems += _chain(archive.read("review.jsonl"), str(index.get("review_head", "")))
    decision = json.loads(archive.read("decision.json")).get("decision")
    if decision and decision.get("result_hash") != index.get("result"):
        problems.append("The decision was made of another result than the one in this bundle.")
    return problems


def _sealed(archive: zipfile.ZipFile, seal: bytes) -> list[str]:
    """Return whether the table of rows is the one that was sealed when the run was finished."""
    try:
        expected = files.unpack(seal, results.Seal.SCHEMA).files.get(results.TABLE)
    except files.Corrupt as error:
        return [f"seal.json was changed after it was written: {error}"]
    with archive.open("tables/rows.parquet") as member:
        found = files.stream_hash(member)
    return [] if found == expected else ["tables/rows.parquet is not the table that was sealed."]


def _chain(content: bytes, head: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / book.FILE
        path.write_bytes(content)
        try:
            events = AuditLog(path.parent, book.FILE, book.TITLE).events()
        except StoreError as error:
            return [str(error)]
    if head and (not events or events[-1].hash != head):
        return ["review.jsonl does not end with the entry that the bundle names."]
    return []


def _signature(
    archive: zipfile.ZipFile, members: set[str], content: bytes, key: Path | None, problems: list[str]
) -> tuple[str, bool]:
    """Return whose signature stands in the bundle, and whether that is the key that was given."""
    if SIGNATURE not in members or PUBLIC_KEY not in members:
        if key is not None:
            problems.append("The bundle has no signature, and one by a given key was asked for.")
        return "", False
    own = _read(archive, PUBLIC_KEY, problems)
    try:
        public = pem.load_pem_public_key(own)
        if not isinstance(public, Ed25519PublicKey):
            raise ValueError("it is no Ed25519 key")
        public.verify(base64.b64decode(_read(archive, SIGNATURE, problems)), content)
    except (InvalidSignature, ValueError, EngineError) as error:
        problems.append(f"The signature does not fit {SUMS}{f': {error}' if str(error) else ''}.")
        return "", False
    if key is None:
        return _fingerprint(own), False
    is_same = _fingerprint(_normal(key)) == _fingerprint(own)
    if not is_same:
        problems.append("The bundle was signed with another key than the one given.")
    return _fingerprint(own), is_same


def _normal(path: Path) -> bytes:
    try:
        public = pem.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path.name} is no PEM file of a public key.") from error
    return public.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)


def _fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
