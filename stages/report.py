"""Render the study's report from all records, and complete its runs in MLflow: `report/`."""

import sys

from trimlab import config, errors, paths, progress


def main(study: config.Params) -> None:
    """Write the report, then log the records of cached cells, which did not run."""
    from trimlab import machine
    from trimlab.records import loaded
    from trimlab.report import stage as report_stage
    from trimlab.track import mlflow_runs

    _, records, classified = loaded.of_stages(study)
    with machine.one_at_a_time("report"):
        report_stage.render(study, records, paths.REPORT, classified)
        # The report is written before MLflow is imported, which takes seconds.
        mlflow_runs.complete(study, records, paths.REPORT)
    paths.forget_finished()
    progress.wrote(paths.REPORT / "report.md")


if __name__ == "__main__":
    with errors.one_line_errors():
        main(config.whole(sys.argv))
