"""What all configs share."""

from dataclasses import dataclass

from scalearn_jax.config import checks as limits


@dataclass(frozen=True, kw_only=True)
class Config:
    """What all configs share: none holds a secret."""

    def __post_init__(self):
        limits.no_secrets(vars(self))
