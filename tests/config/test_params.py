"""params.yaml: what is wrong is said in one line a problem, before anything heavy starts."""

import copy
import json
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipelines import TINY
from trimlab import config, formats
from trimlab.config import reading
from trimlab.errors import UserError
from trimlab.records import archive
from trimlab.records.select import fits

BAD = {
    "ratio: 0.5": ("ratio: 1.4", "prune.ratio 1.4 is not in [0, 0.95]: set it in that range"),
    "importance: group-l1": (
        "importance: l9",
        "pruning.importance 'l9' is not allowed: use one of group-l1, group-l2, filter-l1, lamp, fpgm, bn_scale, "
        "taylor, hessian or random",
    ),
    "epochs: 8": ("epochs: 1.5", "training.digits.epochs 1.5 is invalid"),
    "source: digits": ("source: digit", "datasets.digits.source 'digit' is not allowed"),
    "path: data/none": ("path: x", "datasets.digits.path 'x' does not fit source 'digits'"),
    "sweep.r30}": ("sweep.r31}", "pruning 'sweep.r31' is unknown: use one of prune, sweep.none"),
    "baseline: resnet20-digits": ("baseline: resnet", "report.baseline 'resnet' is unknown"),
    "  - 0\n": ("  - 0\n  - 0\n", "seeds [0, 0] repeats a value: list each value once"),
    "  r30:": ("  30:", "sweep.30 30 is invalid"),
    "model: resnet20": (
        "model: my_models.net",
        "model 'my_models.net' is unknown: use resnet18, resnet20",
    ),
    "baseline: resnet20-digits\n": ("baseline: candidate\n", "report.baseline 'candidate' is pruned"),
    "split: test": ("splitt: test", "data.splitt is not a known key (did you mean split?)"),
    "weights: data/none}\n\nsweep": ("weights: ''}\n\nsweep", "workloads.resnet20-digits-amp.weights '' is invalid"),
    "pruning: sweep.r30}": (
        "pruning: sweep.r30, precisions: [int8, int8]}",
        "variants.resnet20-digits-r30.precisions ['int8', 'int8'] repeats a value: list each value once",
    ),
    "batch_size: 64\n": (
        "batch_size: 64\n  runtimes: [onnxruntime, onnxruntime]\n",
        "benchmark.runtimes ['onnxruntime', 'onnxruntime'] repeats a value: list each value once",
    ),
    "repeats: 1000\n  batch_repeats: 50\n  processes: 3\n": (
        "repeats: 60000\n  batch_repeats: 20\n  processes: 10\n",
        "benchmark.processes 10 of repeats 60000 and batch_repeats 20 are 600200 calls, and a record holds 500000",
    ),
    "candidate: candidate\n": (
        "candidate: candidate\n  evaluate: [top1, top1]\n",
        "report.evaluate ['top1', 'top1'] repeats a value: list each value once",
    ),
    "study: quick": (f"study: {'q' * 65}", "does not match ^[a-z][a-z0-9-]{0,63}$: rename it"),
    "ratio: 0.3,": ("ratio: !!float word,", "is not valid YAML: could not convert string to float: 'word'"),
    "importance: group-l1\n": (f"importance: {'l' * 100_000}\n", "is not allowed: use one of group-l1"),
    "allocation: uniform": ('"allo\\ncation": uniform', "pruning.'allo\\ncation' is not a known key"),
}


@pytest.fixture
def text(project):
    return (project / "studies/quick.yaml").read_text()


def problems(text, folder):
    file = folder / "params.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        config.load(file)
    return str(error.value).splitlines()


