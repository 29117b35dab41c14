"""Time and memory of a training step, measured alike on both sides; needs only the standard library.

memory = highest resident memory during the steps - resident memory after the first one
"""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

WARM_UP = 2
SHAPES = ((4096, 384, 1536), (4096, 1536, 384), (2048, 2048, 2048))  # rows, inner, columns of a matrix product


def measure(run: Callable[[int], None], num_batches: int, repeats: int) -> dict[str, float]:
    """Runs steps and measures them.

    Args:
      run: i -> one step on batch i, finished when it returns; everything is compiled and loaded already.
      num_batches: how many batches there are.
      repeats: timed steps of each batch.

    Returns:
      ``seconds`` (mean over batches of each one's fastest step), ``median`` (of each one's median step) and ``memory``
      in bytes; ``None`` where the system does not tell.

    Example:
      >>> sorted(measure(lambda i: None, num_batches=1, repeats=1))
      ['median', 'memory', 'seconds']
    """
    run(0)  # loads what is loaded lazily, and makes an optimiser's state
    before = _reset_peak()
    for i in range(WARM_UP - 1):
        run(i % num_batches)
    rounds = [[timed(lambda i=i: run(i)) for i in range(num_batches)] for _ in range(repeats)]
    batches = list(zip(*rounds, strict=True))
    return {
        "seconds": statistics.fmean(map(min, batches)),
        "median": statistics.fmean(map(statistics.median, batches)),
        "memory": None if before is None else _status("VmHWM") - before,
    }


def timed(function: Callable[[], None]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def matmul_rates(
    prepare: Callable[[tuple[int, int, int]], Callable[[], None]], shapes: Sequence = SHAPES, count: int = 1
) -> dict:
    """Measures matrix products of several shapes.

    Args:
      prepare: shape -> a function that computes ``count`` products and waits for them.
      shapes: (rows, inner, columns).
      count: products a call.

    Returns:
      ``{"RxIxC": operations a second}``, the fastest of ten each.
    """
    rates = {}
    for shape in shapes:
        product = prepare(shape)
        product()
        seconds = min(timed(product) for _ in range(10))
        rates["x".join(map(str, shape))] = count * 2.0 * shape[0] * shape[1] * shape[2] / seconds
    return rates


def _reset_peak() -> int | None:
    """Gives free memory back, forgets the highest use so far and returns the present one in bytes."""
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return resident()
    except (OSError, AttributeError):
        return None


def resident() -> int:
    """The resident memory of this process, in bytes."""
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
