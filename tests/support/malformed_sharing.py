"""Malformed input of the commands that share: import, export, fold, predict of several folders, push and fetch."""

import json
import shutil
from pathlib import Path

import numpy as np

from scalearn_jax.data.task import Task
from scalearn_jax.io.tensors import load_tensors, save_tensors
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs import adapterhub, provenance
from scalearn_jax.sharing.exporting import setup
from scalearn_jax.sharing.folders import save_task_head
from tests.support.malformed import ROWS, TASK, Place, as_bytes, good

TOKEN = "hf_" + 12 * "aB3"
COMMIT = 40 * "0"
DEEP = 500 * "[" + 500 * "]"
SIZES = {"model_type": "bert", "model_name": "tiny"}
CONFIG, HEAD, WEIGHTS = "adapter_config.json", "head_config.json", "adapter.safetensors"
HEAD_WEIGHTS, SAID, FUSED = "model_head.safetensors", "scalearn.json", "model_adapter_fusion.safetensors"
JOINED = "a,b/adapter_fusion_config.json"


def _linear(*shape: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(shape).normal
    kernel, bias = draw(size=shape), draw(size=(*shape[:-2], shape[-1]))
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def _adapter() -> dict:
    return {"down": _linear(2, 16, 4), "up": _linear(2, 4, 16)}


def _write_adapter(folder: Path) -> None:
    """An adapter with its head, as ``scalearn fold`` leaves it."""
    info = json.loads((good() / "single" / "run.json").read_text())
    head = {"dense": _linear(16, 16), "out": _linear(16, 2)}
    adapterhub.save(_adapter(), folder, name="mine", config=SIZES)
    save_task_head(head, HeadSpec("two_layer", 2), Task.from_dict(TASK), folder, name="mine", config=SIZES)
    said = provenance.describe_run("fold", good() / "single", info, Task.from_dict(TASK), 0)
    provenance.write_provenance(folder, said)


def _write_setup(folder: Path) -> None:
    """A fusion of two adapters, as ``scalearn export`` leaves it."""
    for name in ("a", "b"):
        adapterhub.save(_adapter(), folder / name, name=name, config=SIZES)
    value = {"kernel": _linear(2, 16, 16)["kernel"]}
    layers = {"query": _linear(2, 16, 16), "key": _linear(2, 16, 16), "value": value}
    adapterhub.save_fusion(layers, folder / "a,b", names=("a", "b"), config=SIZES)
    (folder / "adapter_setup.json").write_text(json.dumps(setup(("a", "b"), None)))


def _write_scales(folder: Path) -> None:
    """ScaLearn layers over the same two, as the published implementation leaves them."""
    folder.mkdir()
    config = {"learn_omega": True, "query_before_ln": False, "residual": True, "omega_shape": "vector"}
    content = {"config": config | {"per_layer": False}, "name": "a,b", "adapter_names": ["a", "b"], "hidden_size": 16}
    (folder / "scalearn_config.json").write_text(json.dumps(content))
    save_tensors(folder / "transfer.safetensors", {"omega": np.ones((2, 2, 16), np.float32)})


def shared(kind: str) -> Path:
    """A good folder: ``adapter``, ``setup`` or ``scales``; made once, never changed."""
    folder = good() / kind
    if not folder.exists():
        {"adapter": _write_adapter, "setup": _write_setup, "scales": _write_scales}[kind](folder)
    return folder


def spoilt(p: Place, kind: str, changes: dict, name: str | None = None) -> str:
    """A copy of a good folder, some of whose files were changed.

    Args:
      p: the place.
      kind: see ``shared``.
      changes: file -> ``None`` to remove it, a function of its tensors, a dict of what differs in its JSON with dots
        that lead inside, or its new content.
      name: of the copy.
    """
    folder = Path(shutil.copytree(shared(kind), p.root / (name or kind)))
    for file, change in changes.items():
        path = folder / file
        if change is None:
            path.unlink()
        elif callable(change):
            save_tensors(path, change(load_tensors(path)))
        else:
            path.write_bytes(as_bytes(_differing(path, change) if isinstance(change, dict) else change))
    return str(folder)


def _differing(path: Path, change: dict) -> dict:
    content = json.loads(path.read_text())
    for name, value in change.items():
        *parents, last = name.split(".")
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return content


def imports(p: Place, kind: str, changes: dict | None = None, **flags) -> list[str]:
    """``scalearn import`` of a folder, some of whose files were changed."""
    source = spoilt(p, kind, changes or {})
    return p.command("import", source, **{"out": p.out, "backbone": str(good() / "backbone")} | flags)


def scales(p: Place, changes: dict | None = None, **flags) -> list[str]:
    """``scalearn import`` of ScaLearn layers with their sources."""
    return imports(p, "scales", changes, **{"sources": [str(shared("setup") / name) for name in "ab"]} | flags)


def setup_of(p: Place, *names, **changes) -> list[str]:
    """``scalearn import`` of a setup that names other children."""
    children = [{"type": "single", "children": name} for name in names]
    content = {"adapter_setup": {"type": "Fuse", "children": children} | changes}
    return imports(p, "setup", {"adapter_setup.json": content})


def served(p: Place, changes: dict | None = None, rows=None, also=(), **flags) -> list[str]:
    """``scalearn predict`` with an adapter, some of whose files were changed, and others."""
    where = {"backbone": str(good() / "backbone")} | ({"also": list(also)} if also else {})
    return p.predict(rows, run=spoilt(p, "adapter", changes or {}), **where | flags)


def mixed(p: Place, *names, run: str = "scaled", **changes) -> list[str]:
    """``scalearn predict`` of two tasks, for rows that name some."""
    second = p.run(run, **{"task.name": "yours", "spec.heads": [["yours", _head_of(run)]]} | changes)
    leaves = lambda x: {name.replace("/mine/", "/yours/"): leaf for name, leaf in x.items()}  # noqa: E731
    for path in Path(second).glob("seed-*.safetensors"):
        save_tensors(path, leaves(load_tensors(path)))
    rows = [row | {"task": name} for row, name in zip(ROWS, names, strict=False)] if names else None
    return p.predict(rows, also=[second])


def _head_of(run: str) -> dict:
    return json.loads((good() / run / "run.json").read_text())["spec"]["heads"][0][1]


def pushes(p: Place, changes: dict | None = None, repo: str = "me/mine", kind: str = "adapter", **flags) -> list[str]:
    """``scalearn push --dry-run``."""
    return [*p.command("push", spoilt(p, kind, changes or {}), repo, **flags), "--dry-run"]


def without(*names: str):
    """Leaves out the tensors whose names end so."""
    return lambda tensors: {name: x for name, x in tensors.items() if not name.endswith(names)}


def each(change):
    """Changes every tensor."""
    return lambda tensors: {name: change(x) for name, x in tensors.items()}


def native(p: Place, **flags) -> list[str]:
    """``scalearn export --format native`` of a run with other values in ``run.json``."""
    return p.command("export", p.run("scaled", **flags), out=p.out, format="native")


def folded(p: Place, run: str | None = None, **flags) -> list[str]:
    """``scalearn fold``."""
    return p.command("fold", run or str(good() / "scaled"), **{"out": p.out} | flags)


def linked(p: Place, argv: list[str], file: str, to: str) -> list[str]:
    """Puts a link in the place of a file."""
    path = Path(p.root / file)
    path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path)
    path.symlink_to(to)
    return argv


