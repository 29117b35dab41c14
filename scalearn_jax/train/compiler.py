"""What the compiler is told, by platform."""

import functools

import jax

# XLA hands groups of products, reductions and elementwise operations to a library on CPUs. Products alone are faster:
# its exponentials and reductions are slower than XLA's own code (measured in experiments/PERFORMANCE.md).
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


@functools.cache
def options() -> dict[str, str]:
    """Returns ``compiler_options`` for ``jax.jit`` on the default platform; empty where it knows none of ours."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=_CPU).lower(0.0).compile()
    except Exception:  # another version of XLA: its errors have no common type, and its defaults are right as well
        return {}
    return _CPU
