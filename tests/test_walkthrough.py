"""docs/your-own-model.md, letter by letter: its files written, its commands run, its lines about the result tried."""

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines import Project, copy_source, ran
from trimlab import records

pytestmark = pytest.mark.e2e

CLASSES = {"bolt": 120, "gear": 90, "nut": 60, "spring": 36, "washer": 14}
"""Five classes, the largest with nine times as many photographs as the smallest."""


def photograph(name, draw):
    """Draw one shape of a class at its own size and colours, some of them gray."""
    width, height = (int(side) for side in draw.integers(60, 200, 2))
    gray = draw.random() < 0.2
    background = tuple(int(level) for level in draw.integers(0, 90, 3))
    colour = tuple(int(level) for level in draw.integers(150, 256, 3))
    image = Image.new("RGB", (width, height), background)
    side = min(width, height) * draw.uniform(0.5, 0.8)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    pen = ImageDraw.Draw(image)
    line = max(2, round(side / 8))
    if name == "bolt":
        pen.rectangle((left + 0.4 * side, top, left + 0.6 * side, top + side), fill=colour)
    elif name == "gear":
        pen.rectangle(box, fill=colour)
    elif name == "nut":
        pen.regular_polygon((width / 2, height / 2, side / 2), 6, outline=colour, width=line)
    elif name == "spring":
        for step in range(5):
            y = top + side * (step + 0.5) / 5
            pen.line((left, y, left + side, y), fill=colour, width=max(2, round(side / 16)))
    else:
        pen.ellipse(box, outline=colour, width=line)
    pixels = np.asarray(image).astype(np.int16) + draw.integers(-20, 20, (height, width, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image.convert("L") if gray else image


def write_photographs(folder):
    draw = np.random.default_rng(0)
    for name, count in CLASSES.items():
        for number in range(count):
            place = folder / name / (f"day-{number % 3}" if name == "nut" else ".")
            place.mkdir(parents=True, exist_ok=True)
            suffix = ("jpg", "png", "JPG", "webp")[number % 4]
            photograph(name, draw).save(place / f"{number:04d}.{suffix}")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A project in which all commands of the page were run, and what they printed."""
    mine = Project(copy_source(tmp_path_factory.mktemp("walk") / "project"))
    mine.run("git", "init", "-q", "-b", "main")
    mine.run("git", "config", "user.name", "Test")
    mine.run("git", "config", "user.email", "test@example.org")
    mine.commit("start")
    page = (mine.root / "docs/your-own-model.md").read_text()
    write_photographs(mine.root / "data/parts")
    (mine.root / "my_models.py").write_text(blocks(page, "python")[0])
    (mine.root / "studies/parts.yaml").write_text(blocks(page, "yaml")[0])
    commands = [shlex.split(line) for block in blocks(page, "sh") for line in block.splitlines()]
    assert len(commands) == 5
    mine.printed = "".join(mine.run(*command) for command in commands)
    return mine


def test_the_report_speaks_of_these_photographs_and_of_nothing_else(walked):
    report = (walked.root / "report/report.md").read_text()
    assert report.startswith("# Parts on photographs")
    assert "my_models:parts_net on parts" in report
    for foreign in ("CIFAR", "scikit-learn", "ResNet", "reference", "published"):
        assert foreign not in report, foreign


def test_what_is_done_with_photographs_and_model_is_said(walked):
    assert "head" in walked.printed  # the classifier that was found
    assert re.search(r"data/parts: 256 training and 64 test images \(drawn", walked.printed)
    facts = json.loads((walked.root / "prepare/parts/dataset.json").read_text())
    assert facts["classes"] == list(CLASSES)
    assert facts["train_images"] + facts["test_images"] == sum(CLASSES.values())
    assert facts["image_shape"] == [3, 48, 48]


def test_the_candidate_is_pruned_but_for_what_is_kept(walked):
    pruned = records.read(walked.root / "prune/candidate/record/seed0.json")
    assert pruned.widths["stem.0"] == 16
    assert pruned.widths["blocks.0.first.0"] == 11
    assert pruned.top1_unpruned > 0.5


def test_the_deployed_folders_example_names_a_photographs_class(walked):
    deployed = walked.root / "deployed"
    (deployed / "classify.py").write_text(blocks((deployed / "README.md").read_text(), "python")[0])
    found = []
    for name in ("bolt", "gear", "nut", "spring"):
        file = sorted((walked.root / "data/parts" / name).rglob("*.*"))[0].resolve()
        said = walked.run("sh", "-c", f"cd deployed && python classify.py '{file}'").split()
        assert walked.run("trimlab", "predict", "deployed/model.onnx", str(file)).split()[1] == said[0]
        found.append(said == [name])
    assert sum(found) >= 3


def test_a_changed_model_file_runs_its_cells_again_and_a_repro_without_a_change_nothing(walked):
    assert ran(walked.run("dvc", "repro")) == []
    walked.edit('"""A stem, three blocks and a classifier."""', '"""A stem, blocks and a head."""', "my_models.py")
    assert ran(walked.run("dvc", "repro", "--dry"))[:1] == ["train@parts"]