def _folder_at(p: Place, argv: list[str], file: str) -> list[str]:
    """Puts a folder in the place of a file."""
    p.folder(file)
    return argv


IMPORTS = {
    "a scalearn.json that is a list": (lambda p: imports(p, "adapter", {SAID: "[]"}), "expected a JSON object"),
    "a scalearn.json cut short": (lambda p: imports(p, "adapter", {SAID: "{"}), "scalearn.json is not valid JSON"),
    "a scalearn.json of another format": (lambda p: imports(p, "adapter", {SAID: {"format": [1]}}), "has format [1]"),
    "a scalearn.json that is huge": (
        lambda p: imports(p, "adapter", {SAID: " " * 16_000_001}), "has more than 16000000 bytes",
    ),
    "a scalearn.json of lists in lists": (
        lambda p: imports(p, "adapter", {SAID: f'{{"a": {DEEP}}}'}), "nests more than 100 lists",
    ),
    "a scalearn.json without a backbone": (
        lambda p: imports(p, "adapter", {SAID: {"backbone": None}}), "backbone must hold name, revision and hash",
    ),
    "a scalearn.json without a revision": (
        lambda p: imports(p, "adapter", {SAID: {"backbone": {"name": "a", "hash": "0f"}}}), "backbone must hold name,",
    ),
    "a scalearn.json with a number for a hash": (
        lambda p: imports(p, "adapter", {SAID: {"backbone.hash": 5}}), "backbone must hold name, revision and hash",
    ),
    "a scalearn.json of another backbone": (
        lambda p: imports(p, "adapter", {SAID: {"backbone.hash": "0f"}}), "was trained on backbone 0f",
    ),
    "a scalearn.json with a task that is text": (
        lambda p: imports(p, "adapter", {SAID: {"task": "mine"}}), "task must be a task row, got a str",
    ),
    "a scalearn.json with a task whose name leads out": (
        lambda p: imports(p, "adapter", {SAID: {"task.name": "../x"}}), "task name '../x'",
    ),
    "a scalearn.json of a task with more labels": (
        lambda p: imports(p, "adapter", {SAID: {"task.labels": ["a", "b", "c"]}}), "a classification of 3 outputs",
    ),
    "a scalearn.json that is a link out": (
        lambda p: linked(p, imports(p, "adapter"), f"adapter/{SAID}", "/etc/passwd"), "leads out of its folder",
    ),
    "a scalearn.json that is a folder": (
        lambda p: _folder_at(p, imports(p, "adapter", {SAID: None}), f"adapter/{SAID}"), "is no plain file",
    ),
    "a head type that is a list": (
        lambda p: imports(p, "adapter", {HEAD: {"config.head_type": []}}), "unknown head_type []",
    ),
    "a head for tags": (
        lambda p: imports(p, "adapter", {HEAD: {"config.head_type": "tagging"}}), "unknown head_type 'tagging'",
    ),
    "a head of three layers": (lambda p: imports(p, "adapter", {HEAD: {"config.layers": 3}}), "layers is 3"),
    "a head whose config is a list": (lambda p: imports(p, "adapter", {HEAD: {"config": []}}), "got a list"),
    "a head without a name": (lambda p: imports(p, "adapter", {HEAD: {"name": None}}), "name must be 1 to 200"),
    "labels of a head that are a list": (
        lambda p: imports(p, "adapter", {HEAD: {"config.label2id": ["a"]}}), "label2id must map printable names to ids",
    ),
    "labels of a head with ids that are texts": (
        lambda p: imports(p, "adapter", {HEAD: {"config.label2id": {"bad": "0", "good": "1"}}}), "must be 0 to 1",
    ),
    "labels of a head that act on a terminal": (
        lambda p: imports(p, "adapter", {HEAD: {"config.label2id": {"\x1b[2J": 0}}}), "must map printable names",
    ),
    "labels of a head in another order than the task's": (
        lambda p: imports(p, "adapter", {HEAD: {"config.label2id": {"good": 0, "bad": 1}}}),
        "has labels in the order ['good', 'bad'], task 'mine' ['bad', 'good']",
    ),
    "a dropout of a head beyond 1": (
        lambda p: imports(p, "adapter", {HEAD: {"config.dropout_prob": 2}}), "dropout_prob must be a number from 0",
    ),
    "a head of a billion choices": (
        lambda p: imports(p, "adapter", {HEAD: {"config.head_type": "multiple_choice", "config.num_choices": 10**9}}),
        "num_choices must be a whole number from 1 to 1000",
    ),
    "a head without its bias": (lambda p: imports(p, "adapter", {HEAD_WEIGHTS: without("4.bias")}), "expected ['heads"),
    "a head of whole numbers": (
        lambda p: imports(p, "adapter", {HEAD_WEIGHTS: each(np.int32)}), "of the head is int32, expected floating",
    ),
    "a head of another shape": (
        lambda p: imports(p, "adapter", {HEAD_WEIGHTS: each(lambda x: x[:1])}), "of the head has shape",
    ),
    "a head file that is text": (lambda p: imports(p, "adapter", {HEAD_WEIGHTS: "x"}), "no", "safetensors file"),
    "a reduction factor below zero": (
        lambda p: imports(p, "adapter", {CONFIG: {"config.reduction_factor": -1}}), "reduction_factor must be above 0",
    ),
    "an adapter whose layer is missing": (
        lambda p: imports(p, "adapter", {WEIGHTS: lambda x: {k: v for k, v in x.items() if ".1.output" not in k}}),
        "has 1 layers of hidden size 16, the backbone has 2",
    ),
    "an adapter of one dimension too many": (
        lambda p: imports(p, "adapter", {WEIGHTS: each(lambda x: x[None])}), "of layer 0 has shape (1, ",
    ),
    "a setup of something else": (
        lambda p: imports(p, "setup", {"adapter_setup.json": {"adapter_setup": 5}}), "is no fusion of single adapters",
    ),
    "a setup that stacks": (lambda p: setup_of(p, ["a"], ["b"], type="Stack"), "is no fusion of single adapters"),
    "a setup of nothing": (lambda p: setup_of(p), "must be those of folders beside it, got []"),
    "a setup whose name is a number": (lambda p: setup_of(p, 5), "beside it, got [None]"),
    "a setup whose name is a text": (lambda p: setup_of(p, "a"), "beside it, got [None]"),
    "a setup of names in one child": (lambda p: setup_of(p, ["a", "b"]), "beside it, got [None]"),
    "a setup whose name leads out": (lambda p: setup_of(p, ["../a"], ["b"]), "beside it, got ['../a', 'b']"),
    "a setup whose name is a path": (lambda p: setup_of(p, ["/etc"]), "beside it, got ['/etc']"),
    "a setup of folders that are not there": (lambda p: setup_of(p, ["a"], ["c"]), "a,c/adapter_fusion_config.json"),
    "a setup whose folder is a link out": (
        lambda p: linked(p, imports(p, "setup"), "setup/a", str(shared("setup") / "a")), "leads out of the setup",
    ),
    "a fusion of one name twice": (
        lambda p: imports(p, "setup", {JOINED: {"adapter_names": ["a", "a"]}}), "must list different names",
    ),
    "a fusion of a name that is a list": (
        lambda p: imports(p, "setup", {JOINED: {"adapter_names": [["a"], "b"]}}), "name must be 1 to 200",
    ),
    "a fusion of other adapters": (
        lambda p: imports(p, "setup", {JOINED: {"adapter_names": ["a", "c"]}}), "missing: ['c'], unexpected: ['b']",
    ),
    "a fusion of another layout": (
        lambda p: imports(p, "setup", {JOINED: {"config.query_before_ln": True}}), "query_before_ln is 'True'",
    ),
    "a fusion of a size that is text": (
        lambda p: imports(p, "setup", {JOINED: {"hidden_size": "16"}}), "hidden_size must be a whole number",
    ),
    "a fusion without its key": (
        lambda p: imports(p, "setup", {f"a,b/{FUSED}": without("key.bias")}), "missing: ['0.key.bias', '1.key.bias']",
    ),
    "a fusion of another shape": (
        lambda p: imports(p, "setup", {f"a,b/{FUSED}": each(lambda x: x[:1])}), "has shape (1",
    ),
    "a fusion of whole numbers": (
        lambda p: imports(p, "setup", {f"a,b/{FUSED}": each(np.int8)}), "is int8, expected floating-point",
    ),
    "scales of no shape": (
        lambda p: scales(p, {"scalearn_config.json": {"config.omega_shape": ["vector"]}}), "none of the published",
    ),
    "scales of both normalisations": (
        lambda p: scales(p, {"scalearn_config.json": {"config.take_mean": 1, "config.take_softmax": 1}}), "none of the",
    ),
    "scales of a number": (
        lambda p: scales(p, {"transfer.safetensors": lambda x: {"omega": np.float32(1)}}), "for [0] layers",
    ),
    "scales for more sources": (
        lambda p: scales(p, {"transfer.safetensors": each(lambda x: np.ones((2, 3, 16), np.float32))}), "(3, 16)",
    ),
    "scales for more layers": (
        lambda p: scales(p, {"transfer.safetensors": each(lambda x: np.ones((3, 2, 16), np.float32))}), "has 3 layers",
    ),
    "scales without their sources": (lambda p: scales(p, sources=None), "name their folders with --sources"),
    "a source of layers twice": (lambda p: scales(p, sources=2 * [str(shared("setup") / "a")]), "twice: ['a']"),
    "a hub revision that leads out": (
        lambda p: imports(p, "adapter", backbone="a/tiny", revision="../../x"), "has no revision '../../x'",
    ),
    "a backbone of two revisions": (lambda p: imports(p, "adapter", backbone="a/b@x", revision="y"), "name different"),
    "a head in a folder that has none": (
        lambda p: imports(p, "adapter", head=p.folder("empty")), "head_config.json does not exist",
    ),
}  # fmt: skip

