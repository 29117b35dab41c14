"""Small text files: read with a clear error, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from scalearn_jax.errors import InputError

MAX_BYTES = 64_000_000  # a run's JSON is kilobytes; this only keeps a wrong file from filling the memory


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.

    Returns:
      Its content.

    Raises:
      InputError: missing, unreadable, too large, or not an object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path} has {size} bytes, expected at most {MAX_BYTES}; is it the right file?")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; is {path.parent} the right folder?") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not valid JSON ({error}); the file is damaged.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
