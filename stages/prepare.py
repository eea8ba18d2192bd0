"""Write a dataset's one verified file: `prepare/DATASET/`."""

import sys

from trimlab import errors, params


def main(study: params.Params, dataset: str) -> None:
    """Prepare one dataset."""
    from trimlab import data

    data.prepare(dataset, study.datasets[dataset], study.data)


if __name__ == "__main__":
    with errors.one_line_errors():
        main(*params.cell(sys.argv, "datasets"))