@pytest.mark.parametrize("good", BAD)
def test_a_bad_value_is_named_with_its_bound_and_remedy(good, text, tmp_path):
    bad, expected = BAD[good]
    assert good in text
    lines = problems(text.replace(good, bad, 1), tmp_path)
    assert any(expected in line for line in lines)
    assert all(len(line.removeprefix(str(tmp_path))) <= 300 for line in lines)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("image_size: 4", "datasets.digits.image_size 4 is not in [8, 2048]: set it in that range"),
        ("image_size: 32, resize: crop", "datasets.digits.resize 'crop' is not allowed: use one of shorter-side"),
        ("resize: pad", "datasets.digits.resize 'pad' has no size to resize to: add image_size"),
        ("test_fraction: 0.3", "datasets.digits.test_fraction 0.3 does not fit source 'digits': remove it"),
        ("test_fraction: 1", "datasets.digits.test_fraction 1 is not in (0, 1): set it in that range"),
    ],
)
def test_an_option_of_a_dataset_that_does_not_fit_is_named(options, expected, text, tmp_path):
    text = text.replace("source: digits, path: data/none", f"source: digits, path: data/none, {options}")
    assert any(expected in line for line in problems(text, tmp_path))


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("epochs: 3, initial: fresh", "sweep.r30.initial 'fresh' is not allowed: use one of pruned or scratch"),
        (
            "epochs: 0, initial: scratch",
            "sweep.r30.epochs 0 leaves the random weights of initial scratch: raise it, or ",
        ),
        ("epochs: 3, budget: whole", "sweep.r30.budget 'whole' is for initial scratch: fine-tuning takes its epochs"),
        ("epochs: 3, rounding: up", "sweep.r30.rounding 'up' has nothing to round: add round_to"),
        (
            "epochs: 3, allocation: search, round_to: 8, rounding: up",
            "sweep.r30.rounding 'up' has no effect: allocation search chooses among the multiples of round_to: remove",
        ),
        ("epochs: 3, importance: l1", "sweep.r30.importance 'l1' is not allowed: use one of group-l1, group-l2,"),
        (
            "epochs: 3, initial: scratch, importance: random",
            "sweep.r30.importance 'random' has no effect: initial scratch takes widths from pruning, and with",
        ),
    ],
)
def test_a_control_that_contradicts_itself_is_one_line(point, message, text, tmp_path):
    (line,) = problems(text.replace("r30: {ratio: 0.3, epochs: 3", f"r30: {{ratio: 0.3, {point}"), tmp_path)
    assert message in line


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("target: {macs: 90X}", "prune.target.macs '90X' is invalid (Input should be a valid number"),
        ("target: {macs: 0}", "prune.target.macs 0 is not in (0, 1000000000000000.0]: set it in that range"),
        ("target: {flops: 90M}", "prune.target.flops is not a known key: use one of params, macs, size_mib"),
        ("target: {params: 0.2M, macs: 90M}", "prune.target.params stands beside macs: leave one of them"),
        ("target: {}", "prune.target.params, macs and size_mib are missing: give one of them"),
        ("ratio: 0.5, target: {params: 0.2M}", "prune.ratio 0.5 stands beside a target: remove one of them"),
        ("steps: 2", "prune.ratio is missing: add it, or a target"),
    ],
)
def test_a_point_has_one_ratio_or_one_target(point, message, text, tmp_path):
    (line,) = problems(text.replace("prune: {ratio: 0.5,", f"prune: {{{point},"), tmp_path)
    assert message in line


@given(digits=st.integers(1, 99_999), suffix=st.sampled_from([("", 1), ("k", 10**3), (" M", 10**6), ("G", 10**9)]))
def test_an_amount_is_read_with_its_suffix_and_written_back(digits, suffix):
    name, factor = suffix
    written = f"{digits / 1000}{name}" if name else digits / 1000
    target = config.Target(macs=written)
    assert target.value == pytest.approx(digits * factor / 1000)
    again = config.Target.model_validate({"macs": YAML(typ="safe").load(target.written(target.value))})
    assert again.value == pytest.approx(target.value, rel=1e-3)
    assert config.Target(macs=target.value) == target  # one digest, however it is written


def test_dvc_sets_a_target(text, tmp_path):
    from dvc.utils.hydra import apply_overrides

    (file := tmp_path / "params.yaml").write_text(text)
    for overrides, expected in (
        (["~prune.ratio", "+prune.target.macs=20M"], {"macs": 20e6}),
        (["prune.target.macs=9.5M"], {"macs": 9.5e6}),
    ):
        apply_overrides(file, overrides)
        assert config.load(file).prune.target == config.Target(**expected)


