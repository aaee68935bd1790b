"""The keys of a recipe file: pydantic models with the documentation beside each field.

A recipe names the arms that are compared (`Recipe`); everything that must be equal for all arms is the frozen
protocol (`Protocol`), which a scale file supplies. See recipes/load.py for how files are merged.
"""

from recipes.schema.arms import Arm, Controls
from recipes.schema.base import required
from recipes.schema.data import Bench, FilePool, MiniPool
from recipes.schema.evaluation import Evaluation, EvaluationJudge, NotJudged
from recipes.schema.models import Rater, Scorer, SeedModel, Styler
from recipes.schema.recipe import Protocol, Recipe, Resources
from recipes.schema.signals import (
    QUALITY_COLUMNS,
    QUALITY_MODELS,
    QUALITY_PARTS,
    Answered,
    Clustering,
    DrawnSuiteItems,
    Embedding,
    Gradient,
    LlavaItems,
    ModelsQuality,
    Probe,
    SuiteItems,
    published_entries,
)
from recipes.schema.sweep import SweepFile
from recipes.schema.teachers import ApiTeacher, MetadataTeacher, Server

__all__ = [
    "QUALITY_COLUMNS",
    "QUALITY_MODELS",
    "QUALITY_PARTS",
    "Answered",
    "ApiTeacher",
    "Arm",
    "Bench",
    "Clustering",
    "Controls",
    "DrawnSuiteItems",
    "Embedding",
    "Evaluation",
    "EvaluationJudge",
    "FilePool",
    "Gradient",
    "LlavaItems",
    "MetadataTeacher",
    "MiniPool",
    "ModelsQuality",
    "NotJudged",
    "Probe",
    "Protocol",
    "Rater",
    "Recipe",
    "Resources",
    "Scorer",
    "SeedModel",
    "Server",
    "Styler",
    "SuiteItems",
    "SweepFile",
    "published_entries",
    "required",
]
