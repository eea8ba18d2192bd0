import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import factories
from trimlab import cli, paths
from trimlab.errors import UserError
from trimlab.records import Measurement, Record, archive, imports, labels
from trimlab.records.select import select

SHA256 = factories.weights("cifar10")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths.PARAMS.write_text(json.dumps(factories.study().model_dump()))


def prepare(sha256: str = SHA256) -> None:
    """Write a prepared dataset whose test set is the factories' one; its hold-out holds the classes 3, 1."""
    path = paths.dataset_file("cifar10")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "test_labels": factories.true_labels().astype(np.int64),
        "train_labels": np.array([0, 1, 2, 3]),
        "holdout": np.array([3, 1]),
    }
    save_file(tensors, path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": sha256}))


def committed() -> labels.ByDigest:
    study = factories.study()
    return labels.of_committed(study.study, select(study, archive.committed_records(study.study)))


def stored() -> list[Path]:
    return sorted(paths.RECORDS.glob("*/labels/*"))


def test_an_import_stores_the_true_labels_once() -> None:
    factories.run_stages(factories.study())
    prepare()
    imports.import_records()
    (path,) = stored()
    assert path.name == f"cifar10-test-{SHA256[:12]}.npy"
    assert np.load(path).dtype == np.uint16
    assert (np.load(path) == factories.true_labels()).all()
    before = path.stat().st_mtime_ns
    imports.import_records()
    assert path.stat().st_mtime_ns == before


def test_labels_are_stored_where_the_records_were_imported_before() -> None:
    made = factories.run_stages(factories.study())
    imports.import_records()
    assert stored() == []
    prepare()
    assert imports.import_records() == (0, len(made))
    assert len(stored()) == 1


def test_another_dataset_of_that_name_gives_no_labels() -> None:
    factories.run_stages(factories.study())
    prepare(sha256=factories.weights("other"))
    imports.import_records()
    assert stored() == []
    assert committed() == {}


def test_the_hold_outs_labels_are_those_of_its_training_images() -> None:
    prepare()
    study = factories.study(data={"split": "holdout", "holdout_fraction": 0.1, "seed": 0})
    found = labels.of_prepared(factories.training(study, "large"))
    assert found is not None and found.tolist() == [3, 1]


def test_stages_and_committed_records_say_the_same_images_are_right() -> None:
    made = factories.run_stages(factories.study())
    prepare()
    imports.import_records()
    ours, theirs = labels.of_stages(made), committed()
    assert ours.keys() == theirs.keys() == {r.digest for r in made if isinstance(r, Measurement)}
    for record in made:
        if isinstance(record, Measurement):
            assert (ours[record.digest].predicted == theirs[record.digest].predicted).all()
            assert ours[record.digest].correct.mean() == pytest.approx(record.top1_accuracy)


def test_without_true_labels_nothing_is_known_and_the_report_says_so() -> None:
    made = factories.run_stages(factories.study())
    imports.import_records()
    assert committed() == labels.of_stages(made) == {}
    cli.report("synthetic")
    said = "The true labels of the scored images are not stored for 15 of 15 measurements"
    assert said in (paths.REPORTS / "synthetic" / "tables" / "reading.md").read_text()


def test_with_true_labels_the_report_has_paired_intervals() -> None:
    factories.run_stages(factories.study())
    prepare()
    imports.import_records()
    cli.report("synthetic")
    text = (paths.REPORTS / "synthetic" / "report.md").read_text()
    assert "The true labels" not in (paths.REPORTS / "synthetic" / "tables" / "reading.md").read_text()
    assert "points lost (McNemar's p " in text


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda path: path.write_bytes(b"labels"), "holds no labels"),
        (lambda path: np.save(path, np.zeros(3, np.uint16)), "does not hold 10000 labels as uint16"),
        (lambda path: np.save(path, np.zeros(10_000, np.int64)), "does not hold 10000 labels as uint16"),
        (lambda path: np.save(path, np.zeros(10_000, np.uint16)), "give a top-1 of .*, the record says"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(broken, said: str) -> None:
    factories.run_stages(factories.study())
    prepare()
    imports.import_records()
    broken(stored()[0])
    with pytest.raises(UserError, match=said) as caught:
        committed()
    assert "\n" not in str(caught.value)


def test_missing_predictions_of_a_committed_record_are_one_line() -> None:
    factories.run_stages(factories.study())
    prepare()
    imports.import_records()
    next(paths.RECORDS.glob("*/measurement/*.npy")).unlink()
    with pytest.raises(UserError, match=r"\.npy holds no labels .*git checkout"):
        committed()


def test_a_bundles_records_need_no_prepared_dataset() -> None:
    study = factories.study()
    made: list[Record] = [factories.pruning(study, "large"), factories.measurement(study, "large", "int8")]
    for number, record in enumerate(made):
        factories.write(record, Path("bundle") / f"{number}.json")
    assert imports.import_records([Path("bundle")]) == (2, 0)
    assert stored() == []