EXPORTS = {
    "an export over something": (lambda p: (p.file("out/a"), native(p))[1], "already exists and is not empty"),
    "an export of no such seed": (
        lambda p: p.command("export", str(good() / "single"), out=p.out, seed="9"), "--seed 9: the run",
    ),
    "an export of a run that is a list": (
        lambda p: p.command("export", p.run(_files={"run_json": "[]"}), out=p.out), "expected a JSON object, got list",
    ),
    "an export of a run of lists in lists": (
        lambda p: p.command("export", p.run(_files={"run_json": f'{{"a": {DEEP}}}'}), out=p.out), "nests more than 100",
    ),
    "an export of a run with a source too many": (lambda p: native(p, sources=[]), "it names 0 sources"),
    "an export of a run without a config": (lambda p: native(p, config={}), "missing key 'max_train_samples'"),
    "an export of a run on no backbone": (lambda p: native(p, **{"backbone.hash": None}), "'hash': expected text"),
    "an export of layers that AdapterHub lacks": (
        lambda p: p.command("export", str(good() / "scaled"), out=p.out), "`scalearn fold",
    ),
    "an export under a name with a dot": (
        lambda p: p.command("export", str(good() / "single"), out=p.out, name="a.b"), "'a.b' cannot be written",
    ),
    "an export under a name that acts on a terminal": (
        lambda p: p.command("export", str(good() / "single"), out=p.out, name="a\x1b"), "'a\\x1b' cannot be written",
    ),
    "a native export under a name": (
        lambda p: p.command("export", str(good() / "single"), out=p.out, name="a", format="native"), "leave it out",
    ),
    "an export of weights that lie elsewhere": (
        lambda p: linked(p, native(p), "scaled/seed-0.safetensors", str(good() / "scaled/seed-0.safetensors")),
        "seed-0.safetensors is a link that leads out",
    ),
    "a run that brings a backbone of its own": (
        lambda p: p.command(
            "export", p.weights(lambda x: x | {"backbone/embeddings/word": np.ones(1, np.float32)}, "scaled",
                                "frozen.safetensors"), out=p.out, format="native"),
        "leaves the backbone as it is",
    ),
}  # fmt: skip

