"""params.yaml as one strict, frozen model: known keys, values in range, references that resolve.

It imports pydantic and YAML alone, because every stage reads its params before it imports anything heavy.
"""

from trimlab.config.reading import cell, load, schema, whole
from trimlab.config.sections import (
    MODELS,
    OWN_MODELS,
    RUNTIMES,
    Benchmark,
    Data,
    DatasetSource,
    LowResolution,
    Normalisation,
    PruningPoint,
    PruningSettings,
    Quantization,
    Recipe,
    Report,
    Runtime,
    Section,
    TrainingPrecision,
    Variant,
    Workload,
    runtimes,
)
from trimlab.config.study import Params

__all__ = [
    "MODELS",
    "OWN_MODELS",
    "RUNTIMES",
    "Benchmark",
    "Data",
    "DatasetSource",
    "LowResolution",
    "Normalisation",
    "Params",
    "PruningPoint",
    "PruningSettings",
    "Quantization",
    "Recipe",
    "Report",
    "Runtime",
    "Section",
    "TrainingPrecision",
    "Variant",
    "Workload",
    "cell",
    "load",
    "runtimes",
    "schema",
    "whole",
]
