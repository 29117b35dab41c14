"""What a command's failures become: one line on standard error, and an exit code.

0 done; 1 something failed while running; 2 wrong input, in one line; 75 stopped, what was learned is saved: run it
again to go on; 130 interrupted.
"""

import errno
import os
import sys
from collections.abc import Callable

from scalearn_jax.errors import STOPPED, InputError, Preempted

# Faults of disks and paths that the user can fix; all others are ours and keep their traceback.
_USER_FAULTS = {
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EACCES EPERM EROFS ENOENT ENOTDIR EISDIR ENAMETOOLONG EMFILE EEXIST".split()
    if hasattr(errno, name)
}


def exit_code(work: Callable[[], int]) -> int:
    """Calls a function that returns an exit code; for errors of the user prints one line and returns theirs."""
    try:
        return work()
    except InputError as error:
        return _fail(str(error), 2)
    except FloatingPointError as error:
        return _fail(str(error), 1)
    except Preempted as error:
        print(f"scalearn: {error}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader, such as head, has gone; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in _USER_FAULTS:
            raise
        return _fail(str(InputError(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)), 2)


def _fail(message: str, code: int) -> int:
    is_coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    word = "\x1b[1;31merror:\x1b[0m" if is_coloured else "error:"
    print(f"scalearn: {word} {message}", file=sys.stderr)
    return code
