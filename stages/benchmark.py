"""Measure a variant's exported files, each in a clean process: `benchmark/VARIANT/`."""

import sys

from trimlab import errors, params


def main(study: params.Params, variant: str) -> None:
    """Measure one variant in its precisions."""
    from trimlab import benchmarking, machine

    with machine.one_at_a_time(f"benchmark/{variant}"):
        measured = benchmarking.benchmark_variant(study, variant)
    from trimlab import tracking  # MLflow's threads stay away from the timing

    for record in measured:
        tracking.log(study, record)


if __name__ == "__main__":
    with errors.one_line_errors():
        main(*params.cell(sys.argv, "variants"))
