"""Small files: read with a clear error, written whole or not at all; lines of any text, however it is encoded."""

import codecs
import errno
import gzip
import hashlib
import io
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scalearn_jax.errors import InputError, format_value

_LONGEST_NAME = 100  # characters; file systems take 255 bytes, of which some are for suffixes
_POINTER = b"version https://git-lfs.github.com/"
POINTER = "it is a pointer of Git LFS, not the file; fetch that with `git lfs pull`"
MAX_BYTES = 16_000_000  # a run's JSON has kilobytes; this keeps a wrong file from filling the memory
MAX_DEPTH = 100  # of lists and objects in each other; ours have 10, and what walks them calls itself
# Byte-order marks; that of UTF-32 begins with that of UTF-16.
_MARKS = {
    **dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
    **dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
    codecs.BOM_UTF8: "utf-8-sig",
}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}  # of file systems that flush no folders
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opens a pipe without waiting for its writer; Windows has none


def safe_name(text: str) -> str:
    """Makes a name that comes from a file one component of a path.

    Letters, digits and ``+._-`` stay and a slash becomes ``-``, so ``a/b`` and ``a-b`` are one. A name that loses
    anything else ends in a short hash, so that names which differ in that stay different.

    Example:
      >>> safe_name("pairs-glue/rte"), safe_name("../../a b")
      ('pairs-glue-rte', 'a-b-cd36d98f')
    """
    plain = text.replace("/", "-")
    safe = re.sub(r"[^A-Za-z0-9+._-]", "-", plain).lstrip(".-")[:_LONGEST_NAME]
    if safe and safe == plain:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe}-{digest}" if safe else digest


def escapes_folder(path: str) -> bool:
    """Whether a relative path, from a file of unknown origin, leads out of the folder it belongs to.

    Example:
      >>> escapes_folder("a/b.json"), escapes_folder("a/../../b.json"), escapes_folder("/b.json")
      (False, True, True)
    """
    return bool(re.search(r"^$|^[/\\~]|^\w:|(^|[/\\])\.\.([/\\]|$)", path))


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Reads a JSON object of at most ``max_bytes`` bytes and ``MAX_DEPTH`` levels."""
    try:
        content = json.loads(read_text(path, max_bytes))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; is {path.parent} the right folder?") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not valid JSON ({error}); the file is damaged.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    if _is_deep(content):
        raise InputError(f"{path} nests more than {MAX_DEPTH} lists and objects; the file is damaged.")
    return content


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        inner = [value for value in level if isinstance(value, dict | list)]
        level = [one for value in inner for one in (value.values() if isinstance(value, dict) else value)]
    return bool(level)


def read_text(path: Path, max_bytes: int, *, pipes: bool = False) -> str:
    """Reads UTF-8, but never more than some bytes of it, and without waiting for any; see ``encoding_of``.

    With ``pipes`` it may also be a pipe, which is waited for, as a shell makes of ``<(command)``. Errors of the disk
    are raised as they are.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags if pipes else flags | _NO_WAIT)) as stream:
        if not (pipes or stat.S_ISREG(os.fstat(stream.fileno()).st_mode)):
            raise InputError(f"{path} is no plain file; expected one.")
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise InputError(f"{path} has more than {max_bytes} bytes; is it the right file?")
    return decode(content, path)


def decode(content: bytes, where: object) -> str:
    """Turns the bytes of a file, or of what else is ``where``, into text; see ``encoding_of``."""
    try:
        return content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise _undecodable(where, content.count(b"\n", 0, error.start) + 1, error) from error


def encoding_of(head: bytes) -> str:
    r"""Returns the encoding that a text begins to be in: that of its byte-order mark, or else UTF-8.

    Example:
      >>> encoding_of("text".encode("utf-16")), encoding_of(b"text")
      ('utf-16', 'utf-8')
    """
    return next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), "utf-8")


def _undecodable(where: object, line: int, error: UnicodeDecodeError) -> InputError:
    byte = error.object[error.start : error.start + 1]
    fix = "the file is damaged or cut short"
    if error.encoding == "utf-8":
        fix = (
            f"in Windows-1252 it is {byte.decode('cp1252', 'replace')!r}; save the file as UTF-8, or convert it, for"
            " instance with `iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW`"
        )
    return InputError(f"{where}, line {line}: the byte 0x{byte.hex()} is not {error.encoding.upper()}; {fix}.")