def test_rounding_needs_widths_to_round(text, tmp_path):
    shared = text.replace("  allocation: uniform", "  allocation: uniform\n  rounding: nearest")
    (line,) = problems(shared, tmp_path)
    assert line.endswith("pruning.rounding has nothing to round: add round_to")
    (tmp_path / "params.yaml").write_text(shared.replace("r30: {ratio: 0.3,", "r30: {ratio: 0.3, round_to: 8,"))
    study = config.load(tmp_path / "params.yaml")
    assert study.pruning_of("resnet20-digits-r30").rounding == "nearest"


def test_ranked_together_a_control_from_scratch_has_the_widths_of_its_own_importance(text, tmp_path):
    own = text.replace("r30: {ratio: 0.3, epochs: 3", "r30: {ratio: 0.3, epochs: 3, initial: scratch, importance: lamp")
    (tmp_path / "params.yaml").write_text(own.replace("allocation: uniform", "allocation: global"))
    assert config.load(tmp_path / "params.yaml").pruning_of("resnet20-digits-r30").importance == "lamp"


def test_an_adamw_recipe_bounds_the_learning_rate_of_a_control_without_epochs_of_its_own(text, tmp_path):
    text = text.replace("learning_rate: 0.1,", "learning_rate: 0.001, optimizer: adamw,")
    text = text.replace("epochs: 3, learning_rate: 0.02", "epochs: 0, initial: scratch, budget: whole")
    assert any("sweep.r30.learning_rate" not in line or "0.01 is not" in line for line in problems(text, tmp_path))


def test_a_candidate_on_another_dataset_than_the_baseline_is_refused(text, tmp_path):
    text = text.replace("datasets:\n", "datasets:\n  other: {source: digits, path: data/none}\n")
    text = text.replace(
        "workloads:\n",
        "workloads:\n  far: {model: resnet20, code: data/none, dataset: other, training: training.digits, "
        "initial: data/none, weights: data/none}\n",
    )
    text = text.replace("candidate: {workload: resnet20-digits,", "candidate: {workload: far,")
    assert any(
        "report.candidate 'candidate' is on dataset other, report.baseline 'resnet20-digits' on digits: "
        "name variants on the same dataset" in line
        for line in problems(text, tmp_path)
    )


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (
            "crop_padding: 2, random_resized_crop: {}",
            "crop_padding 2 has no effect with random_resized_crop: leave one of them out",
        ),
        ("random_resized_crop: {scale: [0.5, 0.1]}", "scale [0.5, 0.1] is upside down: give the lowest value first"),
        (
            "random_resized_crop: {scale: [0.5, 2.0]}",
            "scale [0.5, 2.0] is more than the image: give shares of at most 1",
        ),
        ("random_resized_crop: {ratio: [2.0, 0.5]}", "ratio [2.0, 0.5] is upside down: give the lowest value first"),
        ("color_jitter: {}", "color_jitter changes nothing: give brightness, contrast or saturation, or leave it out"),
        ("cutout: -1", "training.digits.cutout -1 is not in [0, 512]: set it in that range"),
        ("mixup: 11.0", "training.digits.mixup 11.0 is not in [0, 10]: set it in that range"),
    ],
)
def test_augmentation_that_makes_no_sense_is_one_line(augmentation, message, text, tmp_path):
    (line,) = problems(text.replace("crop_padding: 2", augmentation, 1), tmp_path)
    assert message in line


def test_a_random_resized_crop_takes_the_place_of_the_default_padding(text, tmp_path):
    (tmp_path / "params.yaml").write_text(text.replace("crop_padding: 2", "random_resized_crop: {}"))
    assert config.load(tmp_path / "params.yaml").training["digits"].random_resized_crop.scale == [0.08, 1.0]