FOLDS = {
    "a fold of an adapter": (lambda p: folded(p, str(shared("adapter"))), "is no run folder", "scalearn import"),
    "a fold of a fusion": (lambda p: folded(p, p.run("scaled", method="fusion")), "'fusion' run, which is no ordinary"),
    "a fold of more sources": (lambda p: folded(p, keep="2"), "--keep 2", "has 1 sources"),
    "a fold of no sources": (lambda p: folded(p, keep="0"), "keep must be at least 1"),
    "a fold of what is not scaled": (lambda p: folded(p, str(good() / "single"), keep="1"), "does not scale sources"),
    "a fold of more units": (lambda p: folded(p, width="99"), "--width 99", "has 4 units"),
    "a fold of half a unit": (lambda p: folded(p, width="0.5"), "--width"),
    "a fold of no such seed": (lambda p: folded(p, seed="9"), "--seed 9"),
    "a fold under a name of 201 letters": (lambda p: folded(p, name=201 * "a"), "expected 1 to 200 printable"),
    "a fold on no texts": (lambda p: folded(p, texts=str(p.root / "gone.jsonl")), "gone.jsonl does not exist"),
    "a fold on texts of another column": (
        lambda p: folded(p, texts=p.file("a.jsonl", [{"txt": "a"}])), "unknown column 'text'",
    ),
    "a fold on one text": (
        lambda p: folded(p, texts=p.file("a.jsonl", ROWS[:1]), width="1"), "needs two texts or more",
    ),
    "a fold in a split that is none": (lambda p: folded(p, split="tset"), "--split"),
    "a fold of a run that brings a backbone of its own": (
        lambda p: folded(p, p.weights(lambda x: x | {"backbone/embeddings/word": np.ones(1, np.float32)}, "scaled")),
        "holds backbone/embeddings/word, but a 'scalearn' run leaves the backbone as it is",
    ),
    "a fold of weights that lie elsewhere": (
        lambda p: linked(p, folded(p, p.run("scaled")), "scaled/frozen.safetensors", "/etc/passwd"), "leads out",
    ),
}  # fmt: skip

