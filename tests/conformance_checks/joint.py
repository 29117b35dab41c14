"""Conformance of the joint baselines: forward passes, generated weights and masks, gradients, training runs.

A case holds, for each method, the parameters at the start (``params.safetensors``) and what the release's modules make
of them. Leaves are named and laid out as there; ``Joint`` translates both ways.
"""

import dataclasses
from collections.abc import Iterator
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax import methods, model, tree
from scalearn_jax.data.mixture import joint_batch
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.models import encoder, pretrained
from scalearn_jax.models.backbones import BACKBONES
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.train import optim
from scalearn_jax.train.state import create
from scalearn_jax.train.step import make_loss, make_train_step
from scalearn_jax.typing import JointBatch, Params
from tests.conformance_checks.cases import Case, from_torch, make_batch, to_torch
from tests.conformance_checks.forward import FLOAT64, GRADIENT, Result, compare

RUN = 1e-7
# method of the reference -> row of ``methods.JOINT``
METHODS = {
    "ft_m": "full",
    "adapter_m": "adapter",
    "propetl_m": "propetl",
    "hyperformer": "hyperformer",
    "hyperformer_pp": "hyperformer++",
}
GENERATED = dict(D="down_kernel", b="down_bias", U="up_kernel", c="up_bias", g="norm_scale", beta="norm_bias")


@dataclasses.dataclass(frozen=True)
class Joint:
    """A joint method of a case, at its start."""

    case: Case
    name: str

    @property
    def place(self) -> str:
        return f"joint/{self.name}"

    @property
    def facts(self) -> dict:
        """What the manifest knows of the method."""
        return self.case.manifest["methods"][self.name]

    @property
    def method(self) -> methods.Method:
        return methods.JOINT[METHODS[self.name]]

    def is_choice(self, task: str) -> bool:
        return f"heads.{task}.dense.weight" not in self.start

    @cached_property
    def start(self) -> dict[str, np.ndarray]:
        return load_tensors(self.case.folder / self.place / "params.safetensors")

    @cached_property
    def spec(self) -> model.ModelSpec:
        """The model; its tasks are numbered as in the manifest."""
        manifest, (_, backbone) = self.case.manifest, self.case.backbone
        options = {"tasks": tuple(self.case.tasks)} if "transfer" in self.method.trainable else {}
        if "sparsity" in self.facts:
            options["sparsity"] = self.facts["sparsity"]
        if self.name.startswith("hyperformer"):
            options["embedding_size"] = manifest["task_embedding"]
            options |= {"projector_size": manifest["projector_hidden"], "projected_size": manifest["projected"]}
        return model.ModelSpec(
            dataclasses.replace(backbone, has_pooler=False),
            self.method.combiner,
            tuple(sorted(options.items())),
            heads=tuple((task, self._head(task)) for task in self.case.tasks),
            num_sources=int(self.name == "adapter_m"),
            bottleneck=manifest["bottleneck"],
            backbone_dropout=False,
            dtype="float64",
            layers="scan",
        )

    def _head(self, task: str) -> HeadSpec:
        if not self.is_choice(task):
            return HeadSpec("two_layer", len(self.start[f"heads.{task}.out.bias"]), dropout=0.0)
        num_choices = self.case.inputs["choice_input_ids"].shape[1]
        return HeadSpec("linear" if self.name == "adapter_m" else "own_pooled", 1, num_choices, dropout=0.0)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The loss of each task."""

        def kind(head: HeadSpec) -> str:
            if head.num_choices > 1:
                return "choice"
            return "regression" if head.num_outputs == 1 else "classification"

        return tuple(kind(head) for _, head in self.spec.heads)

    @cached_property
    def params(self) -> Params:
        """The parameters at the start, named as here."""
        leaves, heads = self.start, {}
        for task, head in self.spec.heads:
            own = {name: leaf for name, leaf in leaves.items() if name.startswith(f"heads.{task}.")}
            heads[task] = from_torch(own)["heads"][task]
            if head.kind == "own_pooled":
                heads[task]["dense"] = from_torch({f"x.{n}": leaves[f"pooler.{n}"] for n in ("weight", "bias")})["x"]
        backbone = {name: part for name, part in self.case.backbone[0].items() if name != "pooler"}
        params = {"backbone": backbone, "adapters": {}, "transfer": {}, "heads": heads}
        if self.name == "adapter_m":
            adapter = from_torch({name: x for name, x in leaves.items() if name.startswith(("down", "up"))})
            params["adapters"] = jax.tree.map(lambda leaf: leaf[:, None], adapter)
        elif self.name == "propetl_m":
            scores = from_torch({f"{n}.weight": x for n, x in leaves.items() if n.startswith("scores")})["scores"]
            scores = jax.tree.map(lambda part: part["kernel"], scores, is_leaf=lambda part: "kernel" in part)
            params["transfer"] = {
                "adapter": from_torch({name: x for name, x in leaves.items() if name.startswith(("down", "up"))}),
                "scores": scores["layer"],
                "tasks": {task: {"scores": own} for task, own in scores["task"].items()},
            }
        elif self.name.startswith("hyperformer"):
            named = from_torch({n: x for n, x in leaves.items() if n.startswith(("projector", "generate"))})
            params["transfer"] = {
                **{f"projector_{part}": own for part, own in named["projector"].items()},
                **{GENERATED[part]: own for part, own in named["generate"].items()},
                **({"layer_embedding": leaves["layer_embedding"]} if "layer_embedding" in leaves else {}),
                "tasks": {task: {"embedding": leaves[f"task_embedding.{task}"]} for task in self.case.tasks},
            }
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)

    def named(self, params: Params) -> dict[str, np.ndarray]:
        """Parameters, or their gradients, under the reference's names."""
        transfer, names = params["transfer"], {}
        for task, head in self.spec.heads:
            own = params["heads"][task]
            names |= to_torch({"out": own["out"]}, f"heads.{task}.")
            if "dense" in own:
                names |= to_torch(own["dense"], "pooler." if head.kind == "own_pooled" else f"heads.{task}.dense.")
        if self.name == "ft_m":
            prefix, backbone = BACKBONES[self.spec.backbone.family].prefix, encoder.stacked(params["backbone"])
            return names | {f"{prefix}.{n}": x for n, x in pretrained.to_tensors(backbone, self.spec.backbone).items()}
        if self.name == "adapter_m":
            return names | to_torch(jax.tree.map(lambda leaf: leaf[:, 0], params["adapters"]))
        if self.name == "propetl_m":
            layers = {f"scores.layer.{part}": x.swapaxes(-1, -2) for part, x in transfer["scores"].items()}
            own = {
                f"scores.task.{task}.{part}": x.swapaxes(-1, -2)
                for task, one in transfer["tasks"].items()
                for part, x in one["scores"].items()
            }
            return names | to_torch(transfer["adapter"]) | layers | own
        projector = {n.split("_")[1]: own for n, own in transfer.items() if n.startswith("projector_")}
        own = {f"task_embedding.{task}": one["embedding"] for task, one in transfer["tasks"].items()}
        layers = {n: transfer[n] for n in ("layer_embedding",) if n in transfer}
        generate = {theirs: transfer[ours] for theirs, ours in GENERATED.items()}
        return names | to_torch({"projector": projector, "generate": generate}) | own | layers

    def batch(self, task: str, step: int | None = None) -> JointBatch:
        """A joint batch: the fixed inputs with a task's labels, or those of a training step."""
        inputs, number = self.case.inputs, self.case.tasks.index(task)
        start, place = ("", ...) if step is None else ("train_", step)
        prefix = start + ("choice_" if self.is_choice(task) else "")
        arrays = (inputs[f"{prefix}{name}"][place] for name in ("input_ids", "attention_mask"))
        batch = make_batch(*arrays, None, inputs[f"{start}labels.{task}"][place], self.spec.backbone)
        batch = jax.tree.map(np.asarray, batch)
        return joint_batch(batch, number, max(h.num_choices for _, h in self.spec.heads), self.spec.num_logits)