def damaged(where: object, error: Exception) -> InputError:
    """Returns the error for a file that cannot be read; the caller raises it."""
    return InputError(f"{where}: not readable ({error}); the file is damaged or of another type.")


def numbered_lines(path: Path, newline: str | None = None) -> Iterator[tuple[int, str]]:
    """Yields (number, line) of a text, or of one that gzip packed, by the ending; see ``encoding_of``.

    A failing read names the line it came to, and one that is no text that line. ``newline`` is that of ``open``.
    """
    opened, number = gzip.open if path.suffix.lower() == ".gz" else open, 0
    with opened(path, "rb") as stream:
        try:
            with io.TextIOWrapper(stream, encoding_of(stream.peek(4)), newline=newline) as lines:
                for number, line in enumerate(lines, 1):
                    if number == 1 and "\0" in line:
                        raise InputError(f"{path} holds zero bytes, as UTF-16 without a mark does; save it as UTF-8.")
                    yield number, line
        except UnicodeDecodeError as error:
            # The decoder takes many lines at once, so that line is looked for; a damaged file may have none.
            with suppress(OSError, EOFError, zlib.error), opened(path, "rb") as again:
                for number, line in enumerate(again if error.encoding == "utf-8" else (), 1):
                    try:
                        line.decode()
                    except UnicodeDecodeError as one:
                        raise _undecodable(path, number, one) from error
            raise damaged(f"{path}, after line {number}", error) from error
        except (OSError, EOFError, zlib.error) as error:
            raise damaged(f"{path}, after line {number}", error) from error


def whole(value: Any, low: int, high: int, what: str) -> int:
    """Checks a size that a file gives, before anything is made of that size; returns it."""
    if type(value) is not int or not low <= value <= high:
        raise InputError(
            f"{what} must be a whole number from {low} to {high}, got {format_value(value)}; restore the file."
        )
    return value


def fraction(value: Any, what: str) -> float:
    """Checks a rate that a file gives, at least 0 and below 1; returns it."""
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise InputError(f"{what} must be a number from 0 to below 1, got {format_value(value)}; restore the file.")
    return float(value)


def is_pointer(path: str | Path) -> bool:
    """Whether a file is a pointer of Git LFS, which a clone without LFS has in the file's place."""
    with Path(path).open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, as_json(content))


def as_json(content: dict[str, Any], indent: int | None = 2) -> str:
    """Formats an object as the text of a JSON file, or without ``indent`` as a line of one.

    JSON has no NaN and no infinity: null stands for them.

    Example:
      >>> as_json({"loss": [0.5, float("nan")]}, indent=None)
      '{"loss": [0.5, null]}\\n'
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """A JSON value with ``None`` for each number that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Writes a file whole or not at all, by any library; errors are those of ``named``.

    Yields the path to write to; it takes the place of the file at the end, with the mode of the process's umask, and on
    an exception nothing is left of it.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with named(path):
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            if temporary.stat().st_mode != mode:  # the library replaced it by one of mode 0600
                temporary.chmod(stat.S_IMODE(mode))
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(folder: Path, *, whole: bool = True) -> None:
    """Flushes a folder, with ``whole`` also all in it, to the disk; not on Windows, which opens no folders."""
    for path in [*(folder.rglob("*") if whole else ()), folder] if os.name != "nt" else ():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if not (path.is_dir() and error.errno in _NO_SYNC):
                raise
        finally:
            os.close(handle)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Makes errors of the disk name their file, which a full disk's and those of other languages' libraries do not."""
    try:
        yield
    except Exception as error:
        number = disk_fault(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def disk_fault(error: Exception) -> int | None:
    """Returns the number of the operating system's error in an exception, also in those of other languages' libraries.

    Example:
      >>> disk_fault(ValueError("No space left on device (os error 28)")), disk_fault(ValueError("28"))
      (28, None)
    """
    if isinstance(error, OSError):
        return error.errno
    number = re.search(r"os[_ ]error(?: |_code=')(\d+)", str(error))
    return int(number[1]) if number else None
