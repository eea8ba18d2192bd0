"""How seconds and memory grow with a study's variants: `python benchmarks/growth.py`, on a quiet machine.

Records are synthetic, those of the tests, so nothing is trained: a variant has a pruning and three measurements, each
with the answers on 10,000 images. They lie in files where stages write them. Every figure is of a process of its own,
imports included, and of one run. What takes longer than ten minutes is ended, and not measured with more variants.

    python benchmarks/growth.py --variants 10 100 --parts check report
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

VARIANTS = (10, 100, 1000)
LIMIT_SECONDS = 600
TEN_THOUSAND_RECORDS = 2500
"""Variants, with four records each."""
POINTS = 50
"""Different ones of the sweep: every variant has its own name, and shares its point with others."""


def study(variants: int):
    """Return a study of one workload with so many variants."""
    import factories

    base = factories.study().model_dump()
    ratios = {f"r{number:02}": 0.9 * number / POINTS for number in range(1, POINTS)}
    points = {name: {"ratio": ratio, "epochs": 1} for name, ratio in ratios.items()}
    names = list(points)
    made = {
        f"large-{number:04}": {"workload": "large", "pruning": f"sweep.{names[number % len(names)]}"}
        for number in range(variants - 2)
    }
    own = {name: base["variants"][name] for name in ("large", "candidate")}
    return factories.study(
        workloads={"large": base["workloads"]["large"]}, sweep=base["sweep"] | points, variants=own | made
    )


def make_project(folder: Path, variants: int) -> None:
    """Write a project whose cells have all run: source, params, records, and something for every other output."""
    import factories
    from pipelines import Project, copy_source

    project = Project(copy_source(folder))
    shutil.rmtree(folder / "released", ignore_errors=True)
    described = study(variants)
    project.params.write_text(json.dumps(described.model_dump()))
    made = factories.run_stages(described, folder)
    _write_labels(made[0], folder)
    for output in _outputs(described):
        path = folder / output
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix or path.parent.name == "fingerprint":
                path.write_text(f"{output}\n")
            else:
                path.mkdir()
                (path / "file").write_text(f"{output}\n")
    project.run("git", "init", "-q", "-b", "main")


def _write_labels(record, folder: Path) -> None:
    """Write a prepared dataset that holds the true labels alone: the report reads nothing else of it."""
    from safetensors.numpy import save_file

    import factories
    from trimlab import paths

    path = folder / paths.dataset_file(record.dataset)
    path.parent.mkdir(parents=True)
    save_file({"test_labels": factories.true_labels()}, path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": record.dataset_sha256}))


def _outputs(described):
    from ruamel.yaml import YAML

    for stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].values():
        keys = getattr(described, stage["foreach"].strip("${}")) if "foreach" in stage else [""]
        entry = stage.get("do", stage)
        for out in [*entry.get("outs", []), *entry.get("metrics", [])]:
            name = out if isinstance(out, str) else next(iter(out))
            yield from (name.replace("${key}", key) for key in keys)


PARTS = {
    "params": "from trimlab import config; config.load()",
    "check": "from trimlab import cli; sys.argv[1:] = ['check']; cli.main()",
    "commit": "from dvc.cli import main; sys.exit(main(['commit', '--force', '--quiet']))",
    "status": "from dvc.cli import main; sys.exit(main(['status', '--quiet']) not in (0, 1))",
    "report": "growth.render(study)",
    "tracking": "growth.track(study)",
}
"""What is measured, in this order: `status` needs the dvc.lock that `commit` writes."""
_PRELUDE = "import sys; sys.path[:0] = {paths!r}; import growth; study = growth.study({variants}); "


def render(described) -> None:
    """Read a study's records, and write their report with figures and page."""
    from trimlab.records import loaded
    from trimlab.report import stage

    _, records, classified = loaded.of_stages(described)
    assert classified
    stage.render(described, records, Path("report"), classified)


def track(described) -> None:
    """Read a study's records, and log them into an empty store."""
    from trimlab.records import loaded
    from trimlab.track import mlflow_runs

    mlflow_runs.rebuild(described, loaded.of_stages(described).records)


def measured(project: Path, part: str, variants: int) -> tuple[float, float] | None:
    """Return the seconds and the peak MiB of a part, None where it was ended."""
    paths = [str(ROOT / "benchmarks"), str(ROOT / "src"), str(ROOT / "tests")]
    code = "import sys; "
    if part in ("report", "tracking"):
        code = _PRELUDE.format(paths=paths, variants=variants)
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code + PARTS[part]],
        cwd=project, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - began
        if pid:
            break
        if seconds > LIMIT_SECONDS:
            process.kill()
            os.wait4(process.pid, 0)
            return None
        time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{part} of {variants} variants failed: {process.stderr.read()[-2000:]}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Print a row for each part, and the page's size."""
    from trimlab.measure import device

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, nargs="+", default=VARIANTS)
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, "records"], default=[*PARTS, "records"])
    given = parser.parse_args()
    print(f"{device.processor_name()} ({', '.join(device.cpu(1)['features'])}), {device.cores()} cores\n", flush=True)
    ended: set[str] = set()
    for variants in given.variants:
        with tempfile.TemporaryDirectory() as scratch:
            project = Path(scratch) / "project"
            make_project(project, variants)
            for part in [part for part in PARTS if part in given.parts and part not in ended]:
                _say(measured(project, part, variants), f"{part} of {variants} variants")
            page = project / "report" / "report.html"
            if "report" in given.parts:
                print(f"- page of {variants} variants: {page.stat().st_size / 2**20:.1f} MiB", flush=True)
    if "records" in given.parts:
        with tempfile.TemporaryDirectory() as scratch:
            project = Path(scratch) / "project"
            make_project(project, TEN_THOUSAND_RECORDS)
            _say(measured(project, "report", TEN_THOUSAND_RECORDS), "report of 10,000 records")


def _say(found: tuple[float, float] | None, what: str) -> None:
    told = f"more than {LIMIT_SECONDS} s" if found is None else f"{found[0]:.1f} s, {found[1]:.0f} MiB"
    print(f"- {what}: {told}", flush=True)


if __name__ == "__main__":
    main()
