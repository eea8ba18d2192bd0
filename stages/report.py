"""Render the study's report from the records of all stages, and complete its tracking."""

import sys

from trimlab import errors, params, paths, progress


def main(study: params.Params) -> None:
    """Write `report`, then log what cached cells did not."""
    from trimlab import archive, report

    records = archive.select(study, archive.stage_records(study))
    report.render(study, records, paths.REPORT)
    from trimlab import tracking  # last: a report does not wait for MLflow's import

    tracking.complete(study, records)
    paths.forget_finished()
    progress.say(f"wrote {paths.REPORT / 'report.md'}")


if __name__ == "__main__":
    with errors.one_line_errors():
        main(params.whole(sys.argv))
