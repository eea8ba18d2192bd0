"""What pruning and quantization cost class by class, and which classes are confused more often.

Pure functions of results: of the labels that files predicted and the true ones, where both are known.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimlab.records import Measurement
from trimlab.report.intervals import Answers, Difference, over_seeds, paired_difference, unpaired_difference
from trimlab.report.model import Column, Finding, Table, Value, words
from trimlab.report.results import Bench, Results, mean, of_file
from trimlab.report.tables import OWN, Values, describe, share, where, whole
from trimlab.report.text import plus_minus, precision_name

SHOWN = 20
"""Classes in the table, at most: those that lose most."""
CONFUSIONS = 8
"""Rows of confusions, at most."""
NAMED = 3
"""Classes that the sentence names, at most."""
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""In the order of labels, which is fixed: records from before they held names lack them."""
_NOT_COMPARED = Value("—", note="the candidate is its FP32 file, or that was not measured")


class Class(NamedTuple):
    """A class as two files find it; means over seeds."""

    name: str
    images: int
    base: float
    """Recall of the first file: the share of the class's images that get its label, in [0, 1]."""
    found: float
    """Recall of the second file."""
    gained: Difference
    """Points of recall that the second file gains."""


class Confusion(NamedTuple):
    """Images of one class that are taken for another, over all seeds."""

    true: str
    taken_for: str
    base: int
    found: int
    fp32: int | None
    """By the FP32 file of the second file's variant; None where the second file is that, or it was not measured."""


def compared(results: Results, base: Sequence[Measurement], found: Sequence[Measurement]) -> list[Class]:
    """Return the classes that have images, the one that loses most first; nothing where they cannot be counted."""
    pairs = _pairs(base, found)
    if not pairs:
        return []
    classes = [_class(results, pairs, index) for index in range(found[0].num_classes)]
    return sorted((one for one in classes if one), key=lambda one: (one.gained.points, one.name))


def losses(results: Results, bench: Bench) -> Table | None:
    """Return the recall of each class in the baseline's and the candidate's file; None where it is not known."""
    base, found = _files(results, bench)
    classes = compared(results, base, found)
    if not classes:
        return None
    own = {one.name: one.gained for one in compared(results, _in_fp32(results, bench), found)}
    shown = classes[:SHOWN]
    rows: list[Values] = [
        [
            one.name,
            whole(one.images),
            share(one.base),
            share(one.found),
            Value(plus_minus(one.gained), one.gained.points),
            Value(plus_minus(own[one.name]), own[one.name].points) if one.name in own else _NOT_COMPARED,
        ]
        for one in shown
    ]
    columns = [
        words("Class"), Column("Images", "images"), Column("Baseline recall %", "%"), Column("Candidate recall %", "%"),
        Column("Candidate less baseline, points", "points"), OWN,
    ]  # fmt: skip
    rest = f"The {len(shown)} of {len(classes)} classes that lose most. " if len(shown) < len(classes) else ""
    caption = (
        f"{where(results, found)}. {rest}Recall: share of a class's images that get its label. Candidate less "
        f"baseline: with the half width of the 95 % interval of this class alone. Baseline: "
        f"{describe(results, base)}. Candidate: {describe(results, found)}. n: {len(found)}."
    )
    return Table.of(results.key("classes", bench), columns, rows, caption)


def confusions(results: Results, bench: Bench) -> Table | None:
    """Return the pairs of classes that the candidate confuses more often than the baseline; None without labels."""
    gained = _gained(results, bench)[:CONFUSIONS]
    if not gained:
        return None
    columns = [
        words("Images of"), words("Taken for"), Column("By the baseline", "images"),
        Column("By the candidate in FP32", "images"), Column("By the candidate", "images"), Column("More", "images"),
    ]  # fmt: skip
    rows: list[Values] = [
        [
            c.true,
            c.taken_for,
            whole(c.base),
            _NOT_COMPARED if c.fp32 is None else whole(c.fp32),
            whole(c.found),
            whole(c.found - c.base),
        ]
        for c in gained
    ]
    found = _files(results, bench)[1]
    caption = (
        f"{where(results, found)}. Images of all seeds, n: {len(found)}; the pairs whose images increased most against "
        "the baseline. The candidate in FP32: what pruning did without "
        f"{precision_name(found[0].precision)}."
    )
    return Table.of(results.key("confusions", bench), columns, rows, caption)


def finding(results: Results, bench: Bench) -> Finding | None:
    """Say which classes lose, with all of them compared at once, and which confusion gained most."""
    base, found = _files(results, bench)
    classes = compared(results, base, found)
    if not classes:
        return None
    sure = [one for one in classes if one.gained.points < 0 and one.gained.separable_among(len(classes))]
    if sure:
        named = ", ".join(f"{one.name} ({plus_minus(one.gained)} points)" for one in sure[:NAMED])
        more = f" and {len(sure) - NAMED} more" if len(sure) > NAMED else ""
        lose = "loses" if len(sure) == 1 else "lose"
        said = (
            f"Of {len(classes)} classes compared at once (Bonferroni's correction), {len(sure)} measurably {lose} "
            f"recall: {named}{more}."
        )
    else:
        said = f"Of {len(classes)} classes compared at once, none loses recall by more than chance would explain."
    most = next(iter(_gained(results, bench)), None)
    if most:
        said += (
            f" Largest increase: {most.true} mistaken for {most.taken_for} in {most.found} images, against {most.base} "
            "by the baseline."
        )
    said += _by_precision(results, bench)
    return Finding.of(said, classes=len(sure), all_classes=len(classes))


