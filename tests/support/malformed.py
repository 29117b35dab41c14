"""A folder with everything that a command needs, each thing good until a case spoils it."""

import atexit
import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from scalearn_jax import tree
from scalearn_jax.config import AdapterConfig, TransferConfig
from scalearn_jax.io.tensors import load_tensors, save_tensors, save_tree
from scalearn_jax.stages import outputs, pipeline
from scalearn_jax.train import checkpoint
from tests.support import tiny_backbone

TASK = {"name": "mine", "kind": "classification", "texts": ["text"], "labels": ["bad", "good"], "max_length": 16}
ROWS = [{"text": f"the food was good {number}", "label": number % 2} for number in range(24)]
STUDY = {"name": "A study", "sources": ["mine"], "targets": ["mine"], "methods": ["scalearn"], "stage2": {"epochs": 1}}


@cache
def good() -> Path:
    """A backbone, a data folder and one finished run of either stage; made once, never changed."""
    root = Path(mkdtemp(prefix="scalearn-malformed-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    tiny_backbone.write(root / "backbone")
    write_data(root / "data")
    where = dict(backbone=str(root / "backbone"), data_dir=str(root / "data"), max_steps=1)
    single = AdapterConfig(task="mine", out=str(root / "single"), seeds=(0, 1), reduction_factor=4, **where)
    write_run("adapter", pipeline.adapter_setups(single))
    scaled = TransferConfig(target="mine", out=str(root / "scaled"), sources=(str(root / "single"),), **where)
    write_run("transfer", pipeline.transfer_setups(scaled))
    return root


def write_run(kind: str, setups: list) -> None:
    """Writes the folder that a run of one setup would leave, with its first parameters in place of trained ones."""
    [setup] = setups
    folder = Path(setup.config.out)
    folder.mkdir()
    for number, seed in enumerate(setup.config.seeds):
        save_tree(folder / f"seed-{seed}.safetensors", tree.index(setup.trainable, number))
    save_tree(folder / "frozen.safetensors", {"adapters": setup.frozen["adapters"]})
    score = {"dev": {"accuracy": 0.5}, "test": {"accuracy": 0.5}}
    results = {"main_metric": "accuracy", "seeds": {str(seed): score for seed in setup.config.seeds}}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "run.json").write_text(json.dumps(outputs.describe(kind, setup)))


def write_data(folder: Path, **files: Any) -> Path:
    """Writes a task's files; ``train_csv`` stands for ``train.csv``, ``None`` leaves a file out."""
    folder.mkdir()
    split = {"train_jsonl": ROWS, "validation_jsonl": ROWS[:4], "task_json": TASK}
    for name, content in (split | files).items():
        if content is not None:
            name = name.replace("_jsonl_gz", ".jsonl.gz").replace("_", ".")
            (folder / name).write_bytes(as_bytes(content, lines=".jsonl" in name))
    return folder


def as_bytes(content: Any, lines: bool = False) -> bytes:
    """Bytes and text as they are; all else as JSON, a list of rows a line each where asked for."""
    if isinstance(content, bytes | str):
        return content.encode() if isinstance(content, str) else content
    return "".join(json.dumps(row) + "\n" for row in content).encode() if lines else json.dumps(content).encode()


class Place:
    """Where a case lays out its input.

    Methods that return ``argv`` take what is to differ: flags by name, ``None`` for one that is to be left out.
    """

    def __init__(self, root: Path):
        self.root = root
        self.out = str(root / "out")

    def file(self, name: str, content: Any = "") -> str:
        """Writes a file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_bytes(content, lines=".jsonl" in name))
        return str(path)

    def folder(self, name: str) -> str:
        """Makes an empty folder."""
        (self.root / name).mkdir(parents=True)
        return str(self.root / name)

    def link(self, name: str, target: str) -> str:
        """Makes a link."""
        (self.root / name).symlink_to(target)
        return str(self.root / name)

    def data(self, **files: Any) -> str:
        """A data folder, see ``write_data``."""
        return str(write_data(self.root / "data", **files))

    def labelled(self, *labels: Any, **task: Any) -> str:
        """A data folder whose training rows begin with some labels."""
        rows = [row | {"label": label} for row, label in zip(ROWS, labels, strict=False)]
        return self.data(train_jsonl=rows + ROWS[len(rows) :], task_json=TASK | task)

    def backbone(self, **files: Any) -> str:
        """A backbone; ``config_json`` and so on replace a file, ``None`` removes it."""
        shutil.copytree(good() / "backbone", self.root / "backbone")
        self._replace(self.root / "backbone", files)
        return str(self.root / "backbone")

    def sizes(self, **changes: Any) -> str:
        """A backbone whose ``config.json`` says something else than its weights."""
        config = json.loads((good() / "backbone" / "config.json").read_text())
        return self.backbone(config_json=config | changes)

    def run(self, kind: str = "single", _files: dict | None = None, **changes: Any) -> str:
        """A finished run with other values in ``run.json``; dots lead inside: ``{"spec.dtype": 1}``."""
        shutil.copytree(good() / kind, self.root / kind)
        info = json.loads((good() / kind / "run.json").read_text())
        for name, value in changes.items():
            *parents, last = name.split(".")
            inner = info
            for parent in parents:
                inner = inner[parent]
            inner[last] = value
        (self.root / kind / "run.json").write_text(json.dumps(info))
        self._replace(self.root / kind, _files or {})
        return str(self.root / kind)

    def weights(self, change, kind: str = "single", file: str = "seed-0.safetensors") -> str:
        """A finished run some of whose weights were changed."""
        run = self.run(kind)
        save_tensors(Path(run) / file, change(load_tensors(Path(run) / file)))
        return run

    def _replace(self, folder: Path, files: dict[str, Any]) -> None:
        for name, content in files.items():
            path = folder / name
            if path.suffix != ".bin":
                path = folder / name.replace("_json", ".json").replace("_safetensors", ".safetensors")
            path.unlink(missing_ok=True) if content is None else path.write_bytes(as_bytes(content))

    def stopped(self, seal: bool = False, meta: dict | None = None, **files: Any) -> list[str]:
        """``scalearn train-adapter`` on top of a checkpoint, some of whose files were replaced.

        Args:
          seal: whether the manifest is written for the files as they are then.
          meta: what differs in ``meta.json``.
          **files: see ``backbone``.
        """
        folder = self.root / "out.partial" / "checkpoints" / "3.0"
        folder.parent.mkdir(parents=True)
        (self.root / "out.partial" / ".lock").touch()
        (self.root / "out.partial" / "metrics.jsonl").write_text("{}\n")
        checkpoint.write(folder, 3, {"state/step": np.zeros(1)}, {"facts": {"--seeds": [7]}})
        if meta is not None:
            self._replace(folder, {"meta_json": json.loads((folder / "meta.json").read_text()) | meta})
        self._replace(folder, files)
        if seal:
            checkpoint.seal(folder)
        return self.train()

    def train(self, **flags: Any) -> list[str]:
        """``scalearn train-adapter``."""
        return ["train-adapter", *self._flags({"task": "mine"} | self._common() | flags)]

    def transfer(self, **flags: Any) -> list[str]:
        """``scalearn transfer``."""
        given = {"target": "mine", "sources": str(good() / "single")}
        return ["transfer", *self._flags(given | self._common() | flags)]

    def _common(self) -> dict[str, str]:
        where = {"backbone": str(good() / "backbone"), "data_dir": str(good() / "data")}
        return where | {"out": self.out, "max_steps": "1"}

    def configured(self, content: Any, **flags: Any) -> list[str]:
        """``scalearn train-adapter --config FILE``."""
        return self.train(config=self.file("c.yaml", content), **flags)

    def predict(self, content: Any = None, *, name: str = "rows.jsonl", run: str | None = None, **flags: Any):
        """``scalearn predict``."""
        rows = self.file(name, ROWS if content is None else content)
        given = {"input": rows, "output": str(self.root / "out")} | flags
        return ["predict", run or str(good() / "single"), *self._flags(given)]

    def evaluate(self, run: str, **flags: Any) -> list[str]:
        """``scalearn evaluate``."""
        return ["evaluate", run, *self._flags(flags)]

    def explain(self, run: str, **flags: Any) -> list[str]:
        """``scalearn explain``."""
        return ["explain", run, *self._flags({"out": self.out} | flags)]

    def study(self, content: Any = None, **flags: Any) -> list[str]:
        """``scalearn run``; of a dict, what differs from a good study."""
        if isinstance(content, dict):
            where = {"backbone": str(good() / "backbone"), "data_dir": str(good() / "data")}
            content = STUDY | where | content
        return ["run", self.file("study.yaml", content), *self._flags({"out": self.out} | flags)]

    def command(self, command: str, *given: str, **flags: Any) -> list[str]:
        """Any other command."""
        return [command, *given, *self._flags(flags)]

    def results(self, **files: Any) -> list[str]:
        """``scalearn report`` on a folder with one run, some of whose files were replaced."""
        self.run(_files=files)
        return ["report", str(self.root), "--out", self.out]

    def _flags(self, flags: dict[str, Any]) -> list[str]:
        found = []
        for name, value in flags.items():
            if value is not None:
                found += [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
        return found


def snapshot(root: Path) -> dict[str, Any]:
    """Every path below a folder with what it holds, but for the two files that say who writes or wrote it."""
    held = {}
    for path in sorted(path for path in root.rglob("*") if path.name not in (".lock", ".owner")):
        name = str(path.relative_to(root))
        held[name] = str(path.readlink()) if path.is_symlink() else path.is_dir() or path.read_bytes()
    return held
