"""The exceptions that are no faults of the package: wrong input, and being told to stop."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A mistake in what the user passed in: one line that says what, where and how to mend it.

    The command line prints it without a traceback and exits with code 2; library callers can catch it as
    an ordinary ``ValueError``.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


STOPPED = 75  # exit code: nothing is wrong, run again to go on


class Preempted(KeyboardInterrupt):
    """The process was told to stop, and has; what it had learned is saved. Exit code 75: run again to go on."""


def unknown(what: str, name: str, known: Iterable[str], *, where: str = "") -> InputError:
    """Builds the error for a name outside a table, naming the nearest entry.

    Args:
      what: kind of thing, for instance ``"method"``.
      name: what came.
      known: the accepted names.
      where: optional place, for instance a file name.

    Returns:
      The error, to be raised by the caller.

    Example:
      >>> str(unknown("method", "scalern", ["scalearn", "fusion"]))
      "unknown method 'scalern'; did you mean 'scalearn'? Known: fusion, scalearn"
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    place = f" in {where}" if where else ""
    return InputError(f"unknown {what} {name!r}{place}{hint} Known: {', '.join(known)}")
