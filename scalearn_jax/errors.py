"""The exceptions that are no faults of the package: wrong input, and being told to stop."""

import difflib
import re
from collections.abc import Iterable

_LONGEST = 10_000  # characters: a name of megabytes, from a damaged file, must not fill a terminal
# A token of the hub, of either kind; who a URL logs in as, and with what password, even one with a slash.
_SECRET = re.compile(
    r"(?<!\w)hf_[A-Za-z0-9]{34,}(?!\w)|(?<!\w)(?:hf_oauth|hf_jwt|api_org)_[\w.-]{16,}"
    r"|(?<=://)(?:[^/\s?#]+|[^/\s@:]{0,200}:(?!\d+/)[^\s@]{1,200})(?=@)"
)
# Control characters, what turns the direction of writing, and halves of characters.
_ACTING = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class InputError(ValueError):
    """A mistake in what the user passed in: one line with what, where and how to fix it.

    The command line prints it without a traceback and exits with code 2; library callers can catch it as an ordinary
    ``ValueError``. Much of a message comes from files, so what is not printable is written out (an escape code as
    ``\\x1b``), and hub tokens are masked.
    """

    def __init__(self, message: str):
        text = masked(" ".join(str(message).split()))
        super().__init__(printable(text if len(text) <= _LONGEST else text[:_LONGEST] + "..."))


def printable(text: str) -> str:
    r"""Writes out the characters of a text that would not show, or would act on a terminal.

    Example:
      >>> print(printable("rte\x1b[2J"))
      rte\x1b[2J
    """
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def is_printable(text: str) -> bool:
    r"""Whether a name can be shown as it is: nothing in it acts on a terminal.

    Example:
      >>> is_printable("état"), is_printable("rte\x1b[2J")
      (True, False)
    """
    return not _ACTING.search(text)


def shortened(text: str) -> str:
    """Cuts a text for a message down to 60 characters; masked first, since half a token looks like none.

    Example:
      >>> len(shortened(100 * "a"))
      60
    """
    text = masked(text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def format_value(value: object) -> str:
    """Writes a value as it came, cut as ``shortened`` does.

    Example:
      >>> format_value("two"), format_value(10**5000)
      ("'two'", 'int with a number of thousands of digits')
    """
    try:
        return shortened(repr(value))
    except ValueError:  # Python does not write out a whole number of thousands of digits
        return f"{type(value).__name__} with a number of thousands of digits"


def masked(text: str) -> str:
    """Takes hub tokens, and user names with passwords, out of a text.

    Example:
      >>> masked("https://me:secret@host/x")
      'https://***@host/x'
    """
    return _SECRET.sub("***", text)


STOPPED = 75  # exit code: nothing is wrong, run again to go on


class Preempted(KeyboardInterrupt):
    """The process was told to stop, and has; what it had learned is saved. Exit code 75: run again to go on."""


def unknown(what: str, name: str, known: Iterable[str], *, where: str = "", cutoff: float = 0.5) -> InputError:
    """Returns the error for a name outside a table, naming the nearest entry; the caller raises it.

    Args:
      what: kind of thing, for instance ``"method"``.
      name: what came.
      known: the accepted names.
      where: optional place, for instance a file name.
      cutoff: how alike, from 0 to 1, a name must be to be taken for a misspelled entry.

    Example:
      >>> str(unknown("method", "scalern", ["scalearn", "fusion"]))
      "unknown method 'scalern'; did you mean 'scalearn'? Known: fusion, scalearn"
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(str(name)[:100], known, n=1, cutoff=cutoff)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    place = f" in {where}" if where else ""
    return InputError(f"unknown {what} {name!r}{place}{hint} Known: {', '.join(known)}")
