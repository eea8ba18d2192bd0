"""Write a dataset's one verified file: `prepare/DATASET/`."""

import sys

from trimlab import errors, params


def main(dataset: str) -> None:
    """Prepare one dataset."""
    study = params.load()
    from trimlab import data

    data.prepare(dataset, study.datasets[dataset], study.data)


if __name__ == "__main__":
    with errors.one_line_errors():
        main(sys.argv[1])
