"""Parameter trees: path strings, partition and combine, counting, hashing.

A path is the tuple of keys to a leaf joined by slashes, for instance ``"adapters/down/kernel"``; a slash
inside a key (the task in ``"heads/glue:rte/out/bias"``) is written as a colon. ``None`` stands for a leaf that
lives in the other half of a partition; JAX treats it as an empty subtree.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax.typing import Params


def path_string(path: Sequence[Any], slash: str = ":") -> str:
    """Joins the keys to a leaf, as JAX gives them, by slashes; one inside a key is written as ``slash``.

    Example:
      >>> path_string((jax.tree_util.DictKey("glue/rte"), jax.tree_util.GetAttrKey("bias")))
      'glue:rte/bias'
    """
    return "/".join(jax.tree_util.keystr((key,), simple=True).replace("/", slash) for key in path)


def flatten(tree: Params) -> dict[str, Any]:
    """Returns the leaves of nested dicts by path, in tree order; ``None`` gaps are left out.

    Example:
      >>> flatten({"down": {"bias": 1, "kernel": 2}})
      {'down/bias': 1, 'down/kernel': 2}
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_string(path): leaf for path, leaf in leaves}


def unflatten(leaves: dict[str, Any]) -> Params:
    """Builds nested dicts from ``{path: leaf}``; undoes ``flatten``.

    Example:
      >>> unflatten({"down/bias": 1, "down/kernel": 2})
      {'down': {'bias': 1, 'kernel': 2}}
    """
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, name = (key.replace(":", "/") for key in path.split("/"))
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[name] = leaf
    return tree


def paths(tree: Params) -> list[str]:
    """Returns the paths of all leaves, in tree order.

    Example:
      >>> paths({"b": 1, "a": {"c": 2}})
      ['a/c', 'b']
    """
    return list(flatten(tree))


def map_with_path(function: Callable[..., Any], tree: Params, *more: Params) -> Params:
    """Replaces each leaf by ``function(path, leaf)``; of several equal trees, by ``function(path, leaf, leaf, ...)``.

    Example:
      >>> map_with_path(lambda path, leaf: path, {"a": {"b": 1}})
      {'a': {'b': 'a/b'}}
    """
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_string(path), *leaves), tree, *more)


def partition(params: Params, keep: Callable[[str], bool]) -> tuple[Params, Params]:
    """Splits a tree into the leaves whose path is to be kept and the rest.

    Returns:
      Two trees of the shape of ``params``, each with ``None`` where the other one holds the leaf.

    Example:
      >>> partition({"a": 1, "b": 2}, lambda path: path == "a")
      ({'a': 1, 'b': None}, {'a': None, 'b': 2})
    """
    kept = map_with_path(lambda path, leaf: leaf if keep(path) else None, params)
    rest = map_with_path(lambda path, leaf: None if keep(path) else leaf, params)
    return kept, rest


def combine(kept: Params, rest: Params) -> Params:
    """Joins the two halves of a partition; undoes ``partition``.

    Example:
      >>> combine({"a": 1, "b": None}, {"a": None, "b": 2})
      {'a': 1, 'b': 2}
    """
    return jax.tree.map(lambda a, b: b if a is None else a, kept, rest, is_leaf=lambda leaf: leaf is None)


def stack(trees: Sequence[Params]) -> Params:
    """Stacks equal trees along a new leading axis.

    Example:
      >>> stack([{"a": np.zeros(2)}, {"a": np.ones(2)}])["a"].shape
      (2, 2)
    """
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Params) -> list[Params]:
    """Cuts the leading axis off every leaf; undoes ``stack``.

    Example:
      >>> [float(member["a"]) for member in unstack({"a": np.arange(2.0)})]
      [0.0, 1.0]
    """
    return [index(tree, i) for i in range(len(jax.tree.leaves(tree)[0]))]


def index(tree: Params, i: int) -> Params:
    """Takes entry ``i`` of the leading axis of every leaf.

    Example:
      >>> float(index({"a": np.arange(3.0)}, 2)["a"])
      2.0
    """
    return jax.tree.map(lambda leaf: leaf[i], tree)


def num_parameters(tree: Params) -> int:
    """Counts the numbers in a tree; abstract leaves (``jax.ShapeDtypeStruct``) count too.

    Example:
      >>> num_parameters({"omega": np.zeros((12, 8, 768))})
      73728
    """
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in jax.tree.leaves(tree))


def content_hash(tree: Params) -> str:
    """Returns the SHA-256 of a tree's paths, shapes, dtypes and bytes, whatever the order its dicts were built in.

    Example:
      >>> content_hash({"a": np.zeros(1)}) == content_hash({"a": np.ones(1)})
      False
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(tree).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {np.shape(leaf)}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
