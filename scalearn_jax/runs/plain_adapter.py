"""What most runs come to once they are trained: one ordinary adapter in every layer, and a head of two layers.

    sum_t w_t * (phi(z D_t + b_t) U_t + c_t) = phi(z D + b) U + c,   D = [D_1 .. D_T],  U = [w_1 * U_1; .. ; w_T * U_T]

since no scale w_t depends on the token (arXiv 2310.01217, section 3). So a run of any ScaLearn variant, of AdapterSoup
or of one adapter can be written, loaded and served as one adapter, whatever it was trained as.

Letters: L layers, d hidden size, w width of the adapter, C outputs.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scalearn_jax import combiners, methods, model
from scalearn_jax.combiners.base import ADAPTER, adapter_phi
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.model import ModelSpec
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.bank import NOT_LINEAR
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs.load import Run
from scalearn_jax.typing import Params

_SMALL = np.float32(2.0**-14)  # tanh(x) = x to float32's precision for |x| below 6e-4, here of inputs up to 10


@dataclasses.dataclass(frozen=True)
class PlainAdapter:
    """One adapter with its head, over a backbone that is kept elsewhere."""

    task: Task  # what it answers
    adapter: Params  # ``down`` kernel Float[L d w] and so on, float32 numpy arrays; few have a ``norm``
    non_linearity: str  # its phi
    head: Params | None  # ``{"dense", "out"}``, kernels Float[d d] and Float[d C]; ``None`` where there is none
    head_spec: HeadSpec | None  # its shape, of kind ``"two_layer"``; ``None`` likewise
    backbone: BackboneSpec  # sizes of the encoder, which needs no pooler
    # the backbone's ``path`` (folder or hub id), ``revision`` and content ``hash``, as in ``run.json``
    origin: dict[str, Any]

    @property
    def width(self) -> int:
        """Units of the bottleneck in each layer, w."""
        return self.adapter["down"]["kernel"].shape[2]

    @property
    def spec(self) -> ModelSpec:
        """It as a model of one adapter, in float32; see ``params``."""
        return ModelSpec(
            backbone=self.backbone,
            combiner="single",
            combiner_options=(("norm_after", True),) if "norm" in self.adapter else (),
            heads=((self.task.name, self.head_spec),) if self.head_spec else (),
            num_sources=1,
            bottleneck=self.width,
            non_linearity=self.non_linearity,
        )

    def params(self, backbone: Params) -> Params:
        """Its parameters over a backbone, those of ``spec``."""
        bank = {part: {name: leaf[:, None] for name, leaf in leaves.items()} for part, leaves in self.adapter.items()}
        heads = {self.task.name: self.head} if self.head else {}
        return {"backbone": backbone, "adapters": bank, "transfer": {}, "heads": heads}


def to_plain_adapter(run: Run, seed: int) -> PlainAdapter:
    """Folds one seed of a finished run.

    Returns:
      The adapter and head; a head on the backbone's own pooler gets a copy of it.

    Raises:
      InputError: the method is no ordinary adapter in each layer.

    Example:
      >>> to_plain_adapter(load_run("runs/rte"), 0).width  # doctest: +SKIP
      384
    """
    params, spec = run.members[seed], folded_form(run.spec)
    if not is_plain(spec):
        raise _refusal(run.folder, run.info, spec)
    name, head_spec = spec.heads[0] if spec.heads else (None, None)
    return PlainAdapter(
        task=run.task,
        adapter=without_scale(model.adapt(params, spec=dataclasses.replace(spec, dtype="float32")).site),
        non_linearity=phi(spec),
        head=two_layers(params["heads"][name], params["backbone"], head_spec.kind) if name else None,
        head_spec=dataclasses.replace(head_spec, kind="two_layer") if name else None,
        backbone=dataclasses.replace(spec.backbone, has_pooler=False),
        origin=run.info["backbone"],
    )


def check_foldable(folder: str | Path, info: dict[str, Any]) -> None:
    """Checks that the method of a run folds; ``info`` is the content of its ``run.json``."""
    if info["method"] not in foldable():
        raise _refusal(folder, info)


def _refusal(folder: str | Path, info: dict[str, Any], spec: ModelSpec | None = None) -> InputError:
    if spec and spec.norm_after:
        return InputError(
            f"{folder} cannot be folded: its sources are adapters {NOT_LINEAR}, so no sum of them is one adapter; use"
            " the run itself, or sources without such a norm."
        )
    if info["method"] == methods.OWN:
        combiner = info["spec"].get("combiner")
        return InputError(
            f"{folder} was made with a combiner of one's own, {combiner}, of which it is not known whether it is one"
            f" adapter in each layer; expected a run of {', '.join(foldable())}."
        )
    return InputError(
        f"{folder} is a {info['method']!r} run, which is no ordinary adapter in each layer; expected one of"
        f" {', '.join(foldable())}."
    )


def foldable() -> list[str]:
    """Lists the methods whose runs are ordinary adapters, those of one's own included."""
    rows = methods.METHODS.items()
    return [name for name, row in rows if adapter_phi(combiners.make(row.combiner, **row.options)) is not None]