SERVED = {
    "two tasks and no column of them": (lambda p: mixed(p), "unknown column 'task'"),
    "a row of no task": (lambda p: mixed(p, "mine", None), "row 2: no value in column 'task'"),
    "a row of an unknown task": (lambda p: mixed(p, "mine", "theirs"), "unknown task 'theirs'", "mine, yours"),
    "a row whose task is a list": (lambda p: mixed(p, "mine", ["yours"]), "unknown task ['yours']"),
    "a task twice": (
        lambda p: p.predict(also=[str(good() / "scaled")]), "the second folder for task mine",
    ),
    "a run of another method than its model beside another": (
        lambda p: served(p, also=[p.run("scaled", method="head", **{"task.name": "b"})]), "run.json describes no model",
    ),
    "a folder of nothing beside another": (lambda p: p.predict(also=[p.folder("empty")]), "run.json does not exist"),
    "an adapter on another backbone beside another": (
        lambda p: p.predict(also=[spoilt(p, "adapter", {SAID: {"backbone.hash": "0f"}})]), "trained on backbone 0f",
    ),
    "a run on another backbone beside an adapter": (
        lambda p: served(p, {SAID: {"task.name": "b"}}, also=[p.run(**{"backbone.hash": "0f"})]), "content",
    ),
    "a link to nothing beside another": (lambda p: p.predict(also=[p.link("a", "gone")]), "does not exist"),
    "a served adapter without its head": (lambda p: served(p, {HEAD: None}), "an adapter without a head"),
    "a served adapter that does not say where its backbone lies": (
        lambda p: served(p, backbone=None), "does not say where its backbone lies, which is backbone; pass --backbone",
    ),
    "a served adapter whose labels stand in another order": (
        lambda p: served(p, {HEAD: {"config.label2id": {"good": 0, "bad": 1}}}), "has labels in the order",
    ),
    "a served adapter whose head is another task's": (
        lambda p: served(p, {SAID: {"task.kind": "regression", "task.labels": [], "task.metrics": []}}), "a regression",
    ),
    "a served adapter whose head type is a map": (
        lambda p: served(p, {HEAD: {"config.head_type": {}}, SAID: None}), "unknown head_type {}",
    ),
    "a served adapter of PEFT": (lambda p: served(p, {CONFIG: {"peft_type": "LORA"}}), "is a PEFT adapter (LORA)"),
    "a served adapter whose weights are a link out": (
        lambda p: linked(p, served(p), f"adapter/{WEIGHTS}", str(shared("adapter") / WEIGHTS)), "leads out",
    ),
}  # fmt: skip

