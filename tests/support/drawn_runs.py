"""Run folders with drawn parameters over a backbone folder: finished runs of any method and task, without training."""

import jax
import numpy as np

from scalearn_jax import methods, model, tree
from scalearn_jax.io import files
from scalearn_jax.io.tensors import save_tensors
from scalearn_jax.models import pretrained
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs import run_json


def write(folder, backbone, task, *, method="scalearn", head="two_layer", seeds=(0,), options=None, **changes):
    """Writes a run.

    Args:
      folder: where.
      backbone: its folder.
      task: its row.
      method: a key of ``METHODS``.
      head: kind of the head.
      seeds: parameters N(0, 0.3) are drawn from each.
      options: of the combiner.
      **changes: fields of the spec that differ; by default sources are 3 of width 4.

    Returns:
      The folder, as text.
    """
    _, sizes, content = pretrained.load_hashed_backbone(str(backbone))
    combiner = methods.get(method).combiner
    fields = {"num_sources": {"single": 1, "ia3": 0, "none": 0}.get(combiner, 3), "bottleneck": 4} | changes
    spec = model.ModelSpec(
        backbone=sizes,
        combiner=combiner,
        combiner_options=tuple(sorted((options or {}).items())),
        heads=((task.name, HeadSpec(head, task.num_outputs, task.num_choices)),),
        **fields,
    )
    folder.mkdir(parents=True)
    for seed in seeds:
        save_tensors(folder / f"seed-{seed}.safetensors", _drawn(spec, seed))
    names = [] if methods.get(method).trains_adapter else [f"s{i}" for i in range(spec.num_sources)]
    info = {
        "format": run_json.FORMAT,
        "kind": "transfer",
        "method": method,
        "config": {"max_train_samples": None, "max_eval_samples": None},
        "task": task.to_dict(),
        "backbone": {"path": str(backbone), "revision": None, "hash": content},
        "data_dir": None,
        "spec": run_json.spec_to_dict(spec),
        "sources": [{"name": name, "path": name, "hash": name} for name in names],
        "seeds": list(seeds),
        "parameters": {},
    }
    files.write_json(folder / "run.json", info)
    return str(folder)


def _drawn(spec, seed):
    """All parameters but the backbone's."""
    generator = np.random.default_rng((seed, *spec.heads[0][0].encode()))
    shapes = tree.flatten(jax.eval_shape(lambda: model.init(jax.random.key(0), spec)))
    own = {name: leaf.shape for name, leaf in shapes.items() if not name.startswith("backbone/")}
    return {name: generator.normal(0, 0.3, shape).astype(np.float32) for name, shape in own.items()}