def joint(case: Case, name: str) -> Iterator[Result]:
    """All checks of a joint method."""
    one = Joint(case, name)
    yield from forward(one)
    for file, check in (("generated", generated), ("masks", masks)):
        if (case.folder / one.place / f"{file}.npz").exists():
            yield from check(one)
    yield from gradients(one)
    yield from training(one)


def forward(one: Joint) -> Iterator[Result]:
    """Logits, losses and states of the first tokens."""
    stored, halves = one.case.arrays(f"{one.place}/forward.npz"), _halves(one)
    loss_fn = jax.jit(make_loss(one.spec, None, one.kinds))
    apply = jax.jit(model.apply, static_argnames=("spec", "task"))
    ours: dict[str, np.ndarray] = {}
    for task, head in one.spec.heads:
        batch, number = one.batch(task), one.case.tasks.index(task)
        logits = apply(one.params, batch, spec=one.spec, task=None)
        ours[f"logits.{task}"] = logits[:, : head.num_logits]
        ours[f"loss.{task}"] = loss_fn(*halves, batch, jax.random.key(0), 0)[0]
        embeddings = encoder.Embeddings(one.spec.backbone, one.spec.dtype)
        embedded = embeddings.apply({"params": one.params["backbone"]["embeddings"]}, batch)
        observe = lambda site, h, out: out  # noqa: E731
        _, outputs = model.encode(one.params, batch, spec=one.spec, observe=observe, task=number)
        ours[f"first.{task}"] = jnp.concatenate([embedded[None], outputs])[:, :, 0]
    alone = {f"logits.{task}": apply(one.params, batch, spec=one.spec, task=task)[: len(batch.labels)]}
    yield compare(f"{one.place} forward logits of {task} by name", alone, {n: stored[n] for n in alone}, FLOAT64)
    for part in ("logits", "loss", "first"):
        theirs = {key: array for key, array in stored.items() if key.startswith(f"{part}.")}
        yield compare(f"{one.place} forward {part}", ours, theirs, FLOAT64)


