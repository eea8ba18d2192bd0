"""The `trimlab` command: everything that is not a stage. docs/command-line.md lists its exit codes."""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trimlab import __version__, config, dvc_files, errors, paths, progress, rehearsal

_STUDY, _RECORDS, _DEPLOY, _ELSEWHERE = "Before dvc repro", "Records and reports", "Choose and deploy", "Other machines"
"""What `trimlab --help` groups commands by."""
_UsageError: Any = typer.BadParameter.__mro__[1]
"""Of the click that typer uses, which may be a copy of its own."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"trimlab {__version__}")
        raise typer.Exit


def _studies() -> Sequence[str]:
    """Offer the studies of this project, for shell completion."""
    from trimlab.records import archive

    return archive.study_names()


def _workloads() -> Sequence[str]:
    """Offer the workloads, for shell completion; none without a valid params.yaml."""
    with suppress(errors.UserError):
        return list(config.load().workloads)
    return []


def _measured_variants() -> Sequence[str]:
    """Offer the variants that have files to measure, for shell completion; none without a valid params.yaml."""
    with suppress(errors.UserError):
        return [name for name, variant in config.load().variants.items() if variant.precisions]
    return []


Objective = Annotated[
    Literal["size", "latency", "throughput"],
    typer.Option(help="What counts: size, latency at batch 1, or throughput at the large batch."),
]
MaxDrop = Annotated[float, typer.Option(min=0, max=100, help="Points of top-1 that it may lose against the baseline.")]
MaxMib = Annotated[float | None, typer.Option(min=0, help="Largest size in MiB.")]
MaxMs = Annotated[float | None, typer.Option(min=0, help="Longest latency at batch 1, in ms.")]
Runtimes = Annotated[
    list[str] | None,
    typer.Option(help="Only files in this runtime (repeatable). Default: all.", autocompletion=lambda: config.RUNTIMES),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of sentences.")]
CommittedStudy = Annotated[str, typer.Argument(help="A study with committed records.", autocompletion=_studies)]


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compress image classifiers, declaratively. The pipeline itself is `dvc repro`.

    Example: trimlab check && dvc repro && trimlab pick --max-drop 1
    """


@app.command(rich_help_panel=_STUDY)
def check(
    file: Annotated[Path, typer.Argument(help="A params file.")] = paths.PARAMS,
    as_json: AsJson = False,
) -> None:
    """Check a params file and the files that it names. Each problem is one line: value, bounds and remedy.

    Models are built, and tried with an image where the dataset is prepared: your own model's code runs. What a killed
    DVC left half written is renamed, so that `dvc repro` goes on.

    Example: trimlab check studies/quick.yaml
    """
    repaired = dvc_files.repair()
    checked = rehearsal.check(file)
    if as_json:
        said = {"file": str(file), "ok": not checked.problems, "repaired": repaired, **checked._asdict()}
        print(json.dumps(said, indent=2))
    else:
        for line in checked.warnings:
            print(f"warning: {file}: {line}")
        for line in [*repaired, *checked.downloads]:
            print(f"note: {line}")
    if checked.problems:
        raise errors.UserError("\n".join(checked.problems))
    if not as_json:
        counts = {"workload": len(checked.workloads), "variant": len(checked.variants)}
        listed = ", ".join(f"{number} {noun}{'s' if number > 1 else ''}" for noun, number in counts.items())
        print(f"{file}: study {checked.study}, {listed}: all values are valid")


@app.command(rich_help_panel=_STUDY)
def schema() -> None:
    """Write params.schema.json, which describes params.yaml to editors.

    Example: trimlab schema
    """
    if not Path("dvc.yaml").is_file():
        raise errors.UserError(f"{Path.cwd()} has no dvc.yaml: run `trimlab schema` in the project's root")
    paths.SCHEMA.write_text(config.schema())
    print(f"wrote {paths.SCHEMA}")


@app.command("import", rich_help_panel=_RECORDS)
def import_(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RECORDS", help="Files, folders, or a slice's .tar.gz. Default: the stages' records."),
    ] = None,
) -> None:
    """Copy records into records/STUDY/, except those that are already there.

    Example: trimlab import from-device
    """
    from trimlab.records import imports

    added, there = imports.import_records(sources or [])
    print(f"{added} records added to {paths.RECORDS}/, {there} already there")


