"""The largest size whose memory fits: memory is affine in a size, so two sizes tell all others."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

_WORTH_IT = 1.1  # a size that is larger by less is not compiled
_FAR = 1.25  # ratio of two sizes that say how memory grows


class Suggestion(NamedTuple):
    """The largest size that fits.

    Attributes:
      value: the size.
      peak: bytes of its training step; ``None`` where it was not compiled.
      verified: whether it was compiled and fits.
      enough: whether it is as large as asked for; larger ones may fit.
    """

    value: int
    peak: int | None
    verified: bool
    enough: bool


def largest(
    peak_at: Callable[[int], int],
    points: Sequence[tuple[float, int]],
    *,
    now: int,
    slope: float,
    budget: float,
    most: int,
    tries: int,
    multiple: int = 1,
    aim: float = 1.0,
) -> Suggestion | None:
    """Finds the largest size that fits: extrapolates, and compiles what comes out.

    Args:
      peak_at: compiles a size; returns its bytes.
      points: (size, bytes) that are known, ascending; the last bytes are the run's own.
      now: the run's own size.
      slope: bytes that one more costs, at most.
      budget: bytes.
      most: a size that is large enough.
      tries: how many sizes may be compiled.
      multiple: sizes above it are its multiples.
      aim: share of the budget to aim at, so that a small error does not cost a try.

    Returns:
      The suggestion; ``None`` where no size fits.

    Example:
      >>> largest(lambda size: 10 + 3 * size, [(8, 34)], now=8, slope=3, budget=100, most=64, tries=1)
      Suggestion(value=30, peak=100, verified=True, enough=False)
    """
    points, best = list(points), None
    if points[-1][1] <= budget and now <= most:
        best = Suggestion(now, points[-1][1], True, now >= most)
    for _ in range(tries):
        size = _rounded(min(most, extrapolate(points, slope, aim * budget)), multiple)
        if size < 1 or (best and size < _WORTH_IT * best.value):
            break
        peak = peak_at(size)
        points = sorted([*points, (size, peak)])
        if peak <= budget:
            best = Suggestion(size, peak, True, size >= most)
    if best:
        return best
    size = _rounded(min(most, extrapolate(points, slope, aim * budget)), multiple)
    return Suggestion(size, None, False, size >= most) if size >= 1 else None


def extrapolate(points: Sequence[tuple[float, int]], slope: float, budget: float) -> float:
    """Solves for the size at which an affine need meets a budget.

    Args:
      points: (size, bytes), ascending.
      slope: bytes that one more costs, at most; used where no two sizes are far apart.
      budget: bytes.

    Returns:
      The size.

    Example:
      >>> extrapolate([(10, 110), (20, 210)], 0, 1010), extrapolate([(20, 210)], 10.5, 420)
      (100.0, 40.0)
    """
    (first, low), (last, high) = points[0], points[-1]
    known = last >= _FAR * first
    return last + (budget - high) / max((high - low) / (last - first) if known else slope, 1e-9)


def _rounded(size: float, multiple: int) -> int:
    return int(size) // multiple * multiple if size >= multiple else int(size)