RECIPES = {
    "optimizer: adamw, learning_rate: 0.001, momentum: 0.8": "momentum 0.8 does not work with optimizer adamw: remove",
    "optimizer: adamw, learning_rate: 0.001, nesterov: false": "nesterov False does not work with optimizer adamw",
    "optimizer: adamw": "learning_rate 0.1 is not in (0, 0.02], the range for adamw: set it (0.001 is usual)",
    "weight_decay: 0.5": "weight_decay 0.5 is not in [0, 0.1], the range for sgd: lower it",
    "ema: 1.0": "ema 1.0 is not in [0, 1): set it in that range",
    "clip_norm: 0.0": "clip_norm 0.0 is not in (0, 1000000.0]: set it in that range",
    "accumulate: 0": "accumulate 0 is not in [1, 1024]: set it in that range",
    "balance: weight": "balance 'weight' is not allowed: use one of none, weights or sampling",
    "flip: alternate": "flip 'alternate' is not allowed: use one of true, false or alternating",
}


@pytest.mark.parametrize("options", RECIPES)
def test_options_that_do_not_fit_a_recipe_are_one_line(options, text, tmp_path):
    values = YAML(typ="safe").load(text)
    values["training"]["digits"] = {"epochs": 2} | YAML(typ="safe").load("{" + options + "}")
    (line,) = problems(json.dumps(values), tmp_path)
    assert f"training.digits.{RECIPES[options]}" in line


def test_a_point_that_fine_tunes_with_adamw_keeps_to_its_learning_rates(text, tmp_path):
    values = YAML(typ="safe").load(text)
    values["training"]["digits"] = {"epochs": 2, "optimizer": "adamw", "learning_rate": 0.001}
    values["prune"]["learning_rate"] = 0.03
    values["sweep"]["none"]["learning_rate"] = 0.03  # has no epochs
    for point in values["sweep"].values():
        if point["epochs"]:
            point["learning_rate"] = 0.001
    (line,) = problems(json.dumps(values), tmp_path)
    assert line.endswith("prune.learning_rate 0.03 is not in (0, 0.02], the range for adamw: set it (0.001 is usual)")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join(['*' + old] * 9)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "bad",
    ["a: " + "[" * 500 + "]" * 500, "a: " + "{b: " * 30 + "c" + "}" * 30, "a: &a [*a]", BOMB, MERGED],
    ids=["deep list", "deep keys", "circle", "alias bomb", "merge bomb"],
)
def test_yaml_that_unfolds_without_end_is_refused_at_once(bad, text, tmp_path):
    started = time.perf_counter()
    assert problems(f"{text}\n{bad}", tmp_path) == [
        f"{tmp_path / 'params.yaml'} has more than 100000 values after its aliases are expanded, or nests them more "
        "than 20 deep: start from a file in studies/"
    ]
    assert time.perf_counter() - started < 5


def test_anchors_and_merges_are_allowed(text, tmp_path):
    text = text.replace("r30: {ratio: 0.3,", "r30: &point {ratio: 0.3,")
    (tmp_path / "params.yaml").write_text(text.replace("  r60:", "  r31: {<<: *point, ratio: 0.31}\n  r60:"))
    assert config.load(tmp_path / "params.yaml").sweep["r31"].epochs == 3


def test_of_many_problems_the_first_are_told(text, tmp_path):
    lines = problems(text.replace("  - 0\n", f"  {['x'] * 1000}\n"), tmp_path)
    assert len(lines) == reading.MOST_PROBLEMS + 1
    assert lines[-1].endswith("970 more problems: fix these first")


