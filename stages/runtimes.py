"""List the study's runtimes that this machine has: `runtimes/here.json`."""

import sys

from trimlab import config, errors, paths, progress


def main(study: config.Params) -> None:
    """Write the list of runtimes."""
    from trimlab.benchmark import interpreters

    interpreters.find_runtimes(study.benchmark.runtimes)
    progress.wrote(paths.runtimes_file())


if __name__ == "__main__":
    with errors.one_line_errors():
        main(config.whole(sys.argv))
