"""Verify a dataset and write it as one file: `prepare/DATASET/`."""

import sys

from trimlab import config, errors, paths, progress


def main(study: config.Params, dataset: str) -> None:
    """Prepare one dataset."""
    from trimlab import machine
    from trimlab.data import stage as data_stage

    with machine.one_at_a_time(f"prepare/{dataset}"):
        data_stage.prepare(dataset, study.datasets[dataset], study.data)
    progress.wrote(paths.dataset_file(dataset).parent)


if __name__ == "__main__":
    with errors.one_line_errors():
        main(*config.cell(sys.argv, "datasets"))