ODD = [
    "~", "true", "-1", "1.5", ".nan", "-.inf", "1e999", "0", "0x" + "f" * 4000, "9" * 5000, "2024-01-01", "2024-13-99",
    "2001-12-14t21:59:43.10-05:00", "''", "word", '"a\\nb"', '"\\ud800"', '"\\0"', "x" * 100_000, "[]", "{}", "[[]]",
    "[1, [2, {a: b}]]", "{a: {b: c}}", "{1: 2}", "{~: x}", "{true: x}", "{2024-01-01: x}", "{1.5: x}", "{[a, b]: c}",
    "{? {a: b} : c}", "!!binary aGk=", "!!binary '%'", "!!set {a, b}", "!!omap [a: 1]", "!!float word", "!!int word",
    "!!bool word", "!!null word", "!!python/object:os.system x", "!unknown x", "&a [*a]", "*nowhere", "prune",
    "sweep.none", "data/none", "training.digits", "resnet20", "digits", "12345678901234567890", "1_000", "0o17",
]  # fmt: skip
"""YAML's kinds of values, and some that are right elsewhere."""
KEYS = [
    "ratio",
    "30",
    "~",
    "study",
    "'a\nb'",
    '"\\t"',
    "x" * 5000,
    "[a]",
    "2024-01-01",
    "!!float word",
    "<<",
    "'*'",
    ".nan",
]
OPERATIONS = ["delete", "replace", "rename", "nest", "duplicate", "list"]


def as_tree(value):
    """Values as lists of written ones, where keys may repeat: [(key, tree), ...] for a mapping."""
    if isinstance(value, dict):
        return {"map": [[key, as_tree(each)] for key, each in value.items()]}
    if isinstance(value, list):
        return {"list": [["", as_tree(each)] for each in value]}
    return json.dumps(value)


def written(tree):
    if isinstance(tree, str):
        return tree
    if "list" in tree:
        return f"[{', '.join(written(each) for _, each in tree['list'])}]"
    return "{" + ", ".join(f"{key}: {written(each)}" for key, each in tree["map"]) + "}"


def entries(tree):
    """Every place of a tree: its siblings, and where it stands among them."""
    if isinstance(tree, dict):
        siblings = next(iter(tree.values()))
        for index, (_, each) in enumerate(siblings):
            yield siblings, index
            yield from entries(each)


def mutate(tree, where, operation, odd, key):
    places = list(entries(tree))
    if not places:
        return
    siblings, index = places[where % len(places)]
    match operation:
        case "delete":
            del siblings[index]
        case "replace":
            siblings[index][1] = odd
        case "rename":
            siblings[index][0] = key
        case "nest":
            siblings[index][1] = {"map": [[key, siblings[index][1]]]}
        case "duplicate":
            siblings.insert(index, copy.deepcopy(siblings[index]))
        case "list":
            siblings[index][1] = {"list": [["", siblings[index][1]], ["", odd]]}


TREE = as_tree(YAML(typ="safe").load(TINY))
MUTATION = st.tuples(st.integers(0, 200), st.sampled_from(OPERATIONS), st.sampled_from(ODD), st.sampled_from(KEYS))


@pytest.mark.filterwarnings("ignore::ruamel.yaml.error.ReusedAnchorWarning")
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MUTATION, max_size=3))
def test_mutated_params_are_good_or_refused_in_short_lines(in_tmp, mutations):
    tree = copy.deepcopy(TREE)
    for mutation in mutations:
        mutate(tree, *mutation)
    Path("params.yaml").write_text(written(tree))
    started = time.process_time()
    try:
        config.load()
    except UserError as error:
        assert mutations, error  # the tree itself is good
        for line in str(error).splitlines():
            assert len(line) <= 300
            assert line.startswith("params.yaml")
            assert line.isprintable()
            assert ": " in line
    assert time.process_time() - started < 5
    assert [path.name for path in Path().iterdir()] == ["params.yaml"]


def without_candidates_point(text):
    """The quick study without the section `prune`, and without the variant that refers to it."""
    values = YAML(typ="safe").load(text)
    del values["prune"], values["variants"]["candidate"]
    values["report"]["candidate"] = "resnet20-digits-r60"
    return values


def test_a_study_in_which_no_variant_refers_to_prune_needs_none(text, tmp_path):
    (tmp_path / "params.yaml").write_text(json.dumps(without_candidates_point(text)))
    study = config.load(tmp_path / "params.yaml")
    assert study.prune is None
    assert study.point("resnet20-digits-r60").ratio == 0.6


