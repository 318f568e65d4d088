"""Console commands."""

import signal
import sys

from . import _native


def _run(command) -> None:
    # Python would only note the signal, and act when the command returns.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(command(sys.argv[1:]))


def data() -> None:
    """`talent-data`: list, check, show, convert and time data sets; score masks."""
    _run(_native.data_command)


def results() -> None:
    """`talent-results`: tables, plots and reports of runs."""
    _run(_native.results_command)
