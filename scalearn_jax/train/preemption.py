"""Where a run that is told to stop ends: at a boundary, the end of a step or of a batch that is evaluated.

A process alone ends at its next boundary. Of several, one that is told tells the others, and all end at the same one:
that is JAX's preemption service, which takes SIGTERM out of our hands and works with joined processes only.
"""

from scalearn_jax.train.agreement import processes
from scalearn_jax.train.signals import signals


def boundary() -> None:
    """Ends the run here, by ``Preempted``, if it was told to stop; all processes of a run pass the same boundaries."""
    if processes.end_here() if processes.joined else signals.received:
        raise signals.preempted()
