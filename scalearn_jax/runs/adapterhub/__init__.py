"""AdapterHub folders, read and written without its library; pickles are read on request only, and never run."""

from scalearn_jax.runs.adapterhub.adapter import load, reduction_factor, save
from scalearn_jax.runs.adapterhub.fusion import load_fusion, save_fusion
from scalearn_jax.runs.adapterhub.head import HeadFile, describe_head, load_head, save_head

__all__ = [
    "HeadFile",
    "describe_head",
    "load",
    "load_fusion",
    "load_head",
    "reduction_factor",
    "save",
    "save_fusion",
    "save_head",
]
