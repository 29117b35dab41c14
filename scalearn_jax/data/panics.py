"""Panics of libraries written in Rust, which give up on input that they did not expect."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

_ERRORS = 2  # the number of standard error, to which such a library writes by itself


class Panic(Exception):
    """What a library said when it gave up."""


@contextlib.contextmanager
def as_errors() -> Iterator[None]:
    """Has panics be ordinary exceptions, and keeps what the library reports of them off standard error.

    Python meets a panic as an exception that ``except Exception`` lets pass, like a request to stop. What is written
    to standard error meanwhile comes there afterwards, unless there was a panic.

    Raises:
      Panic: there was one.
    """
    with tempfile.TemporaryFile() as file:
        try:
            with _standard_error_to(file):
                yield
        except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit):
            _write_out(file)
            raise
        except BaseException as error:
            raise Panic(" ".join(str(error).split()) or type(error).__name__) from error
        _write_out(file)


@contextlib.contextmanager
def _standard_error_to(file: IO[bytes]) -> Iterator[None]:
    """Has standard error go to a file, where the process has one."""
    _flush()
    try:
        original = os.dup(_ERRORS)
    except OSError:  # closed
        yield
        return
    os.dup2(file.fileno(), _ERRORS)
    try:
        yield
    finally:
        _flush()
        os.dup2(original, _ERRORS)
        os.close(original)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
        sys.stderr.flush()


def _write_out(file: IO[bytes]) -> None:
    file.seek(0)
    with contextlib.suppress(OSError):
        while part := file.read(1 << 16):
            os.write(_ERRORS, part)
