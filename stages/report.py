"""Render the study's report from all records, and complete its runs in MLflow: `report/`."""

import sys

from trimlab import config, errors, paths, progress


def main(study: config.Params) -> None:
    """Write the report, then log the records of cached cells, which did not run."""
    from trimlab import machine
    from trimlab.records import archive, labels
    from trimlab.records.select import select
    from trimlab.report import stage as report_stage
    from trimlab.track import mlflow_runs

    records = select(study, archive.stage_records(study))
    with machine.one_at_a_time("report"):
        report_stage.render(study, records, paths.REPORT, labels.of_stages(records))
        # The report is written before MLflow is imported, which takes seconds.
        mlflow_runs.complete(study, records)
    paths.forget_finished()
    progress.wrote(paths.REPORT / "report.md")


if __name__ == "__main__":
    with errors.one_line_errors():
        main(config.whole(sys.argv))
