"""Measure a variant's exported files, each in a clean process: `benchmark/VARIANT/`."""

import sys

from trimlab import config, errors, paths, progress


def main(study: config.Params, variant: str) -> None:
    """Measure one variant in its precisions."""
    from trimlab import machine
    from trimlab.benchmark import stage as benchmark_stage
    from trimlab.track import mlflow_runs

    with machine.one_at_a_time(f"benchmark/{variant}"):
        measured = benchmark_stage.benchmark_variant(study, variant)
    # MLflow starts threads, which must not run during the timing.
    for record in measured:
        mlflow_runs.log(study, record)
    progress.wrote(paths.measured(variant))


if __name__ == "__main__":
    with errors.one_line_errors():
        main(*config.cell(sys.argv, "variants"))