@app.command(rich_help_panel=_RECORDS)
def report(study: CommittedStudy, as_json: AsJson = False) -> None:
    """Render reports/STUDY/ from the records in records/STUDY/.

    With --json it prints where the report's files are, and the values of metrics.json.

    Example: trimlab report quick
    """
    from trimlab.records import loaded
    from trimlab.report import stage as report_stage

    folder = paths.REPORTS / study
    described, chosen, classified = loaded.of_committed(study)
    report_stage.render(described, chosen, folder, classified)
    if as_json:
        files = sorted(str(path) for path in folder.iterdir())
        metrics = json.loads((folder / "metrics.json").read_text())
        print(json.dumps({"study": study, "files": files, "metrics": metrics}, indent=2))
    else:
        print(f"wrote {folder / 'report.md'}")


@app.command(rich_help_panel=_DEPLOY)
def pick(
    study: Annotated[
        str | None,
        typer.Argument(
            help="A study with committed records. Default: what `dvc repro` measured.", autocompletion=_studies
        ),
    ] = None,
    objective: Objective = "size",
    max_drop: MaxDrop = 1.0,
    max_mib: MaxMib = None,
    max_ms: MaxMs = None,
    device: Annotated[
        str | None, typer.Option(help="The device, as the report names it. Default: that with most measurements.")
    ] = None,
    runtime: Runtimes = None,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for the file, its record, a model card and the class names.")
    ] = None,
    register: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Register the file in MLflow under this name, as its champion."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name the best measured file that loses little enough: the whole 95 % interval of its loss is within --max-drop.

    Example: trimlab pick --max-drop 1 --max-mib 2 --objective latency --out deployed
    """
    from trimlab import deploy
    from trimlab.report.pick import Limits

    results = deploy.results_of(study)
    limits = Limits(max_drop, max_mib, max_ms)
    choice = deploy.choose(results, limits, objective, device, runtime or [])
    if out:
        deploy.write(results, choice.file, out)
        progress.wrote(out)
    if register is not None:
        progress.say(deploy.register(results, choice.file, register).sentence())
    print(deploy.as_json(results, choice) if as_json else deploy.sentence(results, choice))


@app.command(rich_help_panel=_DEPLOY)
def search(
    objective: Objective = "size",
    max_drop: MaxDrop = 1.0,
    max_mib: MaxMib = None,
    max_ms: MaxMs = None,
    runtime: Runtimes = None,
    hours: Annotated[float, typer.Option(min=0, help="Start no try that might end after so many hours.")] = 2.0,
) -> None:
    """Look for the best candidate within the limits by DVC experiments; called again, it goes on.

    Example: trimlab search --max-drop 1 --objective throughput --hours 2
    """
    from trimlab.report.pick import Limits
    from trimlab.search import result, tries

    with tries.begun(Limits(max_drop, max_mib, max_ms), objective, runtime or []) as started:
        for one in tries.run(started, hours):
            print(tries.described(one))
        print(result.finish(started))


@app.command(rich_help_panel=_DEPLOY)
def predict(
    file: Annotated[Path, typer.Argument(help="An exported ONNX file.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files of any size.")],
    resize: Annotated[
        config.Resize, typer.Option(help="How images become square, as in the dataset's params.")
    ] = "shorter-side",
) -> None:
    """Name the class of each image, and its probability.

    Example: trimlab predict deployed/model.onnx photo.jpg
    """
    from trimlab import predict as prediction

    for found in prediction.predict(file, images, resize):
        print(f"{found.image}: {found.name} ({100 * found.probability:.1f} %)")


@app.command(rich_help_panel=_RECORDS)
def track(study: CommittedStudy) -> None:
    """Log the records in records/STUDY/ to MLflow, for example to rebuild a lost store.

    Example: trimlab track quick
    """
    from trimlab.records import archive
    from trimlab.records.select import select
    from trimlab.track import mlflow_runs

    described = archive.load_study(study)
    chosen = select(described, archive.committed_records(study))
    added = mlflow_runs.rebuild(described, chosen, paths.REPORTS / study)
    print(f"{added} runs logged to MLflow")


@app.command("slice", rich_help_panel=_ELSEWHERE)
def slice_(
    study: Annotated[str, typer.Argument(help="A study of the current source tree.", autocompletion=_studies)],
    run_dir: Annotated[Path, typer.Option(help="The folder that keeps everything between slices.")],
    out: Annotated[Path, typer.Option(help="The folder for records, status and log.")],
    seconds: Annotated[float, typer.Option(help="Stop after this many seconds.")] = 540,
    fresh_source: Annotated[
        bool, typer.Option("--fresh-source", help="Replace the source in RUN_DIR by the current source tree.")
    ] = False,
) -> None:
    """Run a study for a limited time, on a host that ends long commands. Exit code 75 means: call it again.

    Example: trimlab slice quick --run-dir /tmp/quick --out out --seconds 540
    """
    from trimlab.execution import slices

    raise typer.Exit(slices.run(study, run_dir, out, seconds, fresh_source))


@app.command(rich_help_panel=_ELSEWHERE)
def scale(
    address: Annotated[
        str, typer.Option(help="A Ray cluster: `auto` is this machine's; `local` starts Ray here.")
    ] = "local",
    remote: Annotated[
        str | None, typer.Option(help="The DVC remote that all nodes reach. Default: DVC's default.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option(help="The folder on each node for working copies and DVC's cache.")
    ] = None,
    gpu_share: Annotated[float, typer.Option(min=0.01, max=1, help="Share of a GPU that a training takes.")] = 1.0,
) -> None:
    """Run the study on a cluster: `dvc repro` with its cells spread over nodes; called again, it goes on.

    Example: trimlab scale --address auto --remote storage
    """
    from trimlab.execution import scale as execution

    raise typer.Exit(execution.run(address, remote, folder, gpu_share))


@app.command(rich_help_panel=_ELSEWHERE)
def bundle(
    variants: Annotated[
        list[str],
        typer.Argument(
            metavar="VARIANT...", help="Variants that `dvc repro` exported.", autocompletion=_measured_variants
        ),
    ],
    out: Annotated[Path, typer.Option(help="The zip file to write.")],
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure in this runtime (repeatable). Default: the study's runtimes.",
            autocompletion=lambda: config.RUNTIMES,
        ),
    ] = None,
) -> None:
    """Pack exported files, test set and measuring code: `python FILE.zip` measures on another device.

    Example: trimlab bundle resnet20-digits candidate --out bundle.zip
    """
    from trimlab.benchmark import bundles

    study = config.load()
    wanted = config.runtimes(runtime or study.benchmark.runtimes)
    asked = bundles.write(study, variants, wanted, out)
    print(f"wrote {out}: {asked} measurements, {out.stat().st_size / 2**20:.1f} MiB; run it with `python {out.name}`")


@app.command(rich_help_panel=_RECORDS)
def release(
    workloads: Annotated[
        list[str],
        typer.Argument(metavar="WORKLOAD...", help="Workloads that `dvc repro` trained.", autocompletion=_workloads),
    ],
    seed: Annotated[
        list[int] | None, typer.Option(help="Release this seed (repeatable). Default: the study's seeds.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = paths.RELEASED,
) -> None:
    """Write trained weights in FP16, with the records of their trainings, for git: a study names them as `weights`.

    Example: trimlab release resnet20-digits
    """
    from trimlab import release as released

    study = config.load()
    if out.exists() and not out.is_dir():
        raise errors.UserError(f"--out {out} is not a folder: name a folder")
    for workload in workloads:
        for each in seed or study.seeds:
            print(released.release(study, workload, each, out))


def main() -> None:
    """Run the command. An error that the user can fix is one line."""
    with errors.one_line_errors():
        try:
            code = app(prog_name="trimlab", standalone_mode=False)
        except _UsageError as error:
            if not error.format_message():  # a bare `trimlab`, whose help is printed
                sys.exit(errors.UsageError.exit_code)
            raise _usage_error(error) from None
        if code == errors.INTERRUPTED:  # typer catches the exception
            raise KeyboardInterrupt
        sys.exit(code)


def _usage_error(error: Any) -> errors.UsageError:
    """Return what is wrong with a command line as one line."""
    path = error.ctx.command_path if error.ctx else "trimlab"
    said = errors.one_line(error.format_message()).replace("Value error, ", "").rstrip(".")  # pydantic's, in typer's
    return errors.UsageError(f"{said}: see `{path} --help`")


if __name__ == "__main__":
    main()
