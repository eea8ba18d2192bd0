"""What was measured, typed, written as JSON once and never edited: Training, Pruning, Measurement."""

from trimlab.records.files import AnyRecord, parse, read, stable, write
from trimlab.records.origin import commit, now
from trimlab.records.types import (
    VOLATILE,
    Build,
    Clock,
    Device,
    Engine,
    Epoch,
    Latency,
    Layer,
    Measurement,
    Normalisation,
    Part,
    Pruning,
    Record,
    Training,
)

__all__ = [
    "VOLATILE",
    "AnyRecord",
    "Build",
    "Clock",
    "Device",
    "Engine",
    "Epoch",
    "Latency",
    "Layer",
    "Measurement",
    "Normalisation",
    "Part",
    "Pruning",
    "Record",
    "Training",
    "commit",
    "now",
    "parse",
    "read",
    "stable",
    "write",
]
