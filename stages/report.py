"""Render the study's report from the records of all stages, and complete its tracking."""

import sys

from trimlab import config, errors, paths, progress


def main(study: config.Params) -> None:
    """Write `report`, then log what cached cells did not."""
    from trimlab.records import archive
    from trimlab.records.select import select
    from trimlab.report import stage as report_stage
    from trimlab.track import mlflow_runs

    records = select(study, archive.stage_records(study))
    report_stage.render(study, records, paths.REPORT)
    # last: a report does not wait for MLflow's import

    mlflow_runs.complete(study, records)
    paths.forget_finished()
    progress.wrote(paths.REPORT / "report.md")


if __name__ == "__main__":
    with errors.one_line_errors():
        main(config.whole(sys.argv))
