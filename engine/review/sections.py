"""The sections of a report, in words and figures: each is a function from what the report is made of to its blocks.

The outline follows what the AI Act (Annex IV, Article 15), ISO/IEC 24029, NIST AI 100-2 and AI Verify ask for; `serves` names it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from engine import statistics
from engine.audit import report, tiers
from engine.audit.inside import SIGNIFICANT
from engine.audit.manifest import CANDIDATE
from engine.audit.plan import METRIC_TITLES
from engine.audit.summary import FEW, ConditionResult, Decision, ModelResult, Rate, Summary, of_clean
from engine.review.content import (
    Bar,
    Bars,
    Block,
    Pairs,
    Section,
    Subject,
    Table,
    Text,
)
from engine.review.records import FACT_TITLES, NOT_STATED, Facts, Review
from engine.types.checks import CHECKS, LIMITS, VALIDATION_CHECKS, Check, CheckResult

MOST_CLASSES: Final = 40
"""Classes that are printed one by one: of more, those with the lowest accuracy in the worst case."""
MOST_MAPS: Final = 12
MOST_CONFUSIONS: Final = 12
MOST_MORE: Final = 1_000_000
"""Images above which an inconclusive threshold is not said to be settled by more."""
LIMITS_OF_WHERE: Final = (
    "Attack conductance says where a change passes, not that undoing it restores the label; that is what the causal test says, "
    "against random feature maps of the same layers. Sums by feature map are means over images and describe no single one."
)
NOT_TESTED: Final = (
    "Adaptive attacks against a stated defence, attacks on the training (poisoning), on privacy, and physical attacks.",
    "Certified (formal) robustness: nothing here is a provable bound.",
    "Inputs that are unlike the audited images.",
)


def written(subject: Subject) -> tuple[Section, ...]:
    """Return the report, section by section."""
    return (
        Section("0", "Cover and decision", "AI Act Annex IV 2(g); AI Verify cover", tuple(_cover(subject))),
        Section("1", "Summary", "AI Verify summary; AI Act Art. 15", tuple(_summary(subject))),
        Section("2", "System and use", "AI Act Annex IV 1, 3; model card", tuple(_use(subject))),
        Section("3", "Object under test", "AI Act Annex IV 2(a) to (c); AI Verify 3.1.1", tuple(_object(subject))),
        Section("4", "Threat model and expected behaviour", "ISO/IEC DIS 24029-3; NIST AI 100-2", tuple(_threats(subject))),
        Section("5", "Test data", "AI Act Annex IV 2(g); ISO/IEC DIS 24029-3", tuple(_data(subject))),
        Section("6", "Methods and their sanity checks", "ISO/IEC TR 24029-1, 5 and 7", tuple(_methods(subject))),
        Section("7", "Results", "ISO/IEC DIS 24029-3; AI Act Art. 15", tuple(_results(subject))),
        Section("8", "Where attacks take hold", "AI Act Annex IV 2(b), 2(e); Art. 13, 14", tuple(_where(subject))),
        Section("9", "Formal statements", "ISO/IEC 24029-2", (Text("None: no provable bound was computed.", "note"),)),
        Section("10", "Findings", "AI Act Art. 9", tuple(_findings(subject))),
        Section("11", "Mitigations considered", "AI Verify 6.5.1 to 6.5.3", tuple(_declared(subject, ("mitigations",)))),
        Section("12", "Change and monitoring", "AI Act Annex IV 2(f), 6", tuple(_change(subject))),
        Section("13", "Reproducibility", "AI Act Annex IV 2(g) logs; AI Verify 3.7 to 3.12", tuple(_again(subject))),
        Section("A", "Clause map", "all", (CLAUSES,)),
    )  # fmt: skip


def rate_text(rate: Rate) -> str:
    """Return a share with its interval and n."""
    if rate.value is None or rate.low is None or rate.high is None:
        return "no images"
    return f"{percent(rate.value)} [{percent(rate.low)}, {percent(rate.high)}], n = {rate.n:,}"


def percent(share: float) -> str:
    """Return a share in percent with one decimal."""
    return f"{100 * share:.1f} %"


def more_images(decision: Decision) -> int | None:
    """Return how many images would settle an inconclusive threshold if the share stayed as it is; None for none or too many."""
    asked = decision.threshold
    if decision.outcome != "inconclusive" or decision.value is None:
        return None
    n = max(decision.n, 1)
    while n <= MOST_MORE:
        if statistics.decide(round(decision.value * n), n, asked.at_least, asked.confidence) != "inconclusive":
            return n
        n = math.ceil(n * 1.05) + 1
    return None


def threshold_rows(summary: Summary) -> tuple[tuple[str, ...], ...]:
    """Return each threshold: what it asks, what was found, the outcome, and what would settle it."""
    return tuple(threshold(one) for one in summary.thresholds)


THRESHOLD_HEADS: Final = ("Threshold", "Asks", "Found (Clopper-Pearson)", "Outcome", "What would settle it")


def threshold(one: Decision) -> tuple[str, ...]:
    """Return one row of that table."""
    asked = one.threshold
    where = f"{asked.condition}{f', class {asked.label}' if asked.label else ''}"
    found = "no images" if one.value is None else rate_text(Rate(one.n, one.value, one.low, one.high))
    more = more_images(one)
    settle = f"about {more:,} images, if the share stays" if more else one.reason
    return (
        asked.name,
        f"{METRIC_TITLES[asked.metric]} under {where} at least {percent(asked.at_least)}, {100 * asked.confidence:g} % confidence",
        found,
        one.outcome,
        settle or "–",
    )


def _cover(subject: Subject) -> Iterator[Block]:
    candidate, review, facts = subject.manifest.model(CANDIDATE), subject.review, _facts(subject)
    yield Pairs((
        ("Model", f"{candidate.name} ({candidate.architecture})"),
        ("Run", f"{subject.card.name}, {subject.card.run}"),
        ("Tested", f"{_moment(subject.card.begun)} by {subject.card.author or NOT_STATED}"),
        ("Result (hash)", subject.seal),
        ("Faultline", dict(subject.manifest.versions).get("faultline", "")),
    ))  # fmt: skip
    yield Pairs(
        (("Organisation", facts.organisation or NOT_STATED), ("Predecessor", facts.predecessor or NOT_STATED)), True
    )
    if review is None:
        yield Text(
            "Nobody has opened a review of this run, so there are no findings and there is no decision.", "warning"
        )
        return
    yield Pairs(_decision(review))
    yield from (Text(f"The evidence is stale. {sentence}", "warning") for sentence in subject.stale)


def _decision(review: Review) -> tuple[tuple[str, str], ...]:
    opened = ("Review opened", f"{_moment(review.opened.at)} by {review.opened.who}")
    if review.decision is None:
        return opened, ("State", review.state), ("Decision", "none yet")
    draft, signed = review.decision.draft, review.decision.signed
    return (
        opened,
        ("State", review.state),
        ("Decision", draft.outcome.upper()),
        ("Decided", f"{_moment(signed.at)} by {signed.who}"),
        ("Reason", draft.reason),
        ("Conditions", draft.conditions or "none"),
        ("Valid until", draft.valid_until or NOT_STATED),
        ("Supersedes", draft.supersedes or "none"),
        ("Signature", "______________________________"),
    )


def _summary(subject: Subject) -> Iterator[Block]:
    summary, candidate = subject.summary, subject.summary.models[0]
    yield Text(report.run_verdict(summary).capitalize(), "quote")
    if subject.review:
        yield Text(f"Question: {subject.review.question}")
    yield _tier(subject)
    if summary.thresholds:
        yield Table("Thresholds, agreed before the run", THRESHOLD_HEADS, threshold_rows(summary))
    clean, worst = of_clean(candidate), candidate.worst_case
    yield Pairs(tuple(_headline(clean, worst)))
    yield from _pairings(summary)
    yield Text(takes_hold(subject))
    open_ = [own for own in subject.review.findings if own.draft.status == "open"] if subject.review else []
    first = "; ".join(f"{own.id} {own.draft.title} ({own.draft.severity})" for own in open_[:3])
    yield Text(f"Open findings: {len(open_)}{f' ({first})' if first else ''}.")
    yield Text(f"Not tested: {' '.join(NOT_TESTED)}", "note")


def _tier(subject: Subject) -> Text:
    tier = subject.manifest.plan.tier
    if tier not in tiers.TIERS:
        return Text("The attacks were chosen for this audit; how much it is worth depends on them.", "note")
    if tiers.TIERS[tier].is_evidence:
        return Text(f"Tier '{tier}'.", "note")
    return Text(f"Tier '{tier}': screening only, no evidence for an approval.", "warning")


def _headline(clean: ConditionResult | None, worst: ConditionResult | None) -> Iterator[tuple[str, str]]:
    if clean is not None:
        yield "Accuracy without attack", rate_text(clean.accuracy)
    if worst is not None:
        yield "Worst case per image over all attacks", rate_text(worst.accuracy)
        if clean is not None and clean.accuracy.value is not None and worst.accuracy.value is not None:
            yield "Drop", f"{100 * (clean.accuracy.value - worst.accuracy.value):.1f} points"


def _pairings(summary: Summary) -> Iterator[Block]:
    rows = tuple(
        (
            one.name, f"{100 * one.difference:+.1f} points [{100 * one.low:+.1f}, {100 * one.high:+.1f}]", f"{one.n:,}",
            f"{one.only_candidate:,} / {one.only_baseline:,}", f"{one.p_holm:.2g}",
        )
        for one in summary.pairings
    )  # fmt: skip
    if rows:
        heads = ("Condition", "Candidate minus baseline, 95 %", "Images", "Right in one alone", "McNemar p (Holm)")
        yield Table("Candidate against baseline, on the same images", heads, rows, (2,))


def takes_hold(subject: Subject) -> str:
    """Return where attacks take hold over all fooled images, or why it is not known, as sentences."""
    inside = subject.inside
    if inside is None or not inside.maps:
        return f"Where attacks take hold is not known. {subject.missing_inside or 'No image was fooled.'}"
    several = f" (one counts once for each of {len(inside.attacks)} attacks)" if len(inside.attacks) > 1 else ""
    first, above = inside.maps[0], sum(one.is_above_noise for one in inside.maps)
    noise = (
        "no noise control was run"
        if first.noise is None
        else f"it under noise of the same size: {first.noise.value:.1f}"
    )
    return (
        f"Over {inside.n:,} fooled images{several}, feature map {first.channel} of {first.layer} carries most of the attack: "
        f"{first.flow.value:.1f} times [{first.flow.low:.1f}, {first.flow.high:.1f}] what an average one of the network carries "
        f"(an average one of its own layer: {first.layer_mean:.1f}; {noise}). Of the {len(inside.maps)} that carry most, {above} "
        f"carry more than under noise (Welch, Holm, p < {SIGNIFICANT}). This describes where the change passes and is no causal "
        "test."
    )


def _use(subject: Subject) -> Iterator[Block]:
    yield from _declared(
        subject,
        ("purpose", "out_of_scope", "deployment", "input_domain", "consequence_of_error", "human_oversight"),
    )


def _facts(subject: Subject) -> Facts:
    declared = subject.review.declared if subject.review else None
    return declared.facts if declared else Facts()


def _declared(subject: Subject, names: Sequence[str]) -> Iterator[Block]:
    facts = _facts(subject)
    yield Pairs(tuple((FACT_TITLES[name], getattr(facts, name).strip() or NOT_STATED) for name in names), True)


def _object(subject: Subject) -> Iterator[Block]:
    for model in subject.manifest.models:
        height, width = model.size
        yield Pairs((
            (model.role.capitalize(), model.name), ("Architecture", model.architecture),
            ("Parameters", f"{model.parameters:,}"), ("Hash of the model", model.content_hash),
            ("Hash of the weights", model.weights_hash), ("Input", f"{model.channels} x {height} x {width}"),
            ("Mean, standard deviation", f"{_list(model.mean)}; {_list(model.std)}"),
            ("Layers with feature maps", f"{len(model.sites)} with {model.maps:,} feature maps"),
        ))  # fmt: skip
    yield Pairs((("Classes", f"{len(subject.manifest.classes):,}"),))
    yield from _declared(subject, ("training_data", "licences"))
    if subject.validation is None:
        yield Text("No validation report of the candidate is stored.", "warning")
    else:
        yield _checks("Validation report", VALIDATION_CHECKS, subject.validation.results)


def _checks(title: str, known: Sequence[Check], found: Sequence[CheckResult]) -> Table:
    titles = {check.name: check.title for check in known}
    rows = tuple((one.check, titles.get(one.check, one.check), one.outcome, one.sentence) for one in found)
    return Table(title, ("Check", "Asks", "Outcome", "What was found"), rows)


def _threats(subject: Subject) -> Iterator[Block]:
    yield from _declared(
        subject,
        (
            "attack_stage", "attacker_goal", "attacker_knowledge", "attacker_capability", "reason_for_metrics",
            "reason_for_strengths",
        ),
    )  # fmt: skip
    plan = subject.manifest.plan
    yield Text(
        "Attacks know the network and its gradients (white box) unless their row says otherwise; each image is stored with 8 bits "
        f"and judged as stored. The thresholds are part of the run's id, so they were agreed before {_moment(subject.card.begun)}."
    )
    if not plan.thresholds:
        yield Text("No thresholds were agreed, so this run decides nothing.", "warning")


def _data(subject: Subject) -> Iterator[Block]:
    images, plan = subject.manifest.images, subject.manifest.plan
    yield Pairs((
        ("Data set", images.data), ("Hash", images.content_hash), ("Images", f"{len(images.samples):,}"),
        ("Drawn with seed", str(plan.images.seed)), ("Classes with images", f"{len(set(images.labels)):,}"),
    ))  # fmt: skip
    few = sum(images.labels.count(label) < FEW for label in set(images.labels))
    if few:
        yield Text(f"{few} classes have fewer than {FEW} images; their shares are printed and never ranked.", "note")


def _methods(subject: Subject) -> Iterator[Block]:
    own = [one for one in subject.manifest.of(CANDIDATE) if one.kind != "clean"]
    rows = tuple((one.kind, one.name, "in the cascade" if one.after else "on every image") for one in own)
    heads = ("Kind", "Condition, with every setting", "Images")
    yield Table(
        "Attacks, noise controls and precomputed images",
        heads,
        rows,
        note=f"Seed of the run: {subject.manifest.plan.seed}.",
    )
    left = report.left_out(subject.manifest.plan.tier, len(subject.manifest.classes))
    if left:
        yield Text(left, "warning")
    doubts = [f"{one.name}: {doubt}" for one in every(subject.summary.models[0]) for doubt in one.doubts]
    yield from (Text(doubt, "warning") for doubt in doubts)
    if subject.sanity is None:
        yield Text("The attack sanity checks were not run; open the run's page to run them.", "warning")
        return
    yield _checks(f"Attack sanity checks, {subject.sanity.images} images", CHECKS, subject.sanity.results)
    yield Text(LIMITS, "note")


def every(model: ModelResult) -> tuple[ConditionResult, ...]:
    """Return the conditions of a model, the worst case last."""
    return (*model.conditions, *([model.worst_case] if model.worst_case else []))


def _results(subject: Subject) -> Iterator[Block]:
    for model in subject.summary.models:
        rows = tuple(
            Bar(report.condition_name(one), one.accuracy.value, one.accuracy.low, one.accuracy.high,
                f"{rate_text(one.accuracy)} · {report.status_counts(one)}", one.kind == "control")
            for one in every(model)
        )  # fmt: skip
        note = "Share of all images that are answered right, with 95 % Clopper-Pearson intervals. Grey: noise controls."
        yield Bars(f"{model.model} ({model.role})", rows, note)
        if not model.is_monotone:
            yield Text("Accuracy rises with epsilon beyond its intervals: gradients may be masked.", "warning")
        yield from _curve(model)
    candidate = subject.summary.models[0]
    yield from _by_class(candidate)
    yield from _confusion(candidate)


def _curve(model: ModelResult) -> Iterator[Block]:
    if not model.curve:
        return
    rows = tuple(
        Bar(f"{point.family} at {point.epsilon:.4g}", point.accuracy.value, point.accuracy.low, point.accuracy.high,
            rate_text(point.accuracy))
        for point in model.curve
    )  # fmt: skip
    yield Bars(f"{model.model}: accuracy as epsilon grows", rows)


def _by_class(model: ModelResult) -> Iterator[Block]:
    worst = model.worst_case or next((one for one in model.conditions if one.kind == "attack"), None)
    clean = of_clean(model)
    if worst is None or clean is None:
        return
    before = {own.name: own.accuracy for own in clean.classes}
    known = [own for own in worst.classes if own.accuracy.n]
    shown = sorted(known, key=lambda own: (own.has_few, own.accuracy.value))[:MOST_CLASSES]
    rows = tuple(
        (
            own.name, rate_text(before[own.name]) if own.name in before else "–", rate_text(own.accuracy),
            "fewer than 30" if own.has_few else "",
        )
        for own in shown
    )  # fmt: skip
    cut = f"The {len(shown)} lowest of {len(known)} classes. " if len(shown) < len(known) else ""
    heads = ("True class", "Without attack", f"Under {worst.name}", "Images")
    yield Table(
        "By class, the lowest first", heads, rows, note=f"{cut}Classes with fewer than {FEW} images are not ranked."
    )


def _confusion(model: ModelResult) -> Iterator[Block]:
    worst = model.worst_case or next((one for one in model.conditions if one.kind == "attack"), None)
    if worst is None or not worst.confusion:
        return
    rows = tuple((flow.true, flow.into, f"{flow.images:,}") for flow in worst.confusion[:MOST_CONFUSIONS])
    shown = f"The {len(rows)} largest of {len(worst.confusion)} pairs." if len(rows) < len(worst.confusion) else ""
    yield Table(f"True class and answer under {worst.name}", ("True class", "Answer", "Images"), rows, (2,), shown)


def _where(subject: Subject) -> Iterator[Block]:
    inside = subject.inside
    yield Text(takes_hold(subject), "quote")
    if inside is None or not inside.layers:
        return
    largest = max((abs(layer.flow) for layer in inside.layers), default=0.0) or 1.0
    rows = tuple(
        Bar(layer.layer, max(0.0, layer.flow) / largest, None, None,
            f"{percent(layer.flow)}{'' if layer.noise_flow is None else f', noise {percent(layer.noise_flow)}'}")
        for layer in inside.layers
    )  # fmt: skip
    counted = f"Over {inside.n:,} fooled images; noise over {inside.noise_n:,}, clean over {inside.clean_n:,}."
    yield Bars("Net attack conductance by layer, the largest as a full bar", rows, counted)
    maps = tuple(
        (
            f"{one.layer} · {one.channel}", f"{one.flow.value:.2f} [{one.flow.low:.2f}, {one.flow.high:.2f}]",
            f"{one.layer_mean:.2f}", "–" if one.noise is None else f"{one.noise.value:.2f}",
            "–" if one.p_value is None else f"{one.p_value:.2g}",
        )
        for one in inside.maps[:MOST_MAPS]
    )  # fmt: skip
    heads = ("Feature map", "Conductance (t, 95 %)", "Mean of its layer", "Under noise", "p above noise (Welch, Holm)")
    yield Table(
        f"The {len(maps)} of {inside.tested:,} feature maps that carry most", heads, maps, note="1 is an average map."
    )
    yield Text(LIMITS_OF_WHERE, "note")


def _findings(subject: Subject) -> Iterator[Block]:
    if subject.review is None or not subject.review.findings:
        yield Text("None was written.", "note")
        return
    heads = ("Id", "Severity", "Title", "Status", "Assigned", "Due", "Written")
    rows = tuple(
        (
            one.id, one.draft.severity, one.draft.title, one.draft.status, one.draft.assigned or "nobody",
            one.draft.due or "–", f"{one.signed.who}, {_moment(one.signed.at)}, version {one.version}",
        )
        for one in subject.review.findings
    )  # fmt: skip
    yield Table("Findings", heads, rows)
    for one in subject.review.findings:
        yield Text(f"{one.id}: {one.draft.text or one.draft.title}")
        evidence = one.draft.evidence
        if evidence.claim:
            yield Text(evidence.claim, "quote")
        if evidence.numbers or evidence.link:
            yield Pairs((*evidence.numbers, *([("View", evidence.link)] if evidence.link else [])))


def _change(subject: Subject) -> Iterator[Block]:
    yield from _declared(subject, ("triggers_for_a_new_test",))
    if not subject.stale:
        yield Text("When this report was made, model, data and software were those of the run.", "note")
    yield from (Text(sentence, "warning") for sentence in subject.stale)


def _again(subject: Subject) -> Iterator[Block]:
    versions = ", ".join(f"{name} {version}" for name, version in subject.manifest.versions if version)
    head = subject.review.head if subject.review else "no review"
    yield Pairs((
        ("Run id (hash of the manifest)", subject.card.run), ("Result (hash of the seal)", subject.seal),
        ("Head of the review's log", head), ("Versions", versions), ("Precision", subject.manifest.dtype),
        ("Repeat a part of it", f"python -m engine verify {subject.card.run[:12]} --store STORE"),
    ))  # fmt: skip
    if subject.review and subject.review.looks:
        rows = tuple((one.signed.who, one.title or one.link, _moment(one.signed.at)) for one in subject.review.looks)
        yield Table("What was looked at", ("Who", "View", "When (UTC)"), rows)


def _moment(at: str) -> str:
    return f"{at[:10]} {at[11:16]} UTC" if len(at) >= 16 else at or NOT_STATED


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


CLAUSES: Final = Table(
    "Clause, section and file",
    ("Source", "Asks for", "Section", "File of the bundle"),
    (
        ("AI Act Annex IV 1, 3", "Purpose, deployment, limits", "2", "declared.json"),
        ("AI Act Annex IV 2(a) to (c)", "Design, architecture, data", "3, 5", "manifest.json"),
        ("AI Act Annex IV 2(g)", "Testing, metrics, dated and signed logs", "0, 4 to 7, 13", "tables/, review.jsonl"),
        ("AI Act Annex IV 4", "Why the metrics are appropriate", "4", "declared.json"),
        ("AI Act Art. 13, 14", "Interpretation of the output", "8", "tables/maps.csv"),
        ("AI Act Art. 15(5)", "Resilience against adversarial examples", "6, 7", "tables/conditions.csv"),
        ("ISO/IEC TR 24029-1, 5 and 7", "Statistical and empirical methods", "6, 7", "tables/images.csv"),
        ("ISO/IEC 24029-2", "Formal methods", "9 (none)", "–"),
        ("ISO/IEC DIS 24029-3", "Expected behaviour, performance drop", "4, 7", "tables/thresholds.csv"),
        ("NIST AI 100-2", "Stage, goal, knowledge, capability", "4", "declared.json"),
        ("OWASP AISVS 11.2", "Adversarial robustness is tested", "6, 7", "junit.xml"),
        ("AI Verify 3.1.1 to 3.12.1", "Traceability, reproducibility", "3, 13", "SHA256SUMS"),
        ("AI Verify 6.1.1 to 6.5.3", "Robustness", "6, 7, 11", "aiverify.json"),
    ),
)
