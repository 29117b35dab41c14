"""JAX's own settings: what the environment or a program has set for other work does not change what is computed here.

Types, precision and random numbers follow from a spec and its seeds. Settings that only report, such as
``JAX_LOG_COMPILES``, are left as they are.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import jax
import jax.numpy as jnp

from scalearn_jax.errors import InputError
from scalearn_jax.typing import Array, Key

_DEFAULTS = {
    "numpy_dtype_promotion": "standard",
    "default_matmul_precision": None,
    "allow_f16_reductions": True,
    "softmax_custom_jvp": False,
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "default_device": None,  # a mesh says where arrays lie
    "transfer_guard": "allow",
    "disable_jit": False,
    "debug_nans": False,  # a run skips steps that are not finite, and says so
    "debug_infs": False,
}
_CHECKS = [f"jax_error_checking_behavior_{kind}" for kind in ("nan", "divide", "oob")]


@contextmanager
def own_settings(dtype: str = "float32") -> Iterator[None]:
    """Computes under JAX's defaults, whatever is set around it; also a decorator.

    JAX's settings are of a thread: every thread that computes enters this itself.

    Args:
      dtype: of the ``ModelSpec``; ``"float64"`` enables that type inside, all others disable it.

    Raises:
      InputError: JAX finds no device, or adds checks to programs that members trained together cannot have.

    Example:
      >>> with own_settings("float64"):
      ...     jax.numpy.zeros(1).dtype
      dtype('float64')
    """
    check_devices()
    for name in _CHECKS:
        if getattr(jax.config, name, "ignore") != "ignore":
            raise InputError(f"{name.upper()} asks for checks that programs of several members cannot have; unset it.")
    with ExitStack() as stack:
        stack.enter_context(jax.enable_x64(dtype == "float64"))
        for name, value in _DEFAULTS.items():
            stack.enter_context(getattr(jax, name)(value))
        yield


def key_of_seed(seed: Array | int) -> Key:
    """Returns ``jax.random.key(seed)`` of a seed UInt32, without ``JAX_RANDOM_SEED_OFFSET``.

    Example:
      >>> bool(key_of_seed(3) == jax.random.key(3))
      True
    """
    return jax.random.wrap_key_data(jnp.stack([jnp.uint32(0), jnp.uint32(seed)]), impl="threefry2x32")


def check_devices() -> None:
    """Checks that JAX finds a device; where a platform is asked for, names who asks."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for a known platform whose plugin is missing
        asked = {"JAX_PLATFORMS": jax.config.jax_platforms, "JAX_PLATFORM_NAME": os.environ.get("JAX_PLATFORM_NAME")}
        name, value = next(((name, value) for name, value in asked.items() if value), ("JAX_PLATFORMS", ""))
        reason = str(error) or "its plugin is not installed"
        what = f"{name}={value}: JAX finds no such device" if value else "JAX finds no device"
        raise InputError(f"{what} ({reason}); unset or correct {name}, see `scalearn doctor`.") from error
