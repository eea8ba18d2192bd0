"""Figures of accuracy, against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, top_k_accuracy_score

from trimlab.measure import accuracy

LABELS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40)


@given(LABELS)
def test_macro_f1_is_scikit_learns(pairs):
    labels, predicted = np.array(pairs).T
    found = accuracy.figures(predicted, labels, 7, 0)
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert found["top1_accuracy"] == pytest.approx(np.mean(labels == predicted))


@given(LABELS)
def test_the_counts_of_classes_add_up(pairs):
    labels, predicted = np.array(pairs).T
    counts = accuracy.figures(predicted, labels, 7, 0)["per_class"]
    assert [each["images"] for each in counts] == [int(np.sum(labels == label)) for label in range(7)]
    assert sum(each["predicted"] for each in counts) == len(labels)
    assert sum(each["correct"] for each in counts) == np.sum(labels == predicted)


@given(st.integers(0, 99), st.integers(6, 12))
def test_top5_is_scikit_learns(seed, num_classes):
    draw = np.random.default_rng(seed)
    logits = draw.permutation(30 * num_classes).reshape(30, num_classes).astype(np.float32)
    labels = draw.integers(0, num_classes, 30)
    hits = accuracy.top5_hits(logits, labels)
    expected = top_k_accuracy_score(labels, logits, k=5, labels=np.arange(num_classes))
    assert accuracy.figures(labels, labels, num_classes, hits)["top5_accuracy"] == pytest.approx(expected)


def test_a_file_that_ranks_no_class_before_another_finds_the_first_five():
    assert accuracy.top5_hits(np.zeros((8, 8), np.float32), np.arange(8)) == 5


def test_a_class_whose_logit_is_not_a_number_is_not_found():
    assert accuracy.top5_hits(np.full((1, 8), np.nan, np.float32), np.array([0])) == 0


def test_top5_says_nothing_of_five_classes():
    assert accuracy.figures(np.zeros(3, int), np.zeros(3, int), 5, 3)["top5_accuracy"] is None
