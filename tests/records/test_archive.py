import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import factories
from factories import run_stages
from trimlab import paths, records
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.measure.samples import encode
from trimlab.records import Measurement, Pruning, Record, archive, imports
from trimlab.records.select import select


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, with the synthetic study as params.yaml."""
    monkeypatch.chdir(tmp_path)
    paths.PARAMS.write_text(json.dumps(factories.study().model_dump()))
    return tmp_path


def bundle(folder: Path, *made: Record) -> Path:
    """Write records into a folder as a bundle would bring them."""
    for number, record in enumerate(made):
        factories.write(record, folder / f"{number}.json")
    return folder


def test_stage_records_are_read_by_params_not_by_what_lies_there() -> None:
    study = factories.study()
    made = run_stages(study)
    stray = factories.measurement(study, "small", "int8", file_bytes=1)
    factories.write(stray, paths.measured("dropped-cell") / "seed0-int8-onnxruntime.json")
    found = archive.stage_records(study)
    assert {r.digest for r in found} == {r.digest for r in made}


def test_a_missing_stage_record_names_its_cell() -> None:
    study = factories.study()
    run_stages(study)
    paths.measurement_file("small", 0, "fp16", "onnxruntime").unlink()
    with pytest.raises(UserError, match=r"benchmark@small .*dvc repro benchmark@small"):
        archive.stage_records(study)


def test_a_variant_that_was_not_measured_is_missing_whole() -> None:
    study = factories.study()
    run_stages(study)
    paths.index_file("small").unlink()
    with pytest.raises(UserError, match=r"benchmark@small has not written .*index\.json: run `dvc repro"):
        archive.stage_records(study)


def test_what_a_machine_could_not_measure_is_not_missed() -> None:
    study = factories.study()
    made = run_stages(study)
    paths.index_file("small").write_text(json.dumps({"records": []}))
    kept = [r for r in made if not (isinstance(r, Measurement) and r.variant == "small")]
    assert {r.digest for r in archive.stage_records(study)} == {r.digest for r in kept}


def test_importing_twice_stores_once() -> None:
    made = run_stages(factories.study())
    assert imports.import_records() == (len(made), 0)
    stored = sorted(paths.RECORDS.rglob("*"))
    assert imports.import_records() == (0, len(made))
    assert sorted(paths.RECORDS.rglob("*")) == stored


def test_imported_records_are_those_of_the_stages() -> None:
    study = factories.study(seeds=[0, 3])
    paths.PARAMS.write_text(json.dumps(study.model_dump()))
    run_stages(study)
    imports.import_records()
    committed = select(study, archive.committed_records("synthetic"))
    assert committed == select(study, archive.stage_records(study))


def test_predicted_labels_are_imported_beside_their_measurement() -> None:
    run_stages(factories.study())
    imports.import_records()
    for path in (paths.RECORDS / "synthetic" / "measurement").glob("*.json"):
        record = records.read(path)
        assert isinstance(record, Measurement)
        assert sha256_of(path.with_suffix(".npy")) == record.predictions_sha256


def test_a_measurement_of_unknown_weights_is_refused(tmp_path: Path) -> None:
    study = factories.study()
    imports.import_records([bundle(tmp_path / "known", factories.pruning(study, "large"))])
    other = factories.measurement(study, "large", "fp32", weights_sha256=factories.weights("other"))
    with pytest.raises(UserError, match=r"measured weights .* no training or pruning record"):
        imports.import_records([bundle(tmp_path / "other", other)])
    assert not (paths.RECORDS / "synthetic" / "measurement").exists()


@pytest.mark.parametrize("together", [True, False])
def test_a_measurement_of_known_weights_is_imported(tmp_path: Path, together: bool) -> None:
    study = factories.study()
    pruned, measured = factories.pruning(study, "large"), factories.measurement(study, "large", "int8")
    if together:
        assert imports.import_records([bundle(tmp_path / "both", pruned, measured)]) == (2, 0)
    else:
        assert imports.import_records([bundle(tmp_path / "pruned", pruned)]) == (1, 0)
        assert imports.import_records([bundle(tmp_path / "measured", measured)]) == (1, 0)


def test_one_bad_record_keeps_all_others_out(tmp_path: Path) -> None:
    study = factories.study()
    folder = bundle(tmp_path / "bundle", *factories.everything(study))
    measured = next(path for path in sorted(folder.glob("*.npy")))
    measured.write_bytes(b"other predictions")
    with pytest.raises(UserError, match=r"is not what .* predicted"):
        imports.import_records([folder])
    assert not paths.RECORDS.exists()


def test_missing_predictions_are_one_line(tmp_path: Path) -> None:
    study = factories.study()
    path = tmp_path / "measured.json"
    records.write(factories.measurement(study, "large", "int8"), path)
    with pytest.raises(UserError, match=r"measured.npy is missing"):
        imports.import_records([path])


@pytest.mark.parametrize("content", [b"", b"[]", b"[1, 2]", b'{"kind": "training"}', b'{"kind": "poem"}', b"\xff\x00"])
def test_a_file_that_is_no_record_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "poem.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"poem.json is not a record") as caught:
        imports.import_records([path])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("change", [{"study": "../../etc"}, {"workload": "a/b"}, {"workload": ""}])
def test_a_name_that_leads_out_of_records_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    record = factories.training(factories.study(), "large").model_copy(update=change)
    with pytest.raises(UserError, match="use letters, digits"):
        imports.import_records([factories.write(record, tmp_path / "record.json")])


def test_the_stages_folders_are_imported_by_name() -> None:
    made = run_stages(factories.study())
    for folder, name in (
        ("train/large", "dataset.json"),
        ("prune/large", "manifest.json"),
        ("benchmark/large", "index.json"),
    ):
        (Path(folder) / name).write_text("{}")
    assert imports.import_records([Path("train"), Path("prune"), Path("benchmark")]) == (len(made), 0)


def test_a_folder_is_walked_whatever_its_name(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle.json" / "inner.json", factories.training(factories.study(), "large"))
    assert imports.import_records([folder.parent]) == (1, 0)


def pack(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for member, content in members:
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


def test_an_archive_of_a_folder_is_imported_as_the_folder_is(tmp_path: Path) -> None:
    study = factories.study()
    made = factories.everything(study)
    packed = tmp_path / "records.tar.gz"
    with tarfile.open(packed, "w:gz") as archived:
        archived.add(bundle(tmp_path / "bundle", *made), "bundle")
    assert imports.import_records([packed]) == (len(made), 0)
    assert imports.import_records([packed, tmp_path / "bundle"]) == (0, len(made))
    assert select(study, archive.committed_records("synthetic")) == select(study, made)


def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, str(outside)
    for member in (tarfile.TarInfo("../escaped.json"), link):
        with pytest.raises(UserError, match=r"^.*bad.tar.gz is not an archive of records \(.*\): copy it again$"):
            imports.import_records([pack(tmp_path / "bad.tar.gz", (member, b""))])
    assert not list(tmp_path.rglob("escaped.json")) and not list(outside.iterdir())


@pytest.mark.parametrize("content", [b"", b"poem", b"half"])
def test_a_damaged_archive_is_one_line(tmp_path: Path, content: bytes) -> None:
    packed = tmp_path / "records.tar.gz"
    if content == b"half":
        whole = json.dumps(factories.training(factories.study(), "large").model_dump()).encode()
        content = pack(packed, (tarfile.TarInfo("a.json"), whole)).read_bytes()[:200]
    packed.write_bytes(content)
    with pytest.raises(UserError, match=r"^.*records.tar.gz is not an archive of records \(.*\): copy it again$"):
        imports.import_records([packed])


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "ARCHIVE_BYTES", 1 << 20)
    for members in ([bytes(2 << 20)], [b""] * 3000):
        packed = pack(tmp_path / "bomb.tar.gz", *((tarfile.TarInfo(f"{n}.json"), m) for n, m in enumerate(members)))
        with pytest.raises(UserError, match=r"bomb.tar.gz unpacks to more than 1 MiB"):
            imports.import_records([packed])


def test_a_source_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^nowhere.json does not exist: name an existing file or folder$"):
        imports.import_records([Path("nowhere.json")])


def test_a_folder_without_records_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "index.json").write_text("{}")
    with pytest.raises(UserError, match=r"^no record in .*empty: name records, or folders that hold them$"):
        imports.import_records([tmp_path / "empty"])


def test_an_edited_record_is_refused() -> None:
    run_stages(factories.study())
    imports.import_records()
    path = next((paths.RECORDS / "synthetic" / "training").glob("*.json"))
    path.write_text(path.read_text().replace('"top1_accuracy": 0.9', '"top1_accuracy": 0.99', 1))
    with pytest.raises(UserError, match="was edited"):
        archive.committed_records("synthetic")


def test_records_of_other_params_are_not_selected() -> None:
    study = factories.study()
    changed = factories.study(prune={"ratio": 0.7, "epochs": 3})
    found = select(changed, factories.everything(study))
    assert found
    assert not any(getattr(record, "variant", "") == "candidate" for record in found)


def test_records_of_other_seeds_are_not_selected() -> None:
    two = factories.everything(factories.study(seeds=[0, 1]))
    assert {record.seed for record in select(factories.study(seeds=[1]), two)} == {1}


def test_files_of_replaced_weights_are_not_selected() -> None:
    study = factories.study()
    again = factories.pruning(
        study, "large", weights_sha256=factories.weights("again"), created="2026-02-01T00:00:00+00:00"
    )
    found = select(study, [*factories.everything(study), again])
    assert [r for r in found if isinstance(r, Pruning) and r.variant == "large"] == [again]
    assert not [r for r in found if isinstance(r, Measurement) and r.variant == "large"]


def test_pruned_models_of_a_replaced_training_are_not_selected() -> None:
    study = factories.study()
    again = factories.training(
        study, "small", weights_sha256=factories.weights("again"), created="2026-02-01T00:00:00+00:00"
    )
    found = select(study, [*factories.everything(study), again])
    assert [r for r in found if r.workload == "small"] == [again]


def test_the_newest_of_several_records_is_selected_whatever_their_order() -> None:
    study = factories.study()
    made = factories.everything(study)
    newer = factories.measurement(study, "large", "int8", created="2026-02-01T00:00:00+00:00")
    for found in ([newer, *made], [*made, newer]):
        chosen = [r for r in select(study, found) if isinstance(r, Measurement)]
        assert [r for r in chosen if (r.variant, r.precision) == ("large", "int8")] == [newer]


def test_records_of_each_device_are_kept() -> None:
    study = factories.study()
    both = [*factories.everything(study), *factories.everything(study, factories.GPU)]
    assert len(select(study, both)) == len(both)


def test_nothing_that_fits_is_one_line() -> None:
    study = factories.study()
    with pytest.raises(UserError, match="no record fits the params of study 'synthetic'"):
        select(factories.study(seeds=[7]), factories.everything(study))


def test_a_study_is_found_in_studies_or_in_params() -> None:
    assert archive.load_study("synthetic") == factories.study()
    paths.STUDIES.mkdir()
    kept = factories.study(study="kept", seeds=[5])
    (paths.STUDIES / "kept.yaml").write_text(json.dumps(kept.model_dump()))
    assert archive.load_study("kept") == kept


def test_an_unknown_study_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'nowhere' .* use one of synthetic"):
        archive.load_study("nowhere")


def altered(folder: Path, record: Record, field: str, value: Any) -> Path:
    """Write a record with another value at a field, dots leading into it, and its predicted labels."""
    path = factories.write(record, folder / "record.json")
    content = json.loads(path.read_text())
    *outer, last = field.split(".")
    part = content
    for key in outer:
        part = part[int(key)] if key.isdigit() else part[key]
    part[last] = value
    path.write_text(json.dumps(content))
    return path


IMPOSSIBLE = [
    ("top1_accuracy", float("nan")),
    ("top1_accuracy", 7.5),
    ("top1_accuracy", -1),
    ("torch_agreement", 1.01),
    ("exact_top1_accuracy", float("inf")),
    ("latency.p50_ms", 0),
    ("latency.p50_ms", -1),
    ("latency.p50_ms", float("nan")),
    ("batch_latency.p99_ms", 1e300),
    ("latency.n", 0),
    ("layers.0.ms", -1),
    ("num_params", -5),
    ("macs", 10**400),
    ("num_images", 0),
    ("ratio", 5),
    ("seed", -1),
    ("seed", 2**31),
    ("created", "yesterday"),
    ("created", "2026-01-02T03:04:05"),
    ("created", "2026-13-02T03:04:05Z"),
    ("params_digest", ""),
    ("weights_sha256", "A" * 64),
    ("variant", "x" * 300),
    ("runtime", "a/b"),
    ("device.name", "AMD | EPYC\n# A heading"),
    ("device.name", ""),
    ("device.name", "x" * 300),
    ("device.threads", 0),
    ("versions.torch", "2\u202e1"),
    ("weight_bits", 9),
]


@pytest.mark.parametrize(("field", "value"), IMPOSSIBLE)
def test_an_impossible_value_is_one_line_with_its_file_and_field(tmp_path: Path, field: str, value: Any) -> None:
    record = factories.measurement(factories.study(), "large", "int8")
    path = altered(tmp_path, record, field, value)
    with pytest.raises(UserError) as caught:
        imports.import_records([path])
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path} is not a record of this version ({field}"), line
    assert len(line) < 400 + len(str(path))
    assert not paths.RECORDS.exists()


def test_a_runtimes_own_names_are_read_as_one_line(tmp_path: Path) -> None:
    record = factories.measurement(factories.study(), "large", "int8")
    path = altered(tmp_path, record, "layers.0.name", "conv\n# relu\x1e")
    read = records.read(path)
    assert isinstance(read, Measurement) and read.layers[0].name == "conv # relu "


def test_percentiles_rise(tmp_path: Path) -> None:
    path = altered(tmp_path, factories.measurement(factories.study(), "large", "int8"), "latency.p90_ms", 0.001)
    with pytest.raises(UserError, match=r"\(latency p50 1\.5, p90 0\.001, p99 1\.95 ms do not rise\)"):
        imports.import_records([path])


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ("", "0 calls, not 1 to 1000000 of finite length"),
        ("AAAA", "samples are not compressed calls"),
        (encode([0.001]), "samples hold 1 calls, n is 200"),
        (encode([0.0] * 200), "200 calls, not 1 to 1000000 of finite length"),
        (encode([float("nan")] * 200), "200 calls, not 1 to 1000000 of finite length"),
        ("é", "samples are not compressed calls"),
    ],
)
def test_samples_that_are_not_the_calls_are_refused_in_one_line(tmp_path: Path, samples: str, why: str) -> None:
    study = factories.study(benchmark={"processes": 2})
    path = altered(tmp_path, factories.measurement(study, "large", "int8"), "processes.1.latency.samples", samples)
    with pytest.raises(UserError, match=why) as caught:
        imports.import_records([path])
    assert "\n" not in str(caught.value)


def test_a_record_of_several_processes_is_imported_with_their_calls(tmp_path: Path) -> None:
    study = factories.study(benchmark={"processes": 2})
    made = [factories.training(study, "large"), factories.pruning(study, "large")]
    measured = factories.measurement(study, "large", "int8")
    for number, record in enumerate([*made, measured]):
        factories.write(record, tmp_path / f"{number}.json")
    imports.import_records([tmp_path])
    (stored,) = paths.RECORDS.glob("synthetic/measurement/*.json")
    read = records.read(stored)
    assert read == measured and isinstance(read, Measurement)
    assert [len(process.latency.calls_ms) for process in read.processes] == [200, 200]
    assert read.latency.n == 400
    ratios = [p.baseline_latency.p50_ms / p.latency.p50_ms for p in read.processes]
    assert read.speedup == pytest.approx((ratios[0] * ratios[1]) ** 0.5)


def test_a_record_without_processes_was_timed_in_one(tmp_path: Path) -> None:
    record = factories.measurement(factories.study(), "large", "int8")
    assert record.processes == []
    assert record.speedups == [record.baseline_latency.p50_ms / record.latency.p50_ms]


def test_a_gpus_clocks_are_complete(tmp_path: Path) -> None:
    record = factories.engine_measurement(factories.study(), "large", "int8")
    path = altered(tmp_path, record, "clocks", [clock.model_dump() for clock in record.clocks[:2]])
    with pytest.raises(UserError, match="are not gpu, gpu_graph and latency_graph, each once"):
        imports.import_records([path])


def test_every_bad_record_has_a_line(tmp_path: Path) -> None:
    study = factories.study()
    bundle(tmp_path / "good", *factories.everything(study))
    altered(tmp_path / "a", factories.training(study, "large"), "top1_accuracy", 2)
    altered(tmp_path / "b", factories.pruning(study, "large"), "ratio", 1)
    with pytest.raises(UserError) as caught:
        imports.import_records([tmp_path])
    lines = str(caught.value).splitlines()
    assert [line.split("(")[1].split()[0] for line in lines] == ["top1_accuracy", "ratio"]
    assert not paths.RECORDS.exists()


LABELS = {
    "a pickle": pickle.dumps([1, 2]),
    "objects": factories.npy(np.array([None, 3], dtype=object)),
    "too few": factories.npy(np.zeros(9, np.uint16)),
    "a table": factories.npy(np.zeros((factories.NUM_IMAGES, 1), np.uint16)),
    "floats": factories.npy(np.zeros(factories.NUM_IMAGES)),
    "nothing": b"",
    "27 TiB": factories.npy(np.zeros(9, np.uint16)).replace(b"(9,), }" + 12 * b" ", b"(9999999999999,), }"),
}


@pytest.mark.parametrize("name", LABELS)
def test_predictions_that_are_no_labels_are_one_line(tmp_path: Path, name: str) -> None:
    study = factories.study()
    digest = hashlib.sha256(LABELS[name]).hexdigest()
    record = factories.measurement(study, "large", "int8", predictions_sha256=digest)
    bundle(tmp_path / "bundle", factories.pruning(study, "large"), record)
    (tmp_path / "bundle/1.npy").write_bytes(LABELS[name])
    with pytest.raises(UserError, match=r"^.*1\.npy holds .*: measure 1\.json again, or leave it out$") as caught:
        imports.import_records([tmp_path / "bundle"])
    assert len(str(caught.value).splitlines()) == 1
    assert not paths.RECORDS.exists()


def test_predictions_that_are_a_folder_are_one_line(tmp_path: Path) -> None:
    study = factories.study()
    folder = bundle(
        tmp_path / "bundle", factories.pruning(study, "large"), factories.measurement(study, "large", "int8")
    )
    (folder / "1.npy").unlink()
    (folder / "1.npy").mkdir()
    with pytest.raises(UserError, match=r"^.*1\.npy is not a file: copy the predicted labels"):
        imports.import_records([folder])


def test_predictions_that_cannot_be_read_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = factories.study()
    folder = bundle(
        tmp_path / "bundle", factories.pruning(study, "large"), factories.measurement(study, "large", "int8")
    )
    whole = sha256_of

    def denied(path: Path) -> str:  # by permissions, which bind no root
        if path.suffix == ".npy":
            raise PermissionError(errno.EACCES, "Permission denied")
        return whole(path)

    monkeypatch.setattr(imports, "sha256_of", denied)
    with pytest.raises(UserError, match=r"^.*1\.npy holds no labels \(.*Permission denied\): measure 1\.json again"):
        imports.import_records([folder])
    assert not paths.RECORDS.exists()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match=r"pipe.json is not a record \(not a regular file\)"):
        imports.import_records([tmp_path / "pipe.json"])


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(180 << 20)
    with pytest.raises(UserError, match=r"huge.json is not a record \(180 MiB, and a record has at most 16\)"):
        imports.import_records([tmp_path / "huge.json"])


def test_a_source_with_too_long_a_name_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^x+ does not exist: name an existing file or folder$"):
        imports.import_records([Path("x" * 300)])


def test_a_link_to_a_member_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link.json")
    link.type, link.linkname = tarfile.LNKTYPE, "missing.json"
    with pytest.raises(UserError, match=r"^.*bad.tar.gz is not an archive of records \(.*\): copy it again$"):
        imports.import_records([pack(tmp_path / "bad.tar.gz", (link, b""))])


@pytest.mark.parametrize("broken", ["labels", "records"])
def test_a_full_disk_is_one_line_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run_stages(factories.study())
    if broken == "labels":
        monkeypatch.setattr(shutil, "copyfile", full)
    else:
        monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(
        UserError, match=r"^records cannot be written \(No space left on device\), and nothing was imported: make room"
    ):
        imports.import_records()
    assert not list(paths.RECORDS.rglob("*"))


def test_a_bundles_records_bring_the_lineage_that_the_stages_alone_have(tmp_path: Path) -> None:
    study = factories.study()
    run_stages(study)
    elsewhere = factories.CPU.model_copy(update={"name": "Small CPU"})
    measured = factories.measurement(study, "candidate", "int8").model_copy(update={"device": elsewhere})
    brought = bundle(tmp_path / "bundle", measured)
    assert imports.import_records([brought]) == (3, 0)
    stored = archive.committed_records("synthetic")
    assert {(r.kind, r.workload) for r in stored} == {  # type: ignore[attr-defined]
        ("training", "large"), ("pruning", "large"), ("measurement", "large"),
    }  # fmt: skip
    assert select(study, stored)
    assert imports.import_records([brought]) == (0, 1)


def test_after_importing_both_the_host_and_the_device_have_their_rows(tmp_path: Path) -> None:
    study = factories.study()
    made = run_stages(study)
    imports.import_records()
    slow = factories.CPU.model_copy(update={"features": ["avx2"]})
    later = {"device": slow, "created": "2026-03-01T00:00:00+00:00"}
    measured = [r.model_copy(update=later) for r in made if isinstance(r, Measurement)]
    assert imports.import_records([bundle(tmp_path / "bundle", *measured)]) == (len(measured), 0)
    assert len(select(study, archive.committed_records("synthetic"))) == len(made) + len(measured)


def test_loose_records_in_records_are_sorted_into_their_study(tmp_path: Path) -> None:
    study = factories.study()
    made = run_stages(study)
    imports.import_records()
    elsewhere = factories.CPU.model_copy(update={"threads": 1})
    measured = factories.measurement(study, "large", "int8").model_copy(update={"device": elsewhere})
    bundle(paths.RECORDS, measured)
    stored = {path: path.read_bytes() for path in (paths.RECORDS / "synthetic").rglob("*.json")}
    assert imports.import_records([paths.RECORDS]) == (1, len(made))
    assert imports.import_records([tmp_path / "records"]) == (0, 1 + len(made))
    assert measured in archive.committed_records("synthetic")
    assert {path: path.read_bytes() for path in stored} == stored


def test_a_record_that_another_study_made_stays_where_it_was_imported() -> None:
    run_stages(factories.study())
    for path in Path("train").rglob("*.json"):
        path.write_text(path.read_text().replace('"synthetic"', '"another"'))
    imports.import_records()
    imports.import_records([paths.RECORDS])
    assert [folder.name for folder in paths.RECORDS.iterdir()] == ["synthetic"]


@pytest.mark.parametrize(
    "change", [{"features": ["avx2"]}, {"threads": 1}, {"name": "Another CPU"}, {"features": []}], ids=str
)
def test_devices_that_differ_in_more_than_their_name_keep_their_records(change: dict[str, Any]) -> None:
    study = factories.study()
    other = factories.CPU.model_copy(update=change)
    both = [*factories.everything(study), *factories.everything(study, other)]
    assert len(select(study, both)) == len(both)


def test_a_gpu_is_one_device_whatever_its_hosts_threads() -> None:
    study = factories.study()
    again = factories.GPU.model_copy(update={"threads": 9})
    both = [*factories.everything(study, factories.GPU), *factories.everything(study, again)]
    assert len(select(study, both)) == len(both) // 2


def test_the_newest_is_told_across_time_zones() -> None:
    study = factories.study()
    older = factories.training(study, "large", created="2026-02-01T01:00:00+02:00")
    newer = factories.training(study, "large", created="2026-01-31T23:30:00Z", commit="newer")
    assert [r.commit for r in select(study, [newer, older])] == ["newer"]


@pytest.mark.parametrize("change", [{"dataset": "unknown"}, {"model": "resnet20"}], ids=str)
def test_records_of_a_dataset_or_model_that_the_study_does_not_name_are_not_selected(change: dict[str, str]) -> None:
    study = factories.study()
    stray = factories.training(study, "large").model_copy(update=change)
    assert stray not in select(study, [factories.training(study, "small"), stray])


def test_a_sensitivity_that_variants_share_is_imported_once_without_labels() -> None:
    study = factories.allocated_study()
    base = study.model_dump(exclude_unset=True)
    twin = {"workload": "large", "pruning": "sweep.r50-search", "precisions": []}
    study = factories.allocated_study().model_validate(base | {"variants": base["variants"] | {"large-twin": twin}})
    paths.PARAMS.write_text(json.dumps(study.model_dump()))
    made = run_stages(study)
    with pytest.raises(UserError, match=r"prune@large-r50-search has not written prune/.*seed0-sensitivity\.json"):
        archive.stage_records(study)
    record = factories.sensitivity(study, "large-r50-search")
    for variant in ("large-r50-search", "large-twin"):
        records.write(record, paths.sensitivity_file(variant, 0))
    assert imports.import_records() == (len(made) + 1, 0)
    stored = paths.RECORDS / f"synthetic/sensitivity/large-seed0-group-l1-{record.digest[:12]}.json"
    assert records.read(stored) == record
    assert record in select(study, archive.committed_records("synthetic"))
    assert not list((paths.RECORDS / "synthetic").glob("labels/*holdout*"))


def test_a_sensitivity_alone_vouches_for_no_measured_weights(tmp_path: Path) -> None:
    study = factories.allocated_study()
    record = factories.sensitivity(study, "large-r50-search")
    measured = factories.measurement(study, "large", "fp32", weights_sha256=record.weights_sha256)
    with pytest.raises(UserError, match=r"measured weights .* no training or pruning record"):
        imports.import_records([bundle(tmp_path / "both", record, measured)])


@pytest.mark.parametrize("deep", [False, True])
def test_a_copy_with_a_change_has_a_digest_of_its_own(deep: bool) -> None:
    record = factories.everything(factories.study())[0]
    own = record.digest
    copied, changed = record.model_copy(deep=deep), record.model_copy(update={"seed": record.seed + 1}, deep=deep)
    assert (copied, copied.digest) == (record, own)
    assert changed.digest == records.parse(changed.model_dump_json().encode(), "changed").digest != own
