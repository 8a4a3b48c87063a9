"""JSON Schemas (draft 2020-12) of every JSON file in a bundle, read off the records themselves."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from engine import hashing
from engine.review.records import Decided, Declared, Finding

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
TEXT: Final = {"type": "string"}
SHARE: Final = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
COUNT: Final = {"type": "integer", "minimum": 0}


def all_of() -> dict[str, dict[str, Any]]:
    """Return a schema by the name of its file."""
    return {
        "declared.schema.json": _document("facts/1", "declared", _or_none(of(Declared))),
        "findings.schema.json": _document("finding/1", "versions", {"type": "array", "items": of(Finding)}),
        "decision.schema.json": _document("decision/1", "decision", _or_none(of(Decided))),
        "bundle.schema.json": _index(),
        "aiverify.schema.json": _ai_verify(),
    }


def of(kind: Any) -> dict[str, Any]:
    """Return the schema of a record as `engine.serialization` writes it."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        own = {hashing.stored_name(field): of(hints[field.name]) for field in dataclasses.fields(kind)}
        return {"type": "object", "properties": own, "required": list(own), "additionalProperties": False}
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple and inner[-1] is Ellipsis:
        return {"type": "array", "items": of(inner[0])}
    if origin is tuple:
        return {
            "type": "array",
            "prefixItems": [of(one) for one in inner],
            "minItems": len(inner),
            "maxItems": len(inner),
        }
    if origin in (Union, types.UnionType):
        return {"anyOf": [of(one) for one in inner]}
    return {"type": {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}[kind]}


def _document(schema: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    own = {"schema": {"const": schema}, name: body}
    return {
        "$schema": DIALECT,
        "type": "object",
        "properties": own,
        "required": list(own),
        "additionalProperties": False,
    }


def _or_none(body: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [body, {"type": "null"}]}


def _index() -> dict[str, Any]:
    own = {
        "schema": {"const": "bundle/1"}, "run": TEXT, "result": TEXT, "log_head": TEXT, "review_head": TEXT,
        "versions": {"type": "object", "additionalProperties": TEXT}, "piece": COUNT,
        "pieces": {"type": "object", "additionalProperties": {"type": "array", "items": TEXT}},
    }  # fmt: skip
    return {
        "$schema": DIALECT,
        "type": "object",
        "properties": own,
        "required": list(own),
        "additionalProperties": False,
    }


def _ai_verify() -> dict[str, Any]:
    condition = {"name": TEXT, "kind": TEXT, "n": COUNT, "accuracy": SHARE, "low": SHARE, "high": SHARE}
    decision = {
        "name": TEXT, "condition": TEXT, "metric": TEXT, "at_least": SHARE,
        "outcome": {"enum": ["pass", "fail", "inconclusive"]}, "n": COUNT, "value": SHARE, "low": SHARE, "high": SHARE,
    }  # fmt: skip
    output = {
        "verdict": TEXT,
        "conditions": {
            "type": "array",
            "items": {"type": "object", "properties": condition, "required": list(condition)},
        },
        "thresholds": {
            "type": "array",
            "items": {"type": "object", "properties": decision, "required": list(decision)},
        },
    }
    own = {
        "gid": TEXT, "cid": TEXT, "version": TEXT, "start_time": {"type": "string", "format": "date-time"},
        "time_taken": {"type": "number"}, "test_arguments": {"type": "object"},
        "output": {"type": "object", "properties": output, "required": list(output)},
        "artifacts": {"type": "array", "items": TEXT},
    }  # fmt: skip
    return {"$schema": DIALECT, "type": "object", "properties": own, "required": list(own)}
