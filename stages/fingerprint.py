"""Write a digest of each stage's code, on which its cells depend: `fingerprint/STAGE.txt`."""

import sys
from pathlib import Path

from trimlab import config, errors, fingerprint, paths, progress


def main() -> None:
    """Write the digests: they do not depend on comments and formatting."""
    fingerprint.write(Path(__file__).parent, paths.FINGERPRINTS)
    progress.wrote(paths.FINGERPRINTS)


if __name__ == "__main__":
    with errors.one_line_errors():
        config.whole(sys.argv)
        main()
