"""Exchange with other libraries and machines: ``scalearn import`` and ``scalearn export``."""

from scalearn_jax.exchange.incoming import import_source
from scalearn_jax.exchange.outgoing import export_run

__all__ = ["export_run", "import_source"]