def _by_precision(results: Results, bench: Bench) -> str:
    """Say what the candidate's precision alone changed: labels against the FP32 file of the same weights."""
    _, found = _files(results, bench)
    pairs = [
        (results.classified.get(a.digest), results.classified.get(b.digest))
        for a, b in _pairs(_in_fp32(results, bench), found)
    ]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not known or len(known) < len(pairs):
        return ""
    other = sum(int((a.predicted != b.predicted).sum()) for a, b in known)
    lost, won = (
        sum(int((one.correct & ~two.correct).sum()) for one, two in ordered)
        for ordered in (known, [(b, a) for a, b in known])
    )
    images = sum(a.true.size for a, _ in known)
    return (
        f" {precision_name(found[0].precision)} alone, against the candidate's FP32 file, changes the label of {other} "
        f"of {images:,} images: {lost} right ones become wrong, {won} wrong ones right."
    )


def _in_fp32(results: Results, bench: Bench) -> list[Measurement]:
    """Return the FP32 file of the candidate; nothing where that is the candidate's file itself."""
    found = results.candidate_file(bench)
    fp32 = of_file(results.at(bench), found[0].variant, "fp32") if found else []
    return fp32 if fp32 != found else []


def _files(results: Results, bench: Bench) -> tuple[list[Measurement], list[Measurement]]:
    base = of_file(results.at(bench), results.study.report.baseline, "fp32")
    found = results.candidate_file(bench)
    return (base, found) if base and found and base != found else ([], [])


def _pairs(base: Sequence[Measurement], found: Sequence[Measurement]) -> list[tuple[Measurement, Measurement]]:
    """Return the records of common seeds that saw the same images."""
    return [
        (a, b)
        for a in base
        for b in found
        if a.seed == b.seed and (a.dataset_sha256, a.split) == (b.dataset_sha256, b.split)
    ]


def _class(results: Results, pairs: Sequence[tuple[Measurement, Measurement]], index: int) -> Class | None:
    counted = [(_answers(results, a, index), _answers(results, b, index)) for a, b in pairs]
    known = [(a, b) for a, b in counted if a is not None and b is not None and a.size]
    if len(known) < len(pairs):
        return _of_counts(results, pairs, index)
    differences = [paired_difference(b, a) for a, b in known]
    return Class(
        _name(results, pairs[0][1], index),
        known[0][0].size,
        mean([float(a.mean()) for a, _ in known]),
        mean([float(b.mean()) for _, b in known]),
        over_seeds(differences) if len(differences) > 1 else differences[0],
    )


def _of_counts(results: Results, pairs: Sequence[tuple[Measurement, Measurement]], index: int) -> Class | None:
    """Compare a class by what the records count of it, without knowing which of its images both get right."""
    counts = [(a.per_class[index], b.per_class[index]) for a, b in pairs if a.per_class and b.per_class]
    if len(counts) < len(pairs) or not counts[0][0].images:
        return None
    shares = [(a.correct / a.images, b.correct / b.images) for a, b in counts]
    images = counts[0][0].images
    differences = [unpaired_difference((b, images), (a, images)) for a, b in shares]
    return Class(
        _name(results, pairs[0][1], index),
        images,
        mean([a for a, _ in shares]),
        mean([b for _, b in shares]),
        over_seeds(differences) if len(differences) > 1 else differences[0],
    )


def _answers(results: Results, record: Measurement, index: int) -> Answers | None:
    """Return whether each image of a class was found, (images of the class,)."""
    found = results.classified.get(record.digest)
    return None if found is None else found.correct[found.true == index]


def _gained(results: Results, bench: Bench) -> list[Confusion]:
    """Return the confusions that the candidate makes more often than the baseline, the largest increase first."""
    base, found = _files(results, bench)
    counts = _counts(results, base, found)
    if counts is None:
        return []
    before, after = counts
    fp32 = _counts(results, _in_fp32(results, bench), found)
    more = after - before
    np.fill_diagonal(more, 0)
    order = sorted(zip(*np.nonzero(more > 0), strict=True), key=lambda at: (-int(more[at]), at))
    return [
        Confusion(
            _name(results, found[0], int(at[0])),
            _name(results, found[0], int(at[1])),
            int(before[at]),
            int(after[at]),
            None if fp32 is None else int(fp32[0][at]),
        )
        for at in order
    ]


def _counts(
    results: Results, base: Sequence[Measurement], found: Sequence[Measurement]
) -> tuple[NDArray[np.int_], NDArray[np.int_]] | None:
    """Count for two files how many images of each class get which label; None without all of their labels."""
    pairs = [(results.classified.get(a.digest), results.classified.get(b.digest)) for a, b in _pairs(base, found)]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not known or len(known) < len(pairs):
        return None
    size = 1 + max(int(labels.max()) for pair in known for one in pair for labels in one)
    before, after = (np.zeros((size, size), int) for _ in range(2))
    for a, b in known:
        np.add.at(before, (a.true, a.predicted), 1)
        np.add.at(after, (b.true, b.predicted), 1)
    return before, after


def _name(results: Results, record: Measurement, index: int) -> str:
    names = record.class_names
    if not names and results.study.datasets[record.dataset].source == "cifar10":
        names = list(_CIFAR10)
    name = names[index] if index < len(names) else str(index)
    return f"class {name}" if name.isdigit() else name
