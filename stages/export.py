"""Export what the variants of a workload share: baseline file and calibration images: `export/WORKLOAD/`."""

import sys

from trimlab import config, errors, paths, progress


def main(study: config.Params, workload: str) -> None:
    """Export one workload."""
    from trimlab import machine
    from trimlab.quantize import stage as quantize_stage

    with machine.one_at_a_time(f"export/{workload}"):
        quantize_stage.export_workload(study, workload)
    progress.wrote(paths.exported(workload))


if __name__ == "__main__":
    with errors.one_line_errors():
        main(*config.cell(sys.argv, "workloads"))
