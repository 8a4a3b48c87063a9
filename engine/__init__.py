"""Faultline's engine: datapaths, their comparison and their proof. Importing it imports no torch."""

import os

# OpenMP threads that spin while they wait slow torch down twentyfold as soon as anything else runs on the machine
# (measured: one pair 70 s instead of 3 s). Read when torch is loaded, so it is set here, before anything can load it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from engine.attacks.catalogue import AttackCard, attack, attack_at
from engine.attacks.spec import Attack
from engine.audit.forecast import Forecast, forecast_text
from engine.audit.plan_file import WrongPlan
from engine.audit.summary import ConditionResult, CurvePoint, Decision, ModelResult, Pairing, Rate, Summary
from engine.audit.tiers import TIERS
from engine.audit.watching import RunCard, RunView
from engine.audit.wording import ON_SURVIVORS, condition_name, duration, left_out, run_verdict, status_counts
from engine.auditor import Auditor
from engine.class_names import LACKING
from engine.class_names import handles as class_handles
from engine.class_names import matched as class_places
from engine.class_names import plain as plain_name
from engine.comparison import compare
from engine.errors import BadInput, BadSetting, EngineError, StoreError, UnknownName, Unsupported, WorkFailed
from engine.membership import kept_by
from engine.methods import METHODS, Method, method
from engine.records import (
    SIDES,
    Answer,
    Certificate,
    Certificates,
    ClassDatapaths,
    Comparison,
    Connection,
    Cross,
    Datapath,
    DatasetCard,
    Examination,
    ExaminationRequest,
    Gallery,
    GroupDatapath,
    Groups,
    HeldOut,
    Kinship,
    Link,
    ModelCard,
    Outcome,
    Prediction,
    Restoration,
    Roster,
    RosterRequest,
    Side,
    Site,
    SiteComparison,
    SiteSpan,
)
from engine.records.credibility import CHECKS, LIMITS, Credibility
from engine.records.feature import DOUBTS, Doubt, Responses, Synthesis
from engine.records.imports import DataOrder, Entry, ModelOrder, Taken
from engine.records.intake import INTAKE_CHECKS, IntakeReport, Suspicion
from engine.records.proof import COMPARED, CONTROLS, Control, Direction, Effect, MapResponse, MapSet, Proof
from engine.records.restoration import (
    CHOICES,
    CURVES,
    Accuracy,
    CurveLine,
    Defence,
    FooledRequest,
    Group,
    RestorationCurve,
    SharedSet,
    SiteEffect,
    SiteProfile,
    SmallestSet,
    SmallestSets,
)
from engine.serial import flatten, rebuild
from engine.settings import SettingCard, read_fraction
from engine.settings import written as attack_written
from engine.statistics import Estimate
from engine.version import VERSION

__version__ = VERSION

__all__ = [
    "CHECKS",
    "CHOICES",
    "COMPARED",
    "CONTROLS",
    "CURVES",
    "DOUBTS",
    "INTAKE_CHECKS",
    "LACKING",
    "LIMITS",
    "METHODS",
    "ON_SURVIVORS",
    "SIDES",
    "TIERS",
    "Accuracy",
    "Answer",
    "Attack",
    "AttackCard",
    "Auditor",
    "BadInput",
    "BadSetting",
    "Certificate",
    "Certificates",
    "ClassDatapaths",
    "Comparison",
    "ConditionResult",
    "Connection",
    "Control",
    "Credibility",
    "Cross",
    "CurveLine",
    "CurvePoint",
    "DataOrder",
    "Datapath",
    "DatasetCard",
    "Decision",
    "Defence",
    "Direction",
    "Doubt",
    "Effect",
    "EngineError",
    "Entry",
    "Estimate",
    "Examination",
    "ExaminationRequest",
    "FooledRequest",
    "Forecast",
    "Gallery",
    "Group",
    "GroupDatapath",
    "Groups",
    "HeldOut",
    "IntakeReport",
    "Kinship",
    "Link",
    "MapResponse",
    "MapSet",
    "Method",
    "ModelCard",
    "ModelOrder",
    "ModelResult",
    "Outcome",
    "Pairing",
    "Prediction",
    "Proof",
    "Rate",
    "Responses",
    "Restoration",
    "RestorationCurve",
    "Roster",
    "RosterRequest",
    "RunCard",
    "RunView",
    "SettingCard",
    "SharedSet",
    "Side",
    "Site",
    "SiteComparison",
    "SiteEffect",
    "SiteProfile",
    "SiteSpan",
    "SmallestSet",
    "SmallestSets",
    "StoreError",
    "Summary",
    "Suspicion",
    "Synthesis",
    "Taken",
    "UnknownName",
    "Unsupported",
    "WorkFailed",
    "WrongPlan",
    "attack",
    "attack_at",
    "attack_written",
    "class_handles",
    "class_places",
    "compare",
    "condition_name",
    "duration",
    "flatten",
    "forecast_text",
    "kept_by",
    "left_out",
    "method",
    "plain_name",
    "read_fraction",
    "rebuild",
    "run_verdict",
    "status_counts",
]