def test_a_variant_at_a_point_that_is_missing_says_what_to_add(text, tmp_path):
    values = without_candidates_point(text)
    values["variants"]["resnet20-digits-r60"]["pruning"] = "prune"
    assert problems(json.dumps(values), tmp_path) == [
        f"{tmp_path / 'params.yaml'}: variants.resnet20-digits-r60.pruning 'prune' refers to the section prune, "
        "which is missing: add it, or refer to a point of sweep"
    ]


def test_every_problem_has_its_line(text, tmp_path):
    twice = text.replace("ratio: 0.5", "ratio: 1.4").replace("epochs: 8", "epochs: 0")
    assert len(problems(twice, tmp_path)) == 2


def test_a_missing_file_and_broken_yaml_are_one_line(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        config.load(tmp_path / "none.yaml")
    assert len(problems("study: [", tmp_path)) == 1
    assert "duplicate key" in problems("study: a\nstudy: b\n", tmp_path)[0]


@given(st.floats(allow_nan=True).filter(lambda ratio: not 0 <= ratio <= 0.95))
def test_no_ratio_outside_its_range_passes(ratio):
    with pytest.raises(ValueError, match="ratio"):
        config.PruningPoint(ratio=ratio, epochs=1)


def test_a_folder_and_an_empty_file_are_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        config.load(tmp_path)
    assert problems("", tmp_path) == [f"{tmp_path / 'params.yaml'}: holds no params: start from a file in studies/"]


def test_existing_defaults_never_change():
    # Digests leave defaults out, so that a new field orphans no record; a changed default would lie to old ones.
    kept = json.loads((Path(__file__).parent / "defaults.json").read_text())
    current = {
        f"{section.__name__}.{name}": field.get_default(call_default_factory=True)
        for section in config.Section.__subclasses__()
        for name, field in section.model_fields.items()
        if not field.is_required()
    }
    assert {key: current[key] for key in kept} == kept


@pytest.mark.parametrize("key", ["study", "seeds", "variants", "report"])
def test_a_missing_section_is_named(key, text, tmp_path):
    values = YAML(typ="safe").load(text)
    del values[key]
    assert any(f"{key} is missing: add it" in line for line in problems(json.dumps(values), tmp_path))


def test_the_committed_schema_is_current_and_takes_the_committed_studies(project):
    committed = (project / "params.schema.json").read_text()
    assert committed == config.schema(), "run `trimlab schema`"
    for file in sorted((project / "studies").glob("*.yaml")):
        jsonschema.validate(YAML(typ="safe").load(file), json.loads(committed))


def test_every_field_is_described(project):
    definitions = json.loads((project / "params.schema.json").read_text())
    sections = [definitions, *definitions["$defs"].values()]
    bare = [
        name
        for section in sections
        for name, field in section.get("properties", {}).items()
        if not {"description", "$ref"} & field.keys()
    ]
    assert bare == []


def test_committed_studies_are_good_and_named_as_their_files(project):
    for file in sorted((project / "studies").glob("*.yaml")):
        assert config.load(file).study == file.stem


@pytest.mark.parametrize("name", ["cifar10-cpu", "cifar10-gpu", "quick"])
def test_every_committed_record_fits_the_params_of_its_study(name, project, monkeypatch):
    """New fields of params leave the digests of older studies alone."""
    monkeypatch.chdir(project)
    study, found = archive.load_study(name), archive.committed_records(name)
    assert found
    assert [record for record in found if not fits(study, record)] == []


def test_digests_tell_apart_what_decides_a_cell(project):
    study = config.load(project / "studies/quick.yaml")
    changed = study.model_copy(update={"prune": study.prune.model_copy(update={"ratio": 0.6})})
    assert study.pruning_digest("candidate") != changed.pruning_digest("candidate")
    assert study.pruning_digest("resnet20-digits-r60") == changed.pruning_digest("resnet20-digits-r60")
    assert study.training_digest("resnet20-digits") == changed.training_digest("resnet20-digits")


def test_how_weights_are_trained_for_int8_decides_no_other_precision(project):
    study = config.load(project / "studies/quick.yaml")
    training = config.QuantizationAwareTraining(epochs=7)
    changed = study.model_copy(update={"quantization": study.quantization.model_copy(update={"qat": training})})
    for precision in formats.COMPUTED:
        old, new = (each.measurement_digest("candidate", "onnxruntime", precision) for each in (study, changed))
        assert (old == new) == (precision != "int8-qat")


def test_a_learning_rate_for_int8_fits_the_optimizer(text, tmp_path):
    values = YAML(typ="safe").load(text)
    values["training"]["digits"] |= {"optimizer": "adamw", "learning_rate": 0.001}
    for point in (*values["sweep"].values(), values["prune"]):
        point["learning_rate"] = 0.001
    values["quantization"]["qat"] = {"learning_rate": 0.05}
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    config.load(tmp_path / "params.yaml")  # no variant asks for it
    values["variants"]["candidate"]["precisions"] = ["int8-qat"]
    (problem,) = problems(json.dumps(values), tmp_path)
    assert "quantization.qat.learning_rate 0.05 is not in (0, 0.02], the range for adamw" in problem


@pytest.mark.parametrize("stage", ["prepare", "train", "prune", "quantize", "benchmark", "report"])
def test_every_stage_answers_bad_params_in_one_line_without_heavy_imports(stage, project, tmp_path):
    bad = (project / "studies/quick.yaml").read_text().replace("ratio: 0.5", "ratio: 1.4")
    (tmp_path / "params.yaml").write_text(bad)
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{stage}', 'candidate']\n"
        "try:\n"
        f"    runpy.run_path({str(project / 'stages' / stage) + '.py'!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print(end.code)\n"
        "print([name for name in ('torch', 'mlflow', 'onnx', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    said = "error: params.yaml: prune.ratio 1.4 is not in [0, 0.95]: set it in that range"
    assert done.stdout.splitlines() == [said, "[]"]


CELLS = {
    "prepare": ("dataset", "digits"),
    "train": ("workload", "resnet20-digits, resnet20-digits-amp"),
    **dict.fromkeys(
        ("prune", "quantize", "benchmark"),
        (
            "variant",
            "resnet20-digits, resnet20-digits-r30, resnet20-digits-r60, resnet20-digits-r60-random, "
            "resnet20-digits-r60-scratch, resnet20-digits-r60-whole, candidate",
        ),
    ),
}


def answers(stage, project, folder, *arguments):
    """What a stage says to each list of arguments, in a folder with the quick study's params alone."""
    (folder / "params.yaml").write_text((project / "studies/quick.yaml").read_text())
    script = str(project / "stages" / f"{stage}.py")
    code = (
        "import runpy, sys\n"
        f"for arguments in {arguments!r}:\n"
        f"    sys.argv = ['', *arguments]  # runpy names the script\n"
        "    try:\n"
        f"        runpy.run_path({script!r}, run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        print(end.code)\n"
        "print([name for name in ('torch', 'mlflow', 'onnx', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]
    lines = done.stdout.replace(f"{project}/", "").splitlines()
    assert lines.pop() == "[]"
    return lines


@pytest.mark.parametrize("stage", CELLS)
def test_a_stage_without_its_one_cell_says_so_in_a_line_and_touches_nothing(stage, project, tmp_path):
    role, cells = CELLS[stage]
    assert answers(stage, project, tmp_path, [], ["a", "b"], ["nope"], ["n" * 10**5], ["a\nb"]) == [
        f"error: stages/{stage}.py takes one {role}, not 0 arguments: use one of {cells}",
        f"error: stages/{stage}.py takes one {role}, not 2 arguments: use one of {cells}",
        f"error: {role} 'nope' is unknown: use one of {cells}",
        f"error: {role} '{'n' * 56}... is unknown: use one of {cells}",
        f"error: {role} 'a\\nb' is unknown: use one of {cells}",
    ]


def test_the_report_takes_no_argument(project, tmp_path):
    said = "error: stages/report.py takes no arguments, not 1: leave them out"
    assert answers("report", project, tmp_path, ["candidate"]) == [said]


def test_check_exits_nonzero_and_says_one_line(project, tmp_path):
    (tmp_path / "params.yaml").write_text(
        (project / "studies/quick.yaml").read_text().replace("ratio: 0.5", "ratoi: 0.5")
    )
    done = subprocess.run(
        [sys.executable, "-c", "from trimlab import cli; cli.main()", "check"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "did you mean ratio?" in done.stderr
    assert "Traceback" not in done.stderr


def test_code_and_initial_weights_are_required_and_decide_a_training_where_they_are_given(text, tmp_path):
    for key in ("code", "initial"):
        lines = problems(text.replace(f"{key}: data/none, ", "", 1), tmp_path)
        assert lines == [f"{tmp_path / 'params.yaml'}: workloads.resnet20-digits.{key} is missing: add it"]
    (tmp_path / "params.yaml").write_text(text.replace("initial: data/none", "initial: data/mine.pt", 1))
    changed, study = config.load(tmp_path / "params.yaml"), config.load(Path(__file__).parents[2] / "params.yaml")
    assert changed.training_digest("resnet20-digits") != study.training_digest("resnet20-digits")
    assert changed.training_digest("resnet20-digits-amp") == study.training_digest("resnet20-digits-amp")
    assert changed.digest() != study.digest()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("model: my_models:net, code: my_models.py", None),
        ("model: mine.nets:net, code: folder/mine", None),
        ("model: timm.models:resnet18, code: data/none, arguments: {a: [1, {b: null}]}", None),
        ("model: my_models.net, code: my_models.py", "'my_models.net' is not a factory in code 'my_models.py': name"),
        ("model: other:net, code: my_models.py", "is not in code 'my_models.py': name it my_models:FACTORY"),
        ("model: my_models.a:net, code: my_models.py", "is not in code 'my_models.py': name it my_models:FACTORY"),
        ("model: my:net, code: my-models.py", "rename the file as a Python module, my_models.py"),
        ("model: resnet20, code: my_models.py", "model 'resnet20' is not a factory in code 'my_models.py': name it"),
        ("model: torchvision/, code: data/none", "'torchvision/' is unknown: use resnet18, resnet20, torchvision/NAME"),
        ("model: resnet20, code: data/none, arguments: {num_classes: 3}", "arguments.num_classes is the number of the"),
        ("model: timm/x, code: data/none, arguments: {pretrained: true}", "set initial to data/pretrained"),
        ("model: resnet20, code: data/none, arguments: {a: 2024-01-01}", "is invalid"),
    ],
)  # fmt: skip
def test_a_model_is_named_in_one_of_four_ways(fields, said, text, tmp_path):
    changed = text.replace("model: resnet20, code: data/none", fields, 1)
    if said is None:
        (tmp_path / "params.yaml").write_text(changed)
        config.load(tmp_path / "params.yaml")
    else:
        (line,) = problems(changed, tmp_path)
        assert "workloads.resnet20-digits." in line
        assert said in line


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("initial: a.pt, weights: b.pt", "initial 'a.pt' starts a training, which weights replace: set one to"),
        ("initial: data/none, weights: data/pretrained", "weights data/pretrained would never be trained on this"),
        ("initial: data/pretrained, weights: data/none", "initial data/pretrained is for models of torchvision and"),
    ],
)
def test_initial_weights_fit_the_workload(fields, said, text, tmp_path):
    (line,) = problems(text.replace("initial: data/none, weights: data/none", fields, 1), tmp_path)
    assert said in line


def test_published_weights_need_a_normalisation_that_is_stated(text, tmp_path):
    changed = text.replace("model: resnet20, ", "model: torchvision/resnet18, ", 1)
    changed = changed.replace("initial: data/none", "initial: data/pretrained", 1)
    (line,) = problems(changed, tmp_path)
    assert "workloads.resnet20-digits.normalisation dataset does not fit initial data/pretrained: set how" in line
    (tmp_path / "params.yaml").write_text(
        changed.replace("weights: data/none", "weights: data/none, normalisation: imagenet")
    )
    config.load(tmp_path / "params.yaml")
