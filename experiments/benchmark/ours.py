"""Our workers: what one process of the benchmark does.

Each takes a cell's setting and returns what goes to its file.
"""

import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

Setting = dict[str, Any]
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8, "s64": 8, "u64": 8}


def step(setting: Setting) -> dict[str, Any]:
    """One method's step, see ``step.measure_steps``."""
    from experiments.benchmark.step import make_workload, measure_steps
    from scalearn_jax.io.cache import keep_compiled_programs

    keep_compiled_programs()
    return measure_steps(make_workload(setting), setting["repeats"])


def batches(setting: Setting) -> dict[str, Any]:
    """Writes padded batches for the other side: ids, mask and token types Int[K B S], labels [K B]."""
    import numpy as np

    from experiments.benchmark.step import make_workload

    load = make_workload(setting | {"method": "head", "sources": 0})
    fields = {
        "ids": [batch.tokens[0] for batch in load.batches],
        "mask": [(batch.segments[0] > 0).astype(np.int64) for batch in load.batches],
        "types": [batch.token_types[0] for batch in load.batches],
        "labels": [batch.labels[0] for batch in load.batches],
    }
    Path(setting["file"]).parent.mkdir(parents=True, exist_ok=True)
    np.savez(setting["file"], **{name: np.stack(leaves) for name, leaves in fields.items()})
    return {"outputs": load.task.num_outputs, "mean_length": float(np.mean(np.sum(fields["mask"], axis=-1)))}


def logits(setting: Setting) -> dict[str, Any]:
    """Writes our ScaLearn's weights and its logits without dropout, for the other side to compare.

    Adapters and head are five times as large as at their start, so that a wrong one would show.
    """
    import jax
    import numpy as np

    from experiments.benchmark.step import make_workload
    from scalearn_jax import model, tree

    load = make_workload(setting)
    params = tree.combine(tree.index(load.trainable, 0), load.frozen)
    params |= {name: jax.tree.map(lambda leaf: 5 * leaf, params[name]) for name in ("adapters", "heads")}
    batch = tree.index(load.batches[0], 0)
    found = model.apply(params, batch, spec=load.spec, task=load.task.name)
    weights = tree.flatten({name: params[name] for name in ("adapters", "transfer")})
    weights |= tree.flatten(params["heads"][load.task.name])
    np.savez(setting["logits"], logits=found, **{name: np.asarray(leaf) for name, leaf in weights.items()})
    return {}


def peak(setting: Setting) -> dict[str, Any]:
    """The machine's own speed at large matrix products: float32, and on an accelerator bfloat16.

    ``at_once`` products are in flight together, so that an accelerator need not wait for the host.
    """
    import jax
    import jax.numpy as jnp

    from experiments.benchmark.measure import SHAPES, matmul_rates

    product, count = jax.jit(lambda a, b: a @ b), setting.get("at_once", 1)

    def prepare(dtype):
        def with_shape(shape):
            a, b = jnp.ones(shape[:2], dtype), jnp.ones(shape[1:], dtype)
            return lambda: jax.block_until_ready([product(a, b) for _ in range(count)])

        return with_shape

    kinds = ("float32",) if jax.default_backend() == "cpu" else ("float32", "bfloat16")
    return {kind: matmul_rates(prepare(kind), setting.get("shapes", SHAPES), count) for kind in kinds}


def collectives(setting: Setting) -> dict[str, Any]:
    """Bytes that a data-parallel step exchanges, read off its compiled program; nothing runs."""
    import jax

    from experiments.benchmark.step import compile_programs, make_program, make_workload
    from scalearn_jax.train import state

    load = make_workload(setting)
    [program] = compile_programs(make_program(load), load)
    trainable = state.count_parameters(load.trainable)["trainable"]
    found = collective_bytes(program.as_text())
    return {"devices": jax.device_count(), "bytes": found, "total": sum(found.values()), "trainable": trainable}


def collective_bytes(text: str) -> dict[str, int]:
    """Sums the sizes of what each kind of collective gives, in bytes.

    Args:
      text: a compiled program.

    Returns:
      ``{kind: bytes}``, of the kinds that occur.

    Example:
      >>> collective_bytes("  %a = (f32[2,3]{1,0}, f32[]) all-reduce(%x, %y), replica_groups={}")
      {'all-reduce': 28}
    """
    found: dict[str, int] = {}
    pattern = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")
    for shapes, kind in pattern.findall(text):
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            count = 1
            for size in filter(None, sizes.split(",")):
                count *= int(size)
            found[kind] = found.get(kind, 0) + count * _BYTES.get(dtype, 4)
    return found


def scalearn() -> list[str]:
    """The command line as users start it: the script beside this interpreter, if the package is installed."""
    script = Path(sys.executable).parent / "scalearn"
    return [str(script)] if script.exists() else [sys.executable, "-c", "from scalearn_jax.cli import run; run()"]


def help_time(setting: Setting) -> dict[str, Any]:
    """``scalearn --help``, the whole process, best of several."""

    def call() -> float:
        started = time.perf_counter()
        subprocess.run([*scalearn(), "--help"], check=True, capture_output=True)
        return time.perf_counter() - started

    return {"seconds": min(call() for _ in range(setting["repeats"] + 2))}


def first_step(setting: Setting) -> dict[str, Any]:
    """From the start of ``scalearn transfer`` to its first finished step, with cold and with warm caches."""
    with tempfile.TemporaryDirectory() as folder:
        command = transfer_command(setting, Path(folder))
        environment = os.environ | {"SCALEARN_CACHE": str(Path(folder) / "cache")}
        cold, warm = (_until_step(command + ["--out", f"{folder}/{name}"], environment) for name in ("cold", "warm"))
    return {"cold": cold, "seconds": warm}


def transfer_command(setting: Setting, folder: Path) -> list[str]:
    """The command of a run of one step, with random AdapterHub folders as its sources."""
    from experiments.benchmark.step import random_sources
    from scalearn_jax.models import pretrained
    from scalearn_jax.runs import adapterhub

    sizes = pretrained.backbone_spec(setting["backbone"])
    for source in random_sources(sizes, setting["sources"]):
        adapterhub.save(source.adapter, folder / source.name, name=source.name, config={"model_type": sizes.family})
    sources = [str(folder / f"source-{number}") for number in range(setting["sources"])]
    data = ["--data-dir", setting["data_dir"]] if setting["data_dir"] else []
    options = {
        "--target": setting["task"],
        "--method": setting["method"],
        "--backbone": setting["backbone"],
        "--max-steps": 1,
        "--max-eval-samples": 32,
        "--batch-size": setting["batch_size"],
        "--max-length": setting["length"],
    }
    flags = [str(part) for option in options.items() for part in option]
    return [*scalearn(), "transfer", *flags, *data, "--sources", *sources]


def _until_step(command: list[str], environment: dict[str, str]) -> float:
    """Seconds from the start of a process to its first line about a step; the process then ends by itself."""
    started, seen, lines = time.perf_counter(), None, []
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        for line in process.stderr:
            lines.append(line)
            if seen is None and line.startswith("step 1/"):
                seen = time.perf_counter() - started
    if process.returncode or seen is None:
        raise RuntimeError("".join(itertools.islice(reversed(lines), 3)))
    return seen


WORKERS = {
    "step": step,
    "batches": batches,
    "logits": logits,
    "peak": peak,
    "collectives": collectives,
    "help": help_time,
    "first-step": first_step,
}
