"""``scalearn screen``: which sources of a pool may help a target, before anything is trained.

error      leave-one-out error of the exact head on features with the source alone, at scale 1
gain       -d error / d omega_t at omega = 0 and at the constant 2 / T, of all sources by one backward pass each
"""

import dataclasses
import sys
from typing import Any

from scalearn_jax.config import ScreenConfig, TransferConfig
from scalearn_jax.io import terminal
from scalearn_jax.stages import pipeline, solve
from scalearn_jax.train.jax_settings import own_settings


@own_settings()
def screen(config: ScreenConfig) -> dict[str, Any]:
    """Ranks sources, the best first; see ``solve.rank``. ``as_text`` formats the result."""
    given = dataclasses.asdict(config)
    del given["json"]
    method = dict(method="scalearn-uniform++", fit="solve", max_eval_samples=1, out="")
    (setup,) = pipeline.transfer_setups(TransferConfig(**given, **method))

    def report(number: int) -> None:
        if number % 10 == 0 or number == len(setup.sources):
            print(f"scored {number} of {len(setup.sources)} sources", file=sys.stderr, flush=True)

    rows = solve.rank(setup, report)
    return {"target": config.target, "examples": min(config.solve_samples, len(setup.data.train)), "sources": rows}


def as_text(found: dict[str, Any]) -> str:
    """Lays out what ``screen`` returns.

    Example:
      >>> row = {"name": "s0", "error": 0.5, "gain_at_zero": 0.25, "gain_at_constant": 0.0}
      >>> print(as_text({"target": "t", "examples": 9, "sources": [row]}))
      t: leave-one-out error of each source alone (1: no better than the mean), on 9 examples; and how fast that of all
      together falls as its scale grows, from none and from the constant
      source  error   gain at 0  gain at constant
      ------  ------  ---------  ----------------
      s0      0.5000  0.2500     0.0000
    """
    title = (
        f"{found['target']}: leave-one-out error of each source alone (1: no better than the mean), on"
        f" {found['examples']} examples; and how fast that of all\ntogether falls as its scale grows, from none and"
        " from the constant"
    )
    names = ("error", "gain_at_zero", "gain_at_constant")
    rows = [[row["name"], *(f"{row[name]:.4f}" for name in names)] for row in found["sources"]]
    return f"{title}\n{terminal.plain(['source', 'error', 'gain at 0', 'gain at constant'], rows)}"
