"""A run in the forms of others: JUnit for pipelines, AI Verify's test result, a model card's fragment, a summary in Markdown."""

from __future__ import annotations

import json
from typing import Any, Final
from xml.etree import ElementTree

import yaml

from engine.audit import report
from engine.audit.summary import Decision, Rate
from engine.hashing import VERSION
from engine.review import sections
from engine.review.content import Subject

AI_VERIFY_GID: Final = "faultline.robustness"
AI_VERIFY_CID: Final = "adversarial_audit"


def junit(subject: Subject) -> bytes:
    """Return the thresholds as JUnit XML: one that fails is a failure, one that is inconclusive too, since a gate must not open."""
    summary = subject.summary
    suite = ElementTree.Element(
        "testsuite", name=_xml(f"Faultline {subject.card.name}"), tests=str(len(summary.thresholds)),
        failures=str(sum(one.outcome != "pass" for one in summary.thresholds)), errors="0", skipped="0",
        timestamp=subject.card.begun[:19], time=f"{subject.card.seconds or 0:.3f}",
    )  # fmt: skip
    for one in summary.thresholds:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(f"{subject.manifest.plan.model}.{one.threshold.condition}"),
            name=_xml(one.threshold.name), time="0",
        )  # fmt: skip
        _, asks, found, outcome, settle = sections.threshold(one)
        if one.outcome == "pass":
            ElementTree.SubElement(case, "system-out").text = _xml(f"{asks}; found {found}")
        else:
            failure = ElementTree.SubElement(case, "failure", type=outcome, message=_xml(f"{asks}; found {found}"))
            failure.text = _xml(settle)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _xml(text: str) -> str:
    """Return a text without the control characters that XML cannot hold."""
    return "".join(letter if letter in "\t\n\r" or ord(letter) >= 32 else "�" for letter in text)


def markdown(subject: Subject) -> str:
    """Return the run in a few lines of Markdown, for the page of a pipeline."""
    lines = [
        f"## {_plain(subject.card.name)}: {report.run_verdict(subject.summary)}",
        "",
        f"| {' | '.join(sections.THRESHOLD_HEADS)} |",
        f"|{' --- |' * len(sections.THRESHOLD_HEADS)}",
        *(f"| {' | '.join(map(_plain, row))} |" for row in sections.threshold_rows(subject.summary)),
        "",
        "| Condition | Accuracy, 95 % Clopper-Pearson | How the images ended |",
        "| --- | --- | --- |",
        *(
            f"| {_plain(report.condition_name(one))} | {sections.rate_text(one.accuracy)} | {report.status_counts(one)} |"
            for one in sections.every(subject.summary.models[0])
        ),
        "",
        f"{_plain(sections.takes_hold(subject))} Run `{subject.card.run}`, result `{subject.seal}`.",
    ]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Return a text that stays one in Markdown: no cell, no markup, no line of its own."""
    for letter in "\\`*_{}[]<>|#":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split())


def ai_verify(subject: Subject) -> dict[str, Any]:
    """Return a test result as AI Verify's `aiverify.testresult.schema.json` wants it; the output is ours."""
    manifest, candidate = subject.manifest, subject.summary.models[0]
    arguments = {
        "testDataset": f"urn:faultline:data:{manifest.images.content_hash}",
        "mode": "upload",
        "modelType": "classification",
        "modelFile": f"urn:faultline:weights:{manifest.models[0].weights_hash}",
        "groundTruthDataset": f"urn:faultline:data:{manifest.images.content_hash}",
        "groundTruth": "label",
        "algorithmArgs": {"run": subject.card.run, "tier": manifest.plan.tier, "seed": manifest.plan.seed},
    }
    output = {
        "verdict": report.run_verdict(subject.summary),
        "conditions": [
            {"name": one.name, "kind": one.kind, **_rate(one.accuracy)} for one in sections.every(candidate)
        ],
        "thresholds": [_decision(one) for one in subject.summary.thresholds],
    }
    return {
        "gid": AI_VERIFY_GID, "cid": AI_VERIFY_CID, "version": VERSION, "start_time": _moment(subject.card.begun),
        "time_taken": float(subject.card.seconds or 0.0), "test_arguments": arguments, "output": output,
        "artifacts": ["report.html"],
    }  # fmt: skip


def _moment(at: str) -> str:
    return at if at.endswith(("Z", "+00:00")) else f"{at}+00:00"


def _rate(rate: Rate) -> dict[str, Any]:
    return {"n": rate.n, "accuracy": rate.value, "low": rate.low, "high": rate.high}


def _decision(one: Decision) -> dict[str, Any]:
    return {
        "name": one.threshold.name, "condition": one.threshold.condition, "metric": one.threshold.metric,
        "at_least": one.threshold.at_least, "outcome": one.outcome, "n": one.n, "value": one.value,
        "low": one.low, "high": one.high,
    }  # fmt: skip


def model_card(subject: Subject) -> str:
    """Return the fragment of a model card: YAML in the shape of Hugging Face's `model-index`, then a paragraph."""
    manifest, candidate = subject.manifest, subject.summary.models[0]
    metrics = [
        {
            "type": "accuracy", "name": f"accuracy under {one.name}", "value": one.accuracy.value,
            "args": {"n": one.accuracy.n, "low": one.accuracy.low, "high": one.accuracy.high},
        }
        for one in sections.every(candidate)
        if one.accuracy.value is not None
    ]  # fmt: skip
    dataset = {"type": "private", "name": manifest.images.data, "revision": manifest.images.content_hash}
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": dataset,
        "metrics": metrics,
        "source": {"name": f"Faultline run {subject.card.run}", "url": f"urn:faultline:run:{subject.card.run}"},
    }
    head = yaml.safe_dump(
        {"model-index": [{"name": manifest.models[0].name, "results": [result]}]}, sort_keys=False, allow_unicode=True
    )
    return f"---\n{head}---\n\n## Adversarial robustness\n\n{_plain(sections.takes_hold(subject))}\n"


def as_bytes(value: Any) -> bytes:
    """Return JSON as it is written into a bundle."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
