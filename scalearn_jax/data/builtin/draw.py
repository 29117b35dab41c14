"""Seeded drawing from word lists, with part of every list kept back for the evaluation split."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A seeded source of words and templates.

    The last quarter of every list is held out: training rows never contain it, while four in ten choices made for
    validation and test rows come from it. So remembering words or templates is not enough for a good score. The same
    seed gives the same rows on every machine.
    """

    def __init__(self, seed: str, held_out: bool):
        self._random = random.Random(seed)
        self._held_out = held_out

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One entry of a list with a held-out quarter (lists of fewer than four have none)."""
        num_known = len(options) - len(options) // 4
        if not self._held_out:
            options = options[:num_known]
        elif num_known < len(options) and self.chance(0.4):
            options = options[num_known:]
        return self._random.choice(options)

    def any(self, options: Sequence[T]) -> T:
        """One entry of a list without a held-out part: grammar, not vocabulary."""
        return self._random.choice(options)

    def other(self, options: Sequence[T], *avoid: T) -> T:
        """One entry, as ``pick`` draws it, that is none of ``avoid``."""
        while (drawn := self.pick(options)) in avoid:
            pass
        return drawn

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Different entries in random order, without a held-out part."""
        return self._random.sample(list(options), count)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All entries in random order."""
        return self.sample(items, len(items))


def sentence(text: str) -> str:
    """Capitalises the first letter and ends with a full stop."""
    return f"{text[0].upper()}{text[1:]}."
