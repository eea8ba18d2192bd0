"""Measures a deployed file: accuracy, latency, throughput, memory. numpy, a runtime, Python 3.10 or newer.

Modules that annotate arrays leave annotations unevaluated: numpy before 1.22 has no `ndarray[...]`.
"""

import sys

# Any Python can read this file: an old one says so here, and not by a SyntaxError in another module.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit("error: Python " + sys.version.split()[0] + " is too old to measure: use 3.10 or newer")
