"""The nouns of a review: declared facts, findings with their evidence, the decision. Frozen, no torch."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args

from engine import serialization
from engine.errors import BadInput, StoreError

LONGEST_TEXT: Final = 100_000
"""Letters of a text."""
LONGEST_LINE: Final = 300
"""Letters of a title, a name or a short field."""

Severity = Literal["critical", "high", "medium", "low", "note"]
FindingStatus = Literal["open", "mitigated", "accepted", "closed"]
Outcome = Literal["approve", "approve with conditions", "reject"]
ReviewState = Literal["draft", "in review", "decided", "superseded"]
NOT_STATED: Final = "not stated"
"""Stands where a declared fact is empty."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a finding rests on, as it was when the finding was written."""

    link: str = ""
    """Query of the view, such as `page=audits&run=…`."""
    claim: str = ""
    """The sentence that the view showed, with its controls."""
    numbers: tuple[tuple[str, str], ...] = ()
    """What stood beside it, as shown: name and value."""
    result_hash: str = ""
    """Of the run's sealed result; set by the book."""


@dataclass(frozen=True, slots=True)
class FindingDraft:
    """What somebody says of a run. Raises BadInput for what is empty or too long."""

    title: str
    severity: Severity
    text: str = ""
    """Markdown, shown as text."""
    status: FindingStatus = "open"
    assigned: str = ""
    due: str = ""
    """A date, YYYY-MM-DD, or empty."""
    evidence: Evidence = Evidence()

    def __post_init__(self) -> None:
        require_line("title", self.title, is_needed=True)
        _require_text("text", self.text)
        _require_choice("severity", self.severity, get_args(Severity))
        _require_choice("status", self.status, get_args(FindingStatus))
        require_line("assigned", self.assigned)
        _require_date("due", self.due)
        require_line("link", self.evidence.link, longest=4096)
        _require_text("claim", self.evidence.claim)


@dataclass(frozen=True, slots=True)
class Facts:
    """What an organisation declares and nothing here can verify. Every field is text; an empty one is not stated."""

    purpose: str = ""
    out_of_scope: str = ""
    deployment: str = ""
    input_domain: str = ""
    consequence_of_error: str = ""
    human_oversight: str = ""
    training_data: str = ""
    licences: str = ""
    organisation: str = ""
    predecessor: str = ""
    attacker_goal: str = ""
    attacker_knowledge: str = ""
    attacker_capability: str = ""
    attack_stage: str = ""
    reason_for_metrics: str = ""
    reason_for_strengths: str = ""
    mitigations: str = ""
    triggers_for_a_new_test: str = ""

    def __post_init__(self) -> None:
        for one in fields(self):
            _require_text(one.name.replace("_", " "), getattr(self, one.name))


FACT_TITLES: Final = {
    "organisation": "Organisation that is responsible",
    "predecessor": "Model that this one follows",
    "purpose": "Intended purpose",
    "out_of_scope": "Uses that are excluded",
    "deployment": "Conditions of deployment",
    "input_domain": "Input domain: sensor, size, range",
    "consequence_of_error": "Consequence of a wrong answer",
    "human_oversight": "Human oversight",
    "training_data": "Training data",
    "licences": "Licences and third parties",
    "attack_stage": "Threat model, stage of learning (NIST AI 100-2)",
    "attacker_goal": "Threat model, attacker's goal",
    "attacker_knowledge": "Threat model, attacker's knowledge",
    "attacker_capability": "Threat model, attacker's capability",
    "reason_for_metrics": "Why these metrics",
    "reason_for_strengths": "Why these attack strengths",
    "mitigations": "Mitigations that were considered",
    "triggers_for_a_new_test": "What calls for a new test",
}
"""In the order in which they are asked and printed."""


@dataclass(frozen=True, slots=True)
class DecisionDraft:
    """What is decided, and why. Raises BadInput without a reason, and without conditions where it has some."""

    outcome: Outcome
    reason: str
    conditions: str = ""
    valid_until: str = ""
    """A date, YYYY-MM-DD, or empty."""
    supersedes: str = ""
    """Id of the run whose decision this one replaces, or empty."""

    def __post_init__(self) -> None:
        _require_choice("outcome", self.outcome, get_args(Outcome))
        _require_text("reason", self.reason, is_needed=True)
        _require_text("text of the conditions", self.conditions, is_needed=self.outcome == "approve with conditions")
        _require_date("valid until", self.valid_until)
        require_line("supersedes", self.supersedes)


@dataclass(frozen=True, slots=True)
class Signed:
    """Who wrote an entry of the review's log, and when; set by the book, never by whoever writes."""

    who: str
    at: str
    """UTC, ISO 8601."""
    number: int
    """Place in the review's log, from 1."""
    hash: str
    """Of the entry and the hash of the one before."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The latest version of a finding."""

    id: str
    """`F1`, `F2`, ... in the order in which they were first written."""
    version: int
    draft: FindingDraft
    signed: Signed


@dataclass(frozen=True, slots=True)
class Declared:
    """The facts as they were last declared."""

    facts: Facts
    signed: Signed


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision, bound to the run and to what it had on that day."""

    draft: DecisionDraft
    result_hash: str
    """Of the run's sealed result."""
    head: str
    """Hash of the review's last entry before it: everything that lay before whoever decided."""
    signed: Signed


@dataclass(frozen=True, slots=True)
class Look:
    """A view that somebody opened."""

    link: str
    title: str
    signed: Signed


@dataclass(frozen=True, slots=True)
class Review:
    """A run under review, as its log tells it."""

    run: str
    question: str
    opened: Signed
    state: ReviewState
    declared: Declared | None
    findings: tuple[Finding, ...]
    versions: tuple[Finding, ...]
    """Every version of every finding, in the order written."""
    decision: Decided | None
    looks: tuple[Look, ...]
    head: str
    """Hash of the last entry."""


def read(kind: type[Any], value: Any, what: str) -> Any:
    """Return a record from what somebody wrote: lists for tuples, texts, no more fields than there are. Raises BadInput."""
    try:
        return serialization.rebuild(kind, value)
    except StoreError as error:
        raise BadInput(f"The {what} cannot be read: {error}") from error


def require_line(name: str, text: str, *, is_needed: bool = False, longest: int = LONGEST_LINE) -> None:
    """Raise BadInput for a text that is no line of at most `longest` letters."""
    _require_text(name, text, is_needed=is_needed, longest=longest)
    if any(ord(letter) < 32 for letter in text):
        raise BadInput(f"The {name} is one line; it has a line break or another control character.")


def _require_text(name: str, text: str, *, is_needed: bool = False, longest: int = LONGEST_TEXT) -> None:
    if is_needed and not text.strip():
        raise BadInput(f"The {name} is empty; write at least a sentence.")
    if len(text) > longest:
        raise BadInput(f"The {name} has {len(text):,} letters; at most {longest:,} are kept.")


def _require_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadInput(f"The {name} is one of {', '.join(allowed)}; got '{value[:80]}'.")


def _require_date(name: str, text: str) -> None:
    if not text:
        return
    try:
        datetime.date.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"'{text[:40]}' is no date for {name}; write it as 2027-03-31.") from error
