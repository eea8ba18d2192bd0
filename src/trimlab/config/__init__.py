"""params.yaml as one strict, frozen model: known keys, values in range, references that resolve.

It imports pydantic and YAML alone, because every stage reads its params before it imports anything heavy.
"""

from trimlab.config.choices import matching
from trimlab.config.reading import cell, load, schema, whole
from trimlab.config.sections import (
    RUNTIMES,
    Benchmark,
    ColorJitter,
    Data,
    DatasetSource,
    Evaluated,
    Importance,
    LowResolution,
    Normalisation,
    PruningPoint,
    PruningSettings,
    Quantity,
    Quantization,
    QuantizationAwareTraining,
    RandomResizedCrop,
    Recipe,
    Report,
    Resize,
    Rounding,
    Runtime,
    Section,
    Target,
    TrainingPrecision,
    Variant,
    runtimes,
)
from trimlab.config.study import Params, PruningKeys
from trimlab.config.workload import LIBRARIES, OWN_MODELS, Workload

__all__ = [
    "LIBRARIES",
    "OWN_MODELS",
    "RUNTIMES",
    "Benchmark",
    "ColorJitter",
    "Data",
    "DatasetSource",
    "Evaluated",
    "Importance",
    "LowResolution",
    "Normalisation",
    "Params",
    "PruningKeys",
    "PruningPoint",
    "PruningSettings",
    "Quantity",
    "Quantization",
    "QuantizationAwareTraining",
    "RandomResizedCrop",
    "Recipe",
    "Report",
    "Resize",
    "Rounding",
    "Runtime",
    "Section",
    "Target",
    "TrainingPrecision",
    "Variant",
    "Workload",
    "cell",
    "load",
    "matching",
    "runtimes",
    "schema",
    "whole",
]