def folded_form(spec: ModelSpec) -> ModelSpec:
    """Turns a model that computes as published into the one that folds its sources first."""
    return spec.with_options(compose="folded") if spec.option("compose") and not spec.norm_after else spec


def is_plain(spec: ModelSpec) -> bool:
    """Whether a model is one ordinary adapter in each layer: its combiner's site and update say so, not its name."""
    spec = folded_form(spec)
    site = jax.eval_shape(lambda key: model.adapt(model.init(key, spec), spec=spec).site, jax.random.key(0))
    return adapter_phi(spec.combiner_functions) is not None and {"down", "up"} <= site.keys() <= set(ADAPTER)


def phi(spec: ModelSpec) -> str:
    """The non-linearity of a model's adapters: that of its update or, where this is no adapter, of its bank."""
    return adapter_phi(spec.combiner_functions) or spec.non_linearity


def without_scale(site: Params) -> Params:
    """Moves a factor on each bottleneck unit into the up-projection, as numpy arrays in float32.

    Args:
      site: ``down``, ``up`` and optionally ``scale`` Float[L w], as ``Combiner.bind`` makes it.

    Returns:
      ``{"down", "up"}``, and a ``norm`` where there is one, with the same update.

    Example:
      >>> half = {"kernel": np.ones((1, 1, 1)), "bias": np.ones((1, 1))}
      >>> float(without_scale({"down": half, "up": half, "scale": np.full((1, 1), 0.5)})["up"]["kernel"][0, 0, 0])
      0.5
    """
    found = {
        part: {name: np.asarray(leaf, np.float32) for name, leaf in site[part].items()}
        for part in ("down", "up", "norm")
        if part in site
    }
    if "scale" in site:
        found["up"]["kernel"] = np.asarray(site["scale"], np.float32)[..., None] * found["up"]["kernel"]
    return found


def two_layers(head: Params, backbone: Params, kind: str = "two_layer") -> Params:
    """Turns a head into ``{"dense", "out"}``, float32 numpy arrays.

    One on the pooler takes that as its dense layer. A linear one gets one that halves its input so often that tanh
    leaves it as it is, to rounding.
    """
    layers = head if "dense" in head else {"dense": backbone.get("pooler"), **head}
    if kind == "linear":
        kernel = np.asarray(head["out"]["kernel"], np.float32)
        dense = {"kernel": np.eye(len(kernel), dtype=np.float32) * _SMALL, "bias": np.zeros(len(kernel), np.float32)}
        layers = {"dense": dense, "out": {"kernel": kernel / _SMALL, "bias": head["out"]["bias"]}}
    return {part: {name: np.asarray(leaf, np.float32) for name, leaf in layers[part].items()} for part in layers}
