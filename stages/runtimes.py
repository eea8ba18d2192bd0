"""Look which of the study's runtimes this machine has: `runtimes/here.json`."""

import sys

from trimlab import errors, params


def main(study: params.Params) -> None:
    """Write the runtimes that files are measured in here."""
    from trimlab import interpreters

    interpreters.find_runtimes(study.benchmark.runtimes)


if __name__ == "__main__":
    with errors.one_line_errors():
        main(params.whole(sys.argv))