def _sites(one: Joint) -> list[Params]:
    return [model.adapt(one.params, spec=one.spec, task=number).site for number in range(len(one.case.tasks))]


def generated(one: Joint) -> Iterator[Result]:
    """The weights that are generated for each task and layer."""
    sites = tree.stack(_sites(one))  # [T, L, ...]
    ours = {
        "D": sites["down"]["kernel"].swapaxes(-1, -2),
        "b": sites["down"]["bias"],
        "U": sites["up"]["kernel"].swapaxes(-1, -2),
        "c": sites["up"]["bias"],
        "g": sites["norm"]["scale"],
        "beta": sites["norm"]["bias"],
    }
    yield compare(f"{one.place} generated", ours, one.case.arrays(f"{one.place}/generated.npz"), FLOAT64)


def masks(one: Joint) -> Iterator[Result]:
    """The masks of each task and layer: where the bound kernels of an adapter of ones are kept."""
    stored, transfer = one.case.arrays(f"{one.place}/masks.npz"), one.params["transfer"]
    ones = one.params | {"transfer": transfer | {"adapter": jax.tree.map(jnp.ones_like, transfer["adapter"])}}
    kept = [model.adapt(ones, spec=one.spec, task=number).site for number in range(len(one.case.tasks))]
    ours = {part: tree.stack(kept)[part]["kernel"].swapaxes(-1, -2) for part in ("down", "up")}
    yield compare(f"{one.place} masks", ours, {part: stored[part] for part in ours}, 0)


def gradients(one: Joint) -> Iterator[Result]:
    """The loss of some tasks, its gradient, and that leaves of other tasks have none."""
    stored, (trainable, frozen) = one.case.arrays(f"{one.place}/grads.npz"), _halves(one)
    differentiate = jax.jit(jax.value_and_grad(make_loss(one.spec, None, one.kinds), has_aux=True))
    for task in one.case.manifest["gradient_tasks"]:
        (loss, _), grads = differentiate(trainable, frozen, one.batch(task), jax.random.key(0), 0)
        found = {name: np.asarray(leaf) for name, leaf in one.named(tree.combine(grads, frozen)).items()}
        ours = {f"{task}.grad.{name}": strided(leaf, one.facts["grad_stride"]) for name, leaf in found.items()}
        theirs = {key: array for key, array in stored.items() if key.startswith(f"{task}.grad.")}
        yield compare(f"{one.place} {task} gradient", ours, theirs, GRADIENT)
        yield compare(f"{one.place} {task} loss", {"x": loss}, {"x": stored[f"{task}.loss"]}, FLOAT64)
        none = [np.abs(found[name]).max() for name in one.facts["no_gradient"][task] if name in found]
        yield Result(f"{one.place} {task} leaves without gradient", max(none, default=0.0), 0)


def _halves(one: Joint) -> tuple[Params, Params]:
    return tree.partition(one.params, methods.is_trainable(one.method))


def strided(array: np.ndarray, stride: int) -> np.ndarray:
    """Every n-th element of a large leaf, as the manifest says."""
    return array.ravel()[::stride] if stride > 1 and array.size > 512 else array


def training(one: Joint) -> Iterator[Result]:
    """Steps of the package's own training on one task each: losses, rates, gradient norms and all parameters."""
    stored, run = one.case.arrays(f"{one.place}/train.npz"), one.case.manifest["training"]
    tx = optim.make_optimizer(
        learning_rate=run["peak_lr"],
        num_steps=run["steps"],
        warmup_steps=run["warmup"],
        weight_decay=run["weight_decay"],
        clip_norm=run["clip"],
        trainable=one.method.trainable,
        tasks=one.case.tasks,
        factors=tuple((text, one.facts.get("mask_lr_ratio", factor)) for text, factor in one.method.factors),
    )
    step = jax.jit(make_train_step(make_loss(one.spec, None, one.kinds), tx))
    trainable, frozen = _halves(one)
    state, ours = create(trainable, tx, jax.random.key(0)), {}
    history: dict[str, list] = {"loss": [], "grad_norm": [], "lr": []}
    rate = optim.linear_decay(run["peak_lr"], run["steps"], run["warmup"])
    for number, task in enumerate(run["tasks"]):
        state, metrics = step(state, frozen, one.batch(task, number))
        for name, value in {**metrics, "lr": rate(number)}.items():
            history.setdefault(name, []).append(value)
        if number + 1 in run["snapshots"]:
            for name, leaf in one.named(tree.combine(state.trainable, frozen)).items():
                ours[f"after.{number + 1}.{name}"] = strided(np.asarray(leaf), one.facts["train_stride"])
    ours |= {name: np.stack(history[name]) for name in ("loss", "grad_norm", "lr")}
    for part in ("loss", "lr", "grad_norm", *(f"after.{number}" for number in run["snapshots"])):
        theirs = {key: array for key, array in stored.items() if key.startswith(part)}
        yield compare(f"{one.place} train {part}", ours, theirs, RUN)