PUSHES = {
    "a push of nothing": (lambda p: p.command("push", str(p.root / "gone"), "me/a"), "holds neither scalearn.json nor"),
    "a push to nowhere": (lambda p: p.command("push", str(shared("adapter"))), "REPO"),
    **{
        f"a push to {repo!r}": (lambda p, repo=repo: pushes(p, repo=repo), "expected OWNER/NAME")
        for repo in ("mine", "../mine", "me/mine/x", "me/mine@main", "https://huggingface.co/me/mine", "me/a\nb")
    },
    "a push with no words": (lambda p: pushes(p, message=" "), "message is empty"),
    "a push under a license of words": (lambda p: pushes(p, license="Do what you like"), "expected one of the hub's"),
    "a push over a base model that is a path": (lambda p: pushes(p, base_model="/models/x"), "the id of a model"),
    "a push without scalearn.json": (lambda p: pushes(p, {SAID: None}), "holds neither scalearn.json nor run.json"),
    "a push of no kind": (lambda p: pushes(p, {SAID: {"kind": ["fold"]}}), "'kind': expected one of adapter"),
    "a push of scores that are a list": (lambda p: pushes(p, {SAID: {"scores": []}}), "'scores': expected names and"),
    "a push of sources that are texts": (lambda p: pushes(p, {SAID: {"sources": ["a"]}}), "'sources'"),
    "a push of an adapter without weights": (lambda p: pushes(p, {WEIGHTS: None}), "holds no adapter.safetensors"),
    "a push of a damaged adapter": (lambda p: pushes(p, {WEIGHTS: "x"}), "is not a complete safetensors file"),
    "a push of a damaged head": (lambda p: pushes(p, {HEAD_WEIGHTS: without("bias")}), "the head holds"),
    "a push of a family that is none": (lambda p: pushes(p, {CONFIG: {"model_type": "gpt"}}), "unknown model_type"),
    "a push of a family that is a list": (lambda p: pushes(p, {CONFIG: {"model_type": []}}), "model_type must be text"),
    "a push of a damaged setup": (
        lambda p: pushes(
            p, {SAID: (shared("adapter") / SAID).read_bytes(), "a/adapter.safetensors": b"x"}, kind="setup"
        ),
        "a/adapter.safetensors is not a complete safetensors file",
    ),
    "a push of a token": (lambda p: pushes(p, {SAID: {"command": f"x --token {TOKEN}"}}), "holds a token or password"),
    "a push of a token in the results": (
        lambda p: pushes(p, {"results.json": f'{{"a": "{TOKEN}"}}'}), "results.json holds a token or password",
    ),
    "a push of a place on this machine": (
        lambda p: pushes(p, {SAID: {"versions": {"jax": "/home/me/jax"}}}), "place on this machine, '/home/me/jax'",
    ),
    "a push of a run that names places": (
        lambda p: p.command("push", p.run("scaled"), "me/mine"), "names a place on this machine", "--format native",
    ),
    "a push of a link out": (
        lambda p: linked(p, pushes(p, {"results.json": "{}"}), "adapter/results.json", "/etc/passwd"), "leads out",
    ),
    "a push of a folder in a file's place": (
        lambda p: _folder_at(p, pushes(p), "adapter/results.json"), "results.json is no plain file",
    ),
    "a push of a card that is no text": (
        lambda p: pushes(p, {"README.md": b"\xff"}), "README.md, line 1: the byte 0xff is not UTF-8",
    ),
    "a push of a run with damaged weights": (
        lambda p: p.command("push", p.run("scaled", {"seed-0_safetensors": "x"}), "me/mine"), "not a complete",
    ),
}  # fmt: skip

FETCHES = {
    "a fetch of nothing": (lambda p: p.command("fetch"), "nothing to fetch"),
    "a fetch of a path": (lambda p: p.command("fetch", sources="../gone"), "is no id of the hub"),
    "a fetch of a backbone's path": (lambda p: p.command("fetch", backbone="a/b/c"), "is no id of the hub"),
    "a fetch of half an id": (lambda p: p.command("fetch", sources="a/b@"), "expected OWNER/NAME@REVISION"),
    "a fetch of a revision that leads out": (
        lambda p: p.command("fetch", sources="a/b@../../x"), "has no revision '../../x'",
    ),
    "a fetch of what is here": (lambda p: p.command("fetch", sources=p.folder("a")), "is here already"),
    "a fetch of an unknown task": (lambda p: p.command("fetch", tasks="glue/rt"), "unknown task 'glue/rt'"),
    "a fetch of a task that is on no hub": (
        lambda p: p.command("fetch", tasks="builtin/topic"), "names no hub data set",
    ),
}  # fmt: skip

TABLES = (IMPORTS, EXPORTS, FOLDS, SERVED, PUSHES, FETCHES)
