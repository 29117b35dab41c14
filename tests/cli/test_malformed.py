"""Malformed input of every kind: one line that says what is wrong, exit code 2, and nothing written.

A case is a row of a table: name -> (function that lays the input out and returns the arguments, parts of the message).
"""

import gzip
import io
import json
import os
import shutil
import struct

import pytest

from scalearn_jax import cli
from scalearn_jax.cli import commands
from tests.conftest import ROOT
from tests.support import bin_files as bins
from tests.support import malformed_sharing
from tests.support.malformed import ROWS, Place, good, snapshot

ADAPTER = ROOT / "tests/golden/roberta_l3_h32_t4/adapters/rte"
HUGE = "1" + 400 * "0"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * ['*' + before])}]\n"
    for before, name in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)
)
MERGE_BOMB = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(9 * ['*' + before])}]}}\n"
    for before, name in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)
)
DEEP = 30_000 * "["
TOKEN = "hf_" + 12 * "aB3"

FLAGS = {
    "no such command": (lambda p: ["trane-adapter"], "unknown command", "train-adapter"),
    "a command of another kind": (lambda p: ["plan", "single"], "unknown stage", "train-adapter"),
    "an unknown flag": (lambda p: p.train(batch_sise="8"), "unknown flag --batch-sise", "--batch-size"),
    "a flag without its value": (lambda p: [*p.train(), "--epochs"], "--epochs"),
    "a flag that is missing": (lambda p: p.train(task=None), "--task"),
    "a word too many": (lambda p: [*p.train(), "glue/rte"], "glue/rte"),
    "a word for a number": (lambda p: p.train(epochs="two"), "--epochs"),
    "a fraction for a whole number": (lambda p: p.train(batch_size="1.5"), "--batch-size"),
    "a number below its bound": (lambda p: p.train(batch_size="-8"), "batch_size must be at least 1, got -8"),
    "a number of 400 digits": (lambda p: p.train(batch_size=HUGE), "'batch_size': expected a whole number in 64 bits"),
    "a seed of 400 digits": (lambda p: p.predict(seed=HUGE), "'seed': expected a whole number in 64 bits, got 1000"),
    "a step count of 12 digits": (lambda p: p.train(max_steps="999999999999"), "max_steps must be at most 2147483647"),
    "no number": (lambda p: p.train(learning_rate="nan"), "'learning_rate': expected a finite number, got nan"),
    "an infinite number": (lambda p: p.train(clip_norm="inf"), "'clip_norm': expected a finite number, got inf"),
    "a choice that is none": (lambda p: p.train(select="los"), "--select"),
    "a method that is not solved for": (
        lambda p: p.transfer(method="fusion", fit="solve", max_steps=None),
        "fit solve: expected a method of scalearn",
    ),
    "a rate for what is solved for": (lambda p: p.transfer(fit="solve", learning_rate="1", max_steps=None), "leave it"),
    "a plan of what is solved for": (
        lambda p: ["plan", *p.transfer(fit="solve", max_steps=None)],
        "plan measures steps of training",
    ),
    "an unknown method": (lambda p: p.transfer(method="scalern"), "unknown method 'scalern'", "'scalearn'"),
    "an unknown task": (lambda p: p.train(task="glue/rt", data_dir=None), "unknown task 'glue/rt'", "'glue/rte'"),
    "a task that is a path": (lambda p: p.train(task="../data/mine"), "task name '../data/mine'"),
    "target and targets": (lambda p: p.transfer(targets="glue/rte"), "target or targets: expected one of them"),
    "no target": (lambda p: p.transfer(target=None), "target or targets"),
    "a target twice": (lambda p: p.transfer(target=None, targets=["mine", "mine"]), "targets names something twice"),
    "no seeds": (lambda p: p.train(seeds=[]), "seeds"),
    "a seed twice": (lambda p: p.train(seeds=["1", "1"]), "seeds must be one or more different numbers"),
    "a seed below zero": (lambda p: p.train(seeds=["-1"]), "seeds must be", "from 0"),
    "a range that runs backwards": (lambda p: p.train(seeds=["5-2"]), "--seeds: expected a whole number or a range"),
    "a rate twice": (lambda p: p.train(learning_rates=["1e-3", "0.001"]), "learning_rates must be different"),
    "a rate and several": (lambda p: p.train(learning_rate="1", learning_rates=["1"]), "give one of them"),
    "parts that do not divide": (lambda p: p.train(accumulate="5"), "accumulate 5 does not divide batch_size 32"),
    "a mesh that is no mesh": (lambda p: p.train(mesh="data:2"), "--mesh data:2", "data=4,model=2"),
    "a mesh of more devices than there are": (lambda p: p.train(mesh="data=512"), "--mesh data=512", "devices"),
    "a mesh that does not divide the batch": (lambda p: p.train(mesh="data=8", batch_size="6"), "does not divide"),
    "a part of a cluster": (lambda p: p.train(process_id="0"), "give all three or none"),
    "a coordinator without a port": (
        lambda p: p.train(coordinator="host", num_processes="2", process_id="0"),
        "HOST:PORT",
    ),
    "a length beyond the backbone's": (lambda p: p.train(max_length="81"), "--max-length 81", "80 positions"),
    "a factor that leaves no bottleneck": (lambda p: p.train(reduction_factor="17"), "--reduction-factor 17"),
    "a flag of another method": (lambda p: p.transfer(method="fusion", omega_init="1"), "--omega-init does not apply"),
    "a weight a source too few": (lambda p: p.transfer(method="soup", weights=["1", "1"]), "2 values for 1 sources"),
    "a method without its coefficients": (lambda p: p.transfer(method="fixed"), "--coefficients"),
    "a method of the other stage": (lambda p: p.train(method="scalearn"), "use `scalearn transfer`"),
    "no sources": (lambda p: p.transfer(sources=None), "needs --sources"),
    "a source twice": (lambda p: p.transfer(sources=2 * [str(good() / "single")]), "duplicate source names"),
    "bfloat16 kept and float32 computed": (
        lambda p: p.train(frozen_dtype="bfloat16", dtype="float32"),
        "--frozen-dtype bfloat16 needs --dtype",
    ),
    "an unknown non-linearity": (lambda p: p.train(non_linearity="rleu"), "unknown non-linearity 'rleu'", "'relu'"),
    "a share beyond the last": (lambda p: p.study({}, shard="3/2"), "--shard 3/2"),
    "a share of 400 digits": (lambda p: p.study({}, shard=f"1/{5000 * '9'}"), "--shard"),
    "minutes below zero": (lambda p: p.study({}, max_minutes="-1"), "max_minutes must be at least 0"),
    "no cell of that name": (lambda p: p.study({}, only="nowhere"), "no cell of the study is left"),
    "a null character in a path": (lambda p: p.train(out="a\0b"), "null"),
    "a null character in a backbone": (lambda p: p.train(backbone="a\0b"), "'backbone': expected text without null"),
    "a factor next to nothing": (lambda p: p.train(reduction_factor="1e-300"), "--reduction-factor 1e-300", "larger"),
}

CONFIGS = {
    "no config file": (lambda p: p.train(config=str(p.root / "c.yaml")), "c.yaml: No such file"),
    "a folder as config": (lambda p: p.train(config=p.folder("c.yaml")), "c.yaml: Is a directory"),
    "a link to nothing as config": (lambda p: p.train(config=p.link("c.yaml", "gone")), "c.yaml: No such file"),
    "a link to itself as config": (lambda p: p.train(config=p.link("c.yaml", "c.yaml")), "Too many levels of symbolic"),
    "a config below a file": (lambda p: p.train(config=p.file("a") + "/c.yaml"), "Not a directory"),
    "an empty config": (lambda p: p.configured(""), "c.yaml: expected keys and values"),
    "a config that is text": (lambda p: p.configured("just text"), "expected keys and values, got 'just text'"),
    "a config that is a list": (lambda p: p.configured("- 1\n- 2\n"), "expected keys and values, got [1, 2]"),
    "a config with tabs": (lambda p: p.configured("stage:\n\tepochs: 1\n"), "c.yaml is not valid YAML"),
    "a config cut short": (lambda p: p.configured('seeds: [0, "1'), "c.yaml is not valid YAML"),
    "two configs in a file": (lambda p: p.configured("epochs: 1\n---\nepochs: 2\n"), "not valid YAML"),
    "a config of nested brackets": (lambda p: p.configured(DEEP[:2000]), "c.yaml is not valid YAML"),
    "a config of nested blocks": (lambda p: p.configured("".join(f"{n * ' '}a:\n" for n in range(1000))), "YAML"),
    "a config that is huge": (
        lambda p: p.configured("# " + 1_000_000 * "x"),
        "more than 1000000 bytes",
        "the right file?",
    ),
    "a config with as many keys": (lambda p: p.configured("".join(f"k{n}: 1\n" for n in range(3000))), "21 problems"),
    "a config in Latin-1": (lambda p: p.configured("non_linearity: r\xe9lu".encode("latin-1")), "is not UTF-8"),
    "a config that is binary": (
        lambda p: p.configured(bytes(range(256))),
        "c.yaml, line 2: the byte 0x80 is not UTF-8",
    ),
    "a config that is compressed": (
        lambda p: p.configured(gzip.compress(b"epochs: 1", mtime=0)),
        "c.yaml, line 1: the byte 0x8b is not UTF-8",
    ),
    "aliases that multiply": (lambda p: p.configured(BOMB + "seeds: *q"), "more than 100000 values"),
    "merges that multiply": (lambda p: p.configured(MERGE_BOMB), "more than 100000 values"),
    "an alias of itself": (lambda p: p.configured("seeds: &a [*a]"), "more than 100000 values"),
    "an alias of nothing": (lambda p: p.configured("seeds: *a"), "c.yaml is not valid YAML"),
    "a tag that makes an object": (
        lambda p: p.configured("seeds: !!python/object/apply:os.system ['true']"),
        "c.yaml is not valid YAML",
    ),
    "a key twice": (lambda p: p.configured("epochs: 1\nepochs: 2\n"), 'duplicate key "epochs"', "line 2"),
    "a key with a hyphen and without": (
        lambda p: p.configured("max-length: 8\nmax_length: 9\n"),
        "max_length",
        "twice",
    ),
    "a key that is a list": (lambda p: p.configured("? [epochs]\n: 1\n"), "unknown key ('epochs',)"),
    "a token in a config": (lambda p: p.configured(f"revision: {TOKEN}"), "revision: '***', where *** stands for"),
    "an unknown key": (lambda p: p.configured("epoch: 1"), "unknown key 'epoch'; did you mean 'epochs'?"),
    "a key that is a number": (lambda p: p.configured("1: 2"), "unknown key 1"),
    "a value of another type": (lambda p: p.configured("epochs: many"), "'epochs': expected a whole number"),
    "yes for a number": (lambda p: p.configured("batch_size: yes"), "'batch_size': expected a whole number, got 'yes'"),
    "true for a number": (lambda p: p.configured("epochs: true"), "'epochs': expected a whole number, got True"),
    "text for a list": (lambda p: p.configured("seeds: 1, 2"), "'seeds': expected a list of whole numbers"),
    "a date for a text": (lambda p: p.configured("revision: 2024-01-01"), "'revision': expected text"),
    "a date that is none": (lambda p: p.configured("revision: 2024-13-41"), "c.yaml is not valid YAML"),
    "a number of 5000 hexadecimals": (
        lambda p: p.configured(f"epochs: 0x{5000 * 'f'}"),
        "a number of thousands of digits",
    ),
    "a number of 5000 digits": (lambda p: p.configured(f"epochs: {5000 * '9'}"), "c.yaml is not valid YAML: Exceeds"),
    "a million seeds": (lambda p: p.configured(f"seeds: [{','.join(1000 * ['0-999'])}]"), "at most 100000 numbers"),
    "a null character in a text": (lambda p: p.configured('out: "a\\0b"', out=None), "'out': expected text"),
    "a tag that its value does not fit": (
        lambda p: p.configured("epochs: !!bool foo"),
        "the tag tag:yaml.org,2002:bool",
    ),
    "a set of a list": (lambda p: p.configured("seeds: !!set [1]"), "c.yaml is not valid YAML: the tag", "remove it"),
    "an anchor twice": (lambda p: p.configured("seeds: &a [1]\nepochs: &a 1"), "the anchor &a in line 2", "rename one"),
    "an older YAML": (lambda p: p.configured("%YAML 1.1\n---\nepochs: 12:30"), "asks for version 1.1; expected 1.2"),
    "a number to the base of 60": (lambda p: p.configured("epochs: 12:30"), "expected a whole number, got '12:30'"),
    "a long number to the base of 60": (lambda p: p.configured("epochs: 1" + 9_000 * ":59"), "got '1:59:59"),
    "a tagged number to the base of 60": (
        lambda p: p.configured("epochs: !!int 1:59"),
        "the tag tag:yaml.org,2002:int",
    ),
    "a device as config": (lambda p: p.train(config="/dev/zero"), "/dev/zero has more than 1000000 bytes"),
    "half a surrogate pair in a text": (lambda p: p.configured('out: "\\uD800"', out=None), "'out': expected text"),
}

STUDIES = {
    "no study": (lambda p: ["run", str(p.root / "s.yaml"), "--out", p.out], "s.yaml: No such file"),
    "an empty study": (lambda p: p.study(""), "study.yaml: expected keys and values"),
    "a study that is a list": (lambda p: p.study("- mine"), "study.yaml: expected keys and values"),
    "a study without most": (lambda p: p.study("name: x"), "3 problems", "missing key 'backbone'"),
    "a study of one target as text": (lambda p: p.study({"targets": "mine"}), "'targets': expected a list of text"),
    "an unknown key of a study": (lambda p: p.study({"method": ["scalearn"]}), "unknown key 'method'", "'methods'"),
    "an unknown task of a study": (lambda p: p.study({"targets": ["glue/rt"]}), "'glue/rt'"),
    "a study whose name acts on a terminal": (lambda p: p.study({"name": "a\x1b[2J"}), "name 'a\\x1b[2J' holds"),
    "no targets": (lambda p: p.study({"targets": []}), "targets: expected at least one"),
    "an unknown method of a study": (lambda p: p.study({"methods": ["scalern"]}), "unknown method 'scalern'"),
    "a method that is a path": (lambda p: p.study({"methods": ["../../x"]}), "unknown method '../../x'"),
    "overrides of an unknown task": (lambda p: p.study({"tasks": {"glue/rte": {}}}), "neither a source nor a target"),
    "overrides that are a list": (lambda p: p.study({"tasks": ["mine"]}), "'tasks': expected names and values"),
    "an unknown override": (lambda p: p.study({"stage1": {"epoch": 1}}), "stage1: unknown key 'epoch'", "'epochs'"),
    "an override by null": (lambda p: p.study({"stage2": {"batch_size": None}}), "'batch_size'"),
    "an override of what the study sets": (lambda p: p.study({"stage1": {"out": "x"}}), "set by the study itself"),
    "an override of another type": (lambda p: p.study({"stage2": {"epochs": "two"}}), "expected a whole number"),
    "an override beyond its bound": (lambda p: p.study({"stage2": {"epochs": 0}}), "epochs must be at least 1"),
    "an override by a list": (lambda p: p.study({"tasks": {"mine": {"stage2": [1]}}}), "expected keys and values"),
    "a variant that names no method": (
        lambda p: p.study({"methods": ["x"], "methods_options": {"x": {"method": ["scalearn"]}}}),
        "methods_options: x: key 'method': expected text",
    ),
    "few-shot from nothing": (lambda p: p.study({"shots": [0]}), "shots must be at least 1, got [0]"),
    "few-shot from yes": (lambda p: p.study({"shots": [True]}), "'shots': expected a whole number"),
    "probe sets without constants": (lambda p: p.study({"probe_sources": [["self"]]}), "expected both or neither"),
    "probe sets of strangers": (
        lambda p: p.study({"probe_sources": [["glue/rte"]], "probe_constants": [1]}),
        "'glue/rte' is not among the sources",
    ),
    "a probe set of nothing": (lambda p: p.study({"probe_sources": [[]], "probe_constants": [1]}), "names no source"),
    "probe constants without end": (
        lambda p: p.study({"probe_sources": [["self"]], "probe_constants": [float("inf")]}),
        "'probe_constants': expected a number, got 'Infinity' at [0]",
    ),
    "an unknown table of the paper": (lambda p: p.study({"published": "glue/gpt"}), "published: "),
    "a study without its backbone": (lambda p: p.study({"backbone": "./gone"}), "./gone is not a folder"),
    "a study without its data": (lambda p: p.study({"data_dir": p.folder("no")}), "unknown task 'mine'"),
    "adapters that are a file": (lambda p: p.study({"adapters": p.file("adapters")}), "adapters is no folder"),
    "seeds of a task that are text": (lambda p: p.study({"tasks": {"mine": {"seeds": "all"}}}), "expected a list of"),
    "a folder of another study": (
        lambda p: (p.file("out/study.json", {"format": 1, "study": {"name": "b", "backbone": "b", "targets": [],
                   "methods": []}}), p.study({}))[1],
        "holds another study",
    ),
    "a damaged folder of a study": (lambda p: (p.file("out/study.json", "{"), p.study({}))[1], "study.json", "JSON"),
    "a study.json that is a list": (lambda p: (p.file("out/study.json", [1]), p.study({}))[1], "a JSON object"),
    "a study.json without a study": (lambda p: (p.file("out/study.json", {}), p.study({}))[1], "holds no study"),
    "a study.json of other types": (
        lambda p: (p.file("out/study.json", {"study": {"name": 1}}), p.study({}))[1],
        "study.json is damaged: name is 1",
    ),
}  # fmt: skip


def parquet_of(columns: dict) -> bytes:
    """The bytes of a parquet file."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), file := io.BytesIO())
    return file.getvalue()


TASKS = {
    "a task file that is a list": (lambda p: p.train(data_dir=p.data(task_json=[1])), "expected keys and values"),
    "a task of another name": (lambda p: p.train(task="yours"), "describes task 'mine', not 'yours'"),
    "a task without texts": (
        lambda p: p.train(data_dir=p.data(task_json={"name": "mine", "kind": "regression"})),
        "missing key 'texts'",
    ),
    "a task of no kind": (lambda p: p.train(data_dir=p.labelled(kind="ranking")), "'kind': expected one of"),
    "a task with one label": (lambda p: p.train(data_dir=p.labelled(labels=["bad"])), "2 or more different label"),
    "a task with a label twice": (lambda p: p.train(data_dir=p.labelled(labels=["a", "a"])), "different label names"),
    "labels that are yes and no": (lambda p: p.train(data_dir=p.labelled(labels=[True, False])), "quote them"),
    "labels that are a number": (lambda p: p.train(data_dir=p.labelled(labels=2)), "'labels': expected a list of text"),
    "a metric that does not fit": (lambda p: p.train(data_dir=p.labelled(metrics=["pearson"])), "do not fit kind"),
    "an unknown metric": (lambda p: p.train(data_dir=p.labelled(metrics=["acuracy"])), "accuracy"),
    "a task whose name leads out": (lambda p: p.train(data_dir=p.labelled(name="../mine")), "task name '../mine'"),
    "a text that is no number": (
        lambda p: p.train(data_dir=p.data(train_jsonl=[{"text": float("nan"), "label": 0}])),
        "row 1: no value in column 'text'",
    ),
    "a task on a list as hub": (lambda p: p.train(data_dir=p.labelled(hub=["a"])), "hub: expected keys and values"),
    "a rule that is unknown": (lambda p: p.train(data_dir=p.labelled(derive="squad")), "'derive': expected one of"),
    "an empty text": (lambda p: p.train(data_dir=p.labelled(texts=[""])), "column ''"),
    "a task in a folder elsewhere": (lambda p: p.train(data_dir=p.labelled(folder="/etc")), "folder '/etc' leads out"),
    "a task in a folder above": (lambda p: p.train(data_dir=p.labelled(folder="../../x")), "'../../x' leads out"),
    "a task in a folder above its own": (lambda p: p.train(data_dir=p.labelled(folder="a/..")), "'a/..' leads out"),
    **{
        f"a task of hub files at {pattern}": (
            lambda p, pattern=pattern: p.train(
                data_dir=p.labelled(hub={"repo": "a/b", "files": {"train": pattern, "validation": "v"}})
            ),
            f"the pattern '{pattern}' of hub.files leads out",
        )
        for pattern in ("../*.jsonl", "/etc/passwd", "a/../../x", "~/x")
    },
    "a label that acts on a terminal": (
        lambda p: p.train(data_dir=p.labelled(labels=["a", "\x1b[2J"])),
        "the label '\\x1b[2J' holds characters that cannot be shown",
    ),
    "a token in a task": (
        lambda p: p.train(
            data_dir=p.labelled(hub={"repo": "a/b", "revision": TOKEN, "files": {"train": "t", "validation": "v"}})
        ),
        "task.json: '***', where *** stands for a token",
    ),
    "a password in a task": (
        lambda p: p.train(
            data_dir=p.labelled(hub={"repo": "https://a:b@c/d", "files": {"train": "t", "validation": "v"}})
        ),
        "task.json: 'https://***@c/d', where *** stands for a token",
    ),
    "a task with a tag that does not fit": (
        lambda p: p.train(data_dir=p.data(task_json=None, task_yaml="name: !!bool mine")),
        "task.yaml is not valid YAML: the tag tag:yaml.org,2002:bool",
    ),
    "a task of a length of 400 digits": (
        lambda p: p.train(data_dir=p.labelled(max_length=10**400)),
        "'max_length': expected a whole number in 64 bits",
    ),
}

DATA = {
    "data in a home of nobody": (
        lambda p: p.train(task="glue/rte", max_length="16", data_dir="~nosuchuser/x"),
        "task glue/rte: no data",
        "~nosuchuser/x/glue/rte",
    ),
    "no data folder": (lambda p: p.train(data_dir=str(p.root / "gone")), "unknown task 'mine'"),
    "a file as data folder": (lambda p: p.train(data_dir=p.file("data", "x")), "unknown task 'mine'"),
    "no validation file": (lambda p: p.train(data_dir=p.data(validation_jsonl=None)), "no validation file", "add it"),
    "an empty file": (lambda p: p.train(data_dir=p.data(train_jsonl="")), "train.jsonl is empty"),
    "a file of blank lines": (lambda p: p.train(data_dir=p.data(validation_jsonl="\n\n")), "validation.jsonl is empty"),
    "a missing column": (
        lambda p: p.train(data_dir=p.data(train_jsonl=[{"txt": "a", "label": 0}])),
        "unknown column 'text'",
        "did you mean 'txt'?",
    ),
    "a missing label": (lambda p: p.train(data_dir=p.data(train_jsonl=[{"text": "a"}])), "unknown column 'label'"),
    "an entry that is null": (
        lambda p: p.train(data_dir=p.data(train_jsonl=[*ROWS, {"text": None, "label": 0}])),
        "train.jsonl, row 25: no value in column 'text'",
    ),
    "a label beyond the last": (lambda p: p.train(data_dir=p.labelled(0, 2)), "row 2: label 2", "0 bad, 1 good"),
    "a label below zero": (lambda p: p.train(data_dir=p.labelled(-1)), "row 1: label -1", "0 bad, 1 good"),
    "a label of another name": (lambda p: p.train(data_dir=p.labelled(0, "fair")), "row 2: label 'fair'"),
    "a label of a half": (lambda p: p.train(data_dir=p.labelled(0.5)), "row 1: label 0.5"),
    "a label that is no number": (
        lambda p: p.train(data_dir=p.labelled(float("nan"))),
        "row 1: no value in column 'label'",
    ),
    "a label that is a list": (lambda p: p.train(data_dir=p.labelled([0])), "row 1: label [0]"),
    "a label that is a map": (lambda p: p.train(data_dir=p.labelled({"a": 1})), "row 1: label {'a': 1}"),
    "a label of 400 digits": (lambda p: p.train(data_dir=p.labelled(10**400)), "row 1: label"),
    "a score that is text": (
        lambda p: p.train(data_dir=p.labelled("high", kind="regression", labels=[])),
        "row 1: label 'high' is no finite number",
    ),
    "a score without end": (
        lambda p: p.train(data_dir=p.labelled(float("inf"), kind="regression", labels=[])),
        "label inf is no finite number",
    ),
    "labels that are no list": (lambda p: p.train(data_dir=p.labelled(1, kind="multilabel")), "label 1 is no list"),
    "labels as zeros and ones": (lambda p: p.train(data_dir=p.labelled([0, 0], kind="multilabel")), "zeros and ones"),
    "a list for a text": (
        lambda p: p.train(data_dir=p.data(train_jsonl=[{"text": ["a", "b"], "label": 0}, *ROWS])),
        "train.jsonl, row 1",
        "'text'",
    ),
    "a map for a text": (
        lambda p: p.train(data_dir=p.data(train_jsonl=[{"text": {"a": 1}, "label": 0}, *ROWS])),
        "train.jsonl, row 1",
        "'text'",
    ),
    "one row to split": (
        lambda p: p.train(data_dir=p.data(train_jsonl=ROWS[:1])), "no development set", "stratify: false"
    ),
    "a label too rare to split": (
        lambda p: p.train(data_dir=p.data(train_jsonl=[*ROWS[::2], ROWS[1]])),
        "each label must occur twice",
    ),
    "a broken line in the middle": (
        lambda p: p.train(data_dir=p.data(train_jsonl='{"text": "a", "label": 0}\n{"text": \n')),
        "train.jsonl, line 2: not valid JSON",
    ),
    "a line that is a list": (lambda p: p.train(data_dir=p.data(train_jsonl="[1]\n")), "line 1: expected an object"),
    "a line of nested brackets": (lambda p: p.train(data_dir=p.data(train_jsonl=DEEP)), "line 1: not valid JSON"),
    "a number of 5000 digits in a line": (
        lambda p: p.train(data_dir=p.data(train_jsonl=f'{{"text": "a", "label": {5000 * "1"}}}')),
        "train.jsonl, line 1",
    ),
    "JSON lines in Latin-1": (
        lambda p: p.train(data_dir=p.data(train_jsonl=b'{"text": "caf\xe9", "label": 0}')),
        "train.jsonl, line 1: the byte 0xe9 is not UTF-8; in Windows-1252 it is 'é'",
    ),
    "JSON lines in UTF-16": (
        lambda p: p.train(data_dir=p.data(train_jsonl='{"text": "a", "label": 0}'.encode("utf-16-le"))),
        "train.jsonl holds zero bytes, as UTF-16 without a mark does",
    ),
    "JSON lines of zero bytes": (lambda p: p.train(data_dir=p.data(train_jsonl=bytes(99))), "holds zero bytes"),
    "a JSON list of lists": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_json=json.dumps([["a", 0]]))),
        "train.json, line 1: expected an object, got list",
    ),
    "two training files": (
        lambda p: p.train(data_dir=p.data(train_csv="text,label\na,0\n")),
        "data/train.csv and ",
        "data/train.jsonl may all be its train split; keep one of them",
    ),
    "a test file without labels": (
        lambda p: p.train(data_dir=p.data(test_jsonl=[{"text": "a", "label": -1}])),
        "test.jsonl has no labels (all labels are -1); remove it",
    ),
    "a folder in place of a file": (
        lambda p: (p.folder("data2/train.jsonl"), p.train(data_dir=str(p.root / "data2")))[1],
        "unknown task 'mine'",
    ),
    "a gzip cut short": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_jsonl_gz=gzip.compress(b'{"text": "a"}')[:-9])),
        "train.jsonl.gz, after line",
    ),
    "a gzip that is none": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_jsonl_gz="{}")),
        "train.jsonl.gz",
        "not readable",
    ),
    "a parquet that is none": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_parquet="PAR1 and more")),
        "train.parquet: not readable",
    ),
    "a parquet of bytes": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_parquet=parquet_of({"text": [b"a"], "label": [0]}))),
        "row 1: column 'text'",
        "store it as text (UTF-8)",
    ),
    "a parquet of zero bytes": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_parquet="")),
        "train.parquet: not readable",
    ),
    "a CSV with its header only": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_csv="text,label\n")),
        "train.csv",
        "empty",
    ),
    "a CSV with a quote left open": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_csv='text,label\n"a,0\n')),
        "train.csv, after line",
    ),
    "a CSV with a field too many": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_csv="text,label\na,b,0\n")),
        "line 2: 3 fields",
        "quote fields",
    ),
    "a CSV with a column twice": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_csv="text,text,label\na,b,0\n")),
        "names a column twice",
    ),
    "a CSV with zero bytes": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_csv=bytes(99))),
        "train.csv holds zero bytes",
    ),
    "a CSV in Latin-1": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_csv=b"text,label\ncaf\xe9,0\n")),
        "train.csv, line 2: the byte 0xe9 is not UTF-8",
    ),
    "a CSV whose labels are NaN": (
        lambda p: p.train(data_dir=p.data(train_jsonl=None, train_csv="text,label\na,NaN\n")),
        "row 1: label 'NaN'",
    ),
}  # fmt: skip

PREDICTIONS = {
    "no input": (lambda p: p.predict(input=str(p.root / "gone.jsonl")), "gone.jsonl does not exist"),
    "a folder as input": (lambda p: p.predict(input=p.folder("in.jsonl")), "in.jsonl: not readable"),
    "input of an unknown type": (lambda p: p.predict(name="rows.txt"), "rows.txt: unknown file type", ".jsonl"),
    "input without a name": (lambda p: p.predict(input=""), "--input is empty"),
    "empty input": (lambda p: p.predict(""), "rows.jsonl is empty"),
    "input without its column": (lambda p: p.predict([{"txt": "a"}]), "unknown column 'text'", "'txt'"),
    "input with a null": (lambda p: p.predict([{"text": "a"}, {"text": None}]), "row 2: no value in column 'text'"),
    "input with a list": (lambda p: p.predict([{"text": ["a"]}]), "rows.jsonl, row 1", "'text'"),
    "input with a broken line": (lambda p: p.predict('{"text": "a"}\n{\n'), "rows.jsonl, line 2: not valid JSON"),
    "input that loops": (lambda p: p.predict(input=p.link("in.jsonl", "in.jsonl")), "in.jsonl"),
    "a seed that the run lacks": (lambda p: p.predict(seed="7"), "--seed 7", "holds seeds [0, 1]"),
    "output that is there": (lambda p: p.predict(output=p.file("o", "x")), "already exists; choose another name"),
    "output below a file": (lambda p: p.predict(output=p.file("o", "x") + "/p"), "there is no folder"),
    "output in no folder": (lambda p: p.predict(output=str(p.root / "a" / "p")), "there is no folder", "make it first"),
    "output of a long name": (lambda p: p.predict(output=str(p.root / (300 * "x"))), "File name too long"),
    "output that is a link to nothing": (lambda p: p.predict(output=p.link("o", "gone")), "already exists"),
    "output of another type": (lambda p: p.predict(output=str(p.root / "o.xlsx")), "o.xlsx: unknown file type", ".csv"),
    "a batch of none": (lambda p: p.predict(batch_size="0"), "batch_size must be at least 1"),
}


def cut(content: dict) -> dict:
    """Weights whose first leaf lost a row."""
    name = min(content)
    return content | {name: content[name][:1]}


RUNS = {
    "no run": (lambda p: p.evaluate(str(p.root / "gone")), "run.json does not exist"),
    "a file as run": (lambda p: p.evaluate(p.file("run", "x")), "run.json: Not a directory"),
    "an empty folder as run": (lambda p: p.evaluate(p.folder("run")), "run.json does not exist", "the right folder?"),
    "run.json is a folder": (
        lambda p: (p.folder("run/run.json"), p.evaluate(str(p.root / "run")))[1],
        "run.json is no plain file",
    ),
    "run.json is a list": (lambda p: p.evaluate(p.run(_files={"run_json": []})), "expected a JSON object, got list"),
    "run.json cut short": (lambda p: p.evaluate(p.run(_files={"run_json": '{"format": 1'})), "not valid JSON"),
    "run.json of nested brackets": (lambda p: p.evaluate(p.run(_files={"run_json": DEEP})), "not valid JSON"),
    "run.json in Latin-1": (lambda p: p.evaluate(p.run(_files={"run_json": b'{"a": "\xe9"}'})), "not UTF-8"),
    "run.json of another format": (lambda p: p.evaluate(p.run(format=2)), "run.json has format 2, expected 1"),
    "run.json without most": (lambda p: p.evaluate(p.run(_files={"run_json": {"format": 1}})), "run.json lacks"),
    "a run without weights": (
        lambda p: p.evaluate(p.run(_files={"seed-1_safetensors": None})),
        "seed-1.safetensors does not exist",
    ),
    "weights cut short": (
        lambda p: p.evaluate(
            p.run(_files={"seed-0_safetensors": (good() / "single" / "seed-0.safetensors").read_bytes()[:-7]})
        ),
        "seed-0.safetensors is not a complete",
    ),
    "a run of a seed without weights": (lambda p: p.evaluate(p.run(seeds=[0, 5])), "seed-5.safetensors does not exist"),
    "a run of no seeds": (lambda p: p.evaluate(p.run(seeds=[])), "run.json", "seeds"),
    "seeds that are a number": (lambda p: p.evaluate(p.run(seeds=2)), "run.json", "seeds"),
    "seeds that are text": (lambda p: p.evaluate(p.run(seeds=["../x"])), "run.json", "seeds"),
    "seeds that are a range": (lambda p: p.evaluate(p.run(seeds=["0-1"])), "run.json", "seeds"),
    "a seed of a run below zero": (lambda p: p.evaluate(p.run(seeds=[-1])), "run.json", "seeds"),
    "seeds that are lists": (lambda p: p.evaluate(p.run(seeds=[[0]])), "run.json", "seeds"),
    "a method that is unknown": (lambda p: p.evaluate(p.run(method="magic")), "unknown method 'magic'"),
    "a method that is a list": (lambda p: p.evaluate(p.run(method=["single"])), "run.json", "method"),
    "a method that does not fit": (lambda p: p.evaluate(p.run(method="fusion")), "method 'fusion' has combiner"),
    "a config that is null": (lambda p: p.evaluate(p.run(config=None)), "run.json is damaged: key 'config'"),
    "a config without samples": (lambda p: p.evaluate(p.run(config={})), "missing key 'max_train_samples'"),
    "a config with samples as text": (lambda p: p.evaluate(p.run(**{"config.max_eval_samples": "all"})), "run.json"),
    "a spec that is text": (lambda p: p.evaluate(p.run(spec="bert")), "run.json is damaged: key 'spec'"),
    "a spec without a backbone": (lambda p: p.evaluate(p.run(**{"spec.backbone": {}})), "describes no model"),
    "a spec of an unknown combiner": (lambda p: p.evaluate(p.run(**{"spec.combiner": "magic"})), "no model"),
    "a spec of layers as text": (lambda p: p.evaluate(p.run(**{"spec.backbone.num_layers": "2"})), "no model"),
    "a spec of fewer layers": (lambda p: p.evaluate(p.run(**{"spec.backbone.num_layers": 1})), "do not fit run.json"),
    "a spec of a wider bottleneck": (lambda p: p.evaluate(p.run(**{"spec.bottleneck": 9})), "do not fit run.json"),
    "a spec of a type that is none": (lambda p: p.evaluate(p.run(**{"spec.dtype": "int3"})), "run.json"),
    "a spec of another family": (lambda p: p.evaluate(p.run(**{"spec.backbone.family": "gpt"})), "run.json"),
    "a spec of an unknown activation": (lambda p: p.evaluate(p.run(**{"spec.backbone.activation": "x"})), "run.json"),
    "a spec of layers laid out unknown": (lambda p: p.evaluate(p.run(**{"spec.layers": "tree"})), "run.json"),
    "a spec of a phi that is none": (lambda p: p.evaluate(p.run(**{"spec.non_linearity": "x"})), "non_linearity 'x'"),
    **{
        f"a spec of {combiner} with {name} {value}": (
            lambda p, options=options: p.evaluate(p.run("scaled", **options)),
            "run.json describes no model",
            message,
        )
        for combiner, method, name, value, message in (
            ("average", "soup", "weights", [0], "ZeroDivisionError"),
            ("average", "soup", "weights", ["a"], "TypeError"),
            ("average", "soup", "weights", [1, 1], "2 weights for 1 sources"),
            ("average", "soup", "weights", [[[1]]], "unhashable"),
            ("fixed", "fixed", "coefficients", [float("nan")], "coefficients must be finite"),
            ("fixed", "fixed", "coefficients", ["x"], "ValueError"),
            ("fixed", "fixed", "coefficients", [1, 2], "2 coefficients for 1 sources"),
            ("scalearn", "scalearn", "normalise", "x", "unknown normalise 'x'"),
            ("scalearn", "scalearn", "normalise", ["x"], "unknown normalise"),
            ("scalearn", "scalearn", "compose", "x", "unknown compose 'x'"),
            ("scalearn", "scalearn", "magic", 1, "unexpected keyword argument 'magic'"),
        )
        for options in (
            {"method": method, "spec.combiner": combiner, "spec.combiner_options": [[name, value]]},
        )
    },
    "a spec of heads for another task": (
        lambda p: p.evaluate(p.run(**{"task.name": "yours"})),
        "run.json",
    ),
    "a task of one label more": (
        lambda p: p.evaluate(p.run(**{"task.labels": ["a", "b", "c"]})),
        "run.json",
        "labels",
    ),
    "a task of another length": (lambda p: p.evaluate(p.run(**{"task.max_length": 4096})), "run.json"),
    "a task that is null": (lambda p: p.evaluate(p.run(task=None)), "run.json is damaged: key 'task'"),
    "a backbone without a hash": (lambda p: p.evaluate(p.run(backbone={"path": "b"})), "run.json", "backbone"),
    "a backbone that is text": (lambda p: p.evaluate(p.run(backbone="bert")), "run.json", "backbone"),
    "a backbone that has moved": (lambda p: p.evaluate(p.run(**{"backbone.path": "/gone"})), "/gone is not a folder"),
    "another backbone": (
        lambda p: p.evaluate(str(good() / "single"), backbone=str(p.root / "gone")),
        "gone is not a folder",
    ),
    "a backbone of a run whose pickle runs a program": (
        lambda p: p.evaluate(p.run(**{"backbone.path": evil(p, "backbone")}), allow_pickle=[]),
        "pytorch_model.bin is refused, nothing in it was run",
    ),
    "a run that allows its pickle by itself": (
        lambda p: p.evaluate(p.run(**{"backbone.path": evil(p, "backbone"), "config.allow_pickle": True})),
        "pytorch_model.bin, a pickle, is not read",
    ),
    "data that have moved": (lambda p: p.evaluate(p.run(data_dir="/gone")), "no data", "--data-dir"),
    "a data folder that is a number": (lambda p: p.evaluate(p.run(data_dir=3)), "run.json", "data_dir"),
    "weights that lost a row": (lambda p: p.evaluate(p.weights(cut)), "do not fit run.json"),
    "weights of another name": (
        lambda p: p.evaluate(p.weights(lambda leaves: {f"{name}x": leaf for name, leaf in leaves.items()})),
        "do not fit run.json",
    ),
    "weights of no leaf": (lambda p: p.evaluate(p.weights(lambda leaves: {})), "do not fit run.json"),
    "weights of whole numbers": (
        lambda p: p.evaluate(p.weights(lambda leaves: {name: leaf.astype("int8") for name, leaf in leaves.items()})),
        "int8",
    ),
    "weights of a leaf below a leaf": (
        lambda p: p.evaluate(p.weights(lambda leaves: leaves | {f"{min(leaves)}/x": leaves[min(leaves)]})),
        "do not fit run.json",
    ),
    "a bank that lost a row": (
        lambda p: p.explain(p.weights(cut, "scaled", "frozen.safetensors")),
        "do not fit run.json",
    ),
    "a bank that is missing": (
        lambda p: p.explain(p.run("scaled", _files={"frozen_safetensors": None})),
        "do not fit run.json",
    ),
    "a split that is none": (lambda p: p.evaluate(str(good() / "single"), split="valid"), "--split"),
    "explain of a single adapter": (lambda p: p.explain(str(good() / "single")), "'single' run; explain covers"),
    "explain into a file": (lambda p: p.explain(str(good() / "scaled"), out=p.file("o", "x")), "is no folder"),
    "explain below a file": (
        lambda p: p.explain(str(good() / "scaled"), out=p.file("o", "x") + "/e"),
        "o is no folder",
    ),
    "explain of a seed that is not there": (lambda p: p.explain(str(good() / "scaled"), seed="3"), "--seed 3"),
    "explain of sources without names": (lambda p: p.explain(p.run("scaled", sources=[{}])), "run.json", "sources"),
    "explain of sources that are a map": (lambda p: p.explain(p.run("scaled", sources={})), "run.json", "sources"),
    "explain of a source that acts on a terminal": (
        lambda p: p.explain(p.run("scaled", sources=[{"name": "\x1b[2J", "path": "", "hash": ""}])),
        "sources: the name '\\x1b[2J' cannot be shown",
    ),
    "a label of a run that acts on a terminal": (
        lambda p: p.evaluate(p.run(**{"task.labels": ["\x9b2J", "a"]})),
        "holds characters that cannot be shown",
    ),
    "explain of a source too few": (lambda p: p.explain(p.run("scaled", sources=[])), "run.json", "sources"),
    "explain of no samples": (lambda p: p.explain(str(good() / "scaled"), max_samples="0"), "max_samples must be"),
}  # fmt: skip

SOURCES = {
    "a source that is a folder": (lambda p: p.transfer(sources=p.folder("s")), "neither a run folder", "train-adapter"),
    "a source that is not there": (lambda p: p.transfer(sources=str(p.root / "s")), "neither a run folder"),
    "a source of another method": (lambda p: p.transfer(sources=str(good() / "scaled")), "expected a single adapter"),
    "a source of another backbone": (
        lambda p: p.transfer(sources=p.run(**{"backbone.hash": 64 * "0"})),
        "was trained on backbone 000000000000",
        "use adapters trained on this backbone",
    ),
    "a source of no seeds": (lambda p: p.transfer(sources=p.run(seeds=[])), "run.json", "seeds"),
    "a source without weights": (
        lambda p: p.transfer(sources=p.run(_files={"seed-0_safetensors": None})),
        "seed-0.safetensors does not exist",
    ),
    "a source of a hash that is a number": (lambda p: p.transfer(sources=p.run(**{"backbone.hash": 7})), "run.json"),
    "a source of another shape": (lambda p: p.transfer(sources=p.weights(cut)), "do not fit run.json"),
    "a source whose pickle runs a program": (
        lambda p: p.transfer(sources=evil(p, "source"), allow_pickle=[]),
        "pytorch_adapter.bin is refused, nothing in it was run",
        "'os.system'",
    ),
    "a source that is a file": (lambda p: p.transfer(sources=p.file("s", "x")), "neither a run folder"),
}

BACKBONES = {
    "no backbone": (lambda p: p.train(backbone="./gone"), "./gone is not a folder", "config.json"),
    "a backbone in a home of nobody": (lambda p: p.train(backbone="~nosuchuser/x"), "~nosuchuser/x is not a folder"),
    "a token as backbone": (lambda p: p.train(backbone=f"https://x:{TOKEN}@hf.co/a/b"), "the command line: 'https://***@hf.co"),
    "a file as backbone": (lambda p: p.train(backbone=p.file("b", "x")), "is not a folder"),
    "an empty folder as backbone": (lambda p: p.train(backbone=p.folder("b")), "config.json does not exist"),
    "config.json is a list": (lambda p: p.train(backbone=p.backbone(config_json=[1])), "expected a JSON object"),
    "config.json cut short": (lambda p: p.train(backbone=p.backbone(config_json='{"a')), "not valid JSON"),
    "config.json is huge": (
        lambda p: p.train(backbone=p.backbone(config_json=16_000_001 * b" ")),
        "config.json has 16000001 bytes",
        "the right file?",
    ),
    "an unknown family": (lambda p: p.train(backbone=p.sizes(model_type="gpt2")), "unknown model_type 'gpt2'", "bert"),
    "no hidden size": (lambda p: p.train(backbone=p.sizes(hidden_size=None)), "hidden_size must be"),
    "a hidden size below zero": (lambda p: p.train(backbone=p.sizes(hidden_size=-16)), "hidden_size must be"),
    "a hidden size as text": (lambda p: p.train(backbone=p.sizes(hidden_size="16")), "hidden_size must be"),
    "heads that do not divide": (lambda p: p.train(backbone=p.sizes(num_attention_heads=3)), "not a multiple of"),
    "an unknown activation": (lambda p: p.train(backbone=p.sizes(hidden_act="gleu")), "unknown hidden_act 'gleu'"),
    "a family that is a list": (lambda p: p.train(backbone=p.sizes(model_type=["bert"])), "model_type"),
    "a hidden size that is true": (lambda p: p.train(backbone=p.sizes(hidden_size=True)), "hidden_size must be"),
    "a hidden size that is too large": (lambda p: p.train(backbone=p.sizes(hidden_size=10**18)), "hidden_size must be"),
    "an activation that is a map": (lambda p: p.train(backbone=p.sizes(hidden_act={})), "hidden_act"),
    "a padding id as text": (lambda p: p.train(backbone=p.sizes(pad_token_id="0")), "pad_token_id must be"),
    "a padding id below zero": (lambda p: p.train(backbone=p.sizes(pad_token_id=-1)), "pad_token_id must be"),
    "token types as text": (lambda p: p.train(backbone=p.sizes(type_vocab_size="2")), "type_vocab_size must be"),
    "an epsilon as text": (lambda p: p.train(backbone=p.sizes(layer_norm_eps="small")), "layer_norm_eps must be"),
    "a dropout beyond one": (lambda p: p.train(backbone=p.sizes(hidden_dropout_prob=1.5)), "dropout_prob must be"),
    "a dropout that is text": (
        lambda p: p.train(backbone=p.sizes(attention_probs_dropout_prob="x")),
        "attention_probs_dropout_prob",
    ),
    "relative positions": (lambda p: p.train(backbone=p.sizes(position_embedding_type="relative_key")), "absolute"),
    "a layer too many": (lambda p: p.train(backbone=p.sizes(num_hidden_layers=3)), "tensors missing"),
    "a layer too few": (lambda p: p.train(backbone=p.sizes(num_hidden_layers=1)), "tensors unexpected"),
    "another width": (lambda p: p.train(backbone=p.sizes(intermediate_size=64)), "of another size"),
    "positions too few": (lambda p: p.train(backbone=p.sizes(max_position_embeddings=8)), "of another size"),
    "a vocabulary of one word more": (lambda p: p.train(backbone=p.sizes(vocab_size=5)), "of another size"),
    "no weights": (lambda p: p.train(backbone=p.backbone(model_safetensors=None)), "neither model.safetensors nor"),
    "weights that are none": (lambda p: p.train(backbone=p.backbone(model_safetensors="x")), "not a complete"),
    "weights that are a pointer": (
        lambda p: p.train(backbone=p.backbone(model_safetensors="version https://git-lfs.github.com/spec/v1")),
        "model.safetensors is not a complete",
        "git lfs pull",
    ),
    "weights with a header beyond the end": (
        lambda p: p.train(backbone=p.backbone(model_safetensors=struct.pack("<Q", 2**40) + b"{}")),
        "not a complete",
    ),
    "no tokenizer": (
        lambda p: p.train(backbone=p.backbone(tokenizer_json=None, tokenizer_config_json=None)),
        "no usable tokenizer",
        "tokenizer.json",
    ),
    "a tokenizer cut short": (lambda p: p.train(backbone=p.backbone(tokenizer_json="{")), "no usable tokenizer"),
    "a tokenizer that is a list": (lambda p: p.train(backbone=p.backbone(tokenizer_json=[1])), "no usable tokenizer"),
    "a tokenizer of another class": (
        lambda p: p.train(backbone=p.backbone(tokenizer_config_json={"tokenizer_class": "No"}, tokenizer_json=None)),
        "no usable tokenizer",
    ),
    "a tokenizer of more words": (
        lambda p: p.train(backbone=larger_tokenizer(p)),
        "another model's",
    ),
    "a pickle that runs a program": (
        lambda p: p.train(backbone=evil(p, "backbone"), allow_pickle=[]),
        "pytorch_model.bin is refused, nothing in it was run",
        "'os.system'",
    ),
    "a pickle without leave": (
        lambda p: p.train(backbone=evil(p, "backbone")),
        "pytorch_model.bin, a pickle, is not read",
        "--allow-pickle",
    ),
    "config.json is a link elsewhere": (
        lambda p: p.train(backbone=linked(p, "config.json", p.sizes())),
        "config.json is a link that leads out of its folder",
    ),
    "a model_type that is missing": (
        lambda p: p.train(backbone=p.sizes(model_type=None)),
        'config.json has no model_type; add "model_type": one of bert, roberta',
    ),
    "a tokenizer that panics": (
        lambda p: p.train(backbone=tokenizer(p, normalizer={"type": "Precompiled", "precompiled_charsmap": ""})),
        "backbone: no usable tokenizer",
    ),
    "a tokenizer that panics at its first text": (
        lambda p: p.train(backbone=tokenizer(p, pre_tokenizer={"type": "FixedLength", "length": 0})),
        "backbone: its tokenizer fails on the texts of task mine",
        "restore tokenizer.json",
    ),
    "a tokenizer without a word for unknown ones": (
        lambda p: p.train(backbone=tokenizer(p, **{"model.unk_token": "none"})),
        "backbone: its tokenizer fails on the texts of task mine",
    ),
}  # fmt: skip


def linked(place: Place, name: str, backbone: str) -> str:
    """A backbone one of whose files is a link to another place."""
    os.rename(f"{backbone}/{name}", place.root / name)
    os.symlink(place.root / name, f"{backbone}/{name}")
    return backbone


def tokenizer(place: Place, **changes) -> str:
    """A backbone whose tokenizer has other parts."""
    content = json.loads((good() / "backbone" / "tokenizer.json").read_text())
    for name, value in changes.items():
        part, _, inner = name.partition(".")
        content[part] = content[part] | {inner: value} if inner else value
    return place.backbone(tokenizer_json=content)


def evil(place: Place, kind: str) -> str:
    """A source or a backbone whose pickle would run a program, with no other weights."""
    body = bins.pickle(b"cos\nsystem\n" + bins.text(f"touch {place.root}/canary") + b"\x85R")
    if kind == "backbone":
        return place.backbone(model_safetensors=None, **{"pytorch_model.bin": bins.archive({"data.pkl": body})})
    shutil.copytree(ADAPTER, place.root / "s", ignore=shutil.ignore_patterns("*.safetensors"))
    place.file("s/pytorch_adapter.bin", bins.archive({"data.pkl": body}))
    return str(place.root / "s")


def larger_tokenizer(place: Place) -> str:
    """A backbone whose tokenizer knows a word that the weights do not."""
    content = json.loads((good() / "backbone" / "tokenizer.json").read_text())
    content["model"]["vocab"]["number"] = 100_000
    content["model"]["vocab"]["food"] = 100_000
    return place.backbone(tokenizer_json=content)


OUTPUTS = {
    "a file as out": (lambda p: p.train(out=p.file("o", "x")), "already exists and is not empty"),
    "out that is not empty": (lambda p: (p.file("o/x"), p.train(out=str(p.root / "o")))[1], "not empty"),
    "out below a file": (lambda p: p.train(out=p.file("o", "x") + "/run"), "Not a directory"),
    "out of a long name": (lambda p: p.train(out=str(p.root / (300 * "x"))), "File name too long"),
    "out that is empty text": (lambda p: p.train(out=""), "--out is empty"),
    "out that is a link to itself": (lambda p: p.train(out=p.link("o", "o")), "leads nowhere"),
    "out beside a folder of the user": (
        lambda p: (p.file("o.partial/thesis"), p.train(out=str(p.root / "o")))[1],
        "was not left by a run",
    ),
    "a study into a file": (lambda p: p.study({}, out=p.file("o", "x")), "holds no study"),
    "a study below a file": (lambda p: p.study({}, out=p.file("o", "x") + "/s"), "Not a directory"),
    "a study into a folder in use": (lambda p: (p.file("o/x"), p.study({}, out=str(p.root / "o")))[1], "no study"),
    "out where nothing may be written": (lambda p: p.train(out="/proc/x/run"), "/proc/x/run"),
}

REPORTS = {
    "a report of nothing": (lambda p: ["report", str(p.root / "gone")], "no finished run"),
    "a report of an empty folder": (lambda p: ["report", p.folder("x")], "no finished run", "scalearn run"),
    "a report without results": (lambda p: p.results(results_json=None), "results.json does not exist"),
    "a report of damaged results": (lambda p: p.results(results_json='{"seeds"'), "results.json is not valid JSON"),
    "a report of results as a list": (lambda p: p.results(results_json=[1]), "expected a JSON object"),
    "a report of no seeds": (lambda p: p.results(results_json={"main_metric": "f1", "seeds": {}}), "no seeds"),
    "a report of scores as text": (
        lambda p: p.results(results_json={"main_metric": "f1", "seeds": {"0": {"test": {"f1": "good"}}}}),
        "results.json is damaged",
    ),
    "a report of a metric that is a list": (
        lambda p: p.results(results_json={"main_metric": ["f1"], "seeds": {"0": {"test": {"f1": 1}}}}),
        "results.json is damaged",
    ),
    "a report of a metric that is a number": (
        lambda p: p.results(results_json={"main_metric": 1, "seeds": {"0": {"test": {"1": 1}}}}),
        "results.json is damaged",
    ),
    "a report of a task that is a number": (
        lambda p: (p.run(**{"task.name": 3}), ["report", str(p.root), "--out", p.out])[1],
        "is damaged",
    ),
    "a report of a method that is a number": (
        lambda p: (p.run(method=3), ["report", str(p.root), "--out", p.out])[1],
        "is damaged",
    ),
    "a report of parameters as text": (
        lambda p: (p.run(**{"parameters.transfer": "many"}), ["report", str(p.root), "--out", p.out])[1],
        "is damaged",
    ),
    "a report of a target that is half a character": (
        lambda p: (p.run(**{"task.name": "\ud800"}), ["report", str(p.root), "--out", p.out])[1],
        "is damaged",
        "texts that can be shown",
    ),
    "a report of a source that acts on a terminal": (
        lambda p: (p.run("scaled", **{"sources": [{"name": "\x1b[2J"}]}), ["report", str(p.root), "--out", p.out])[1],
        "texts that can be shown",
    ),
    "a report of a study that acts on a terminal": (
        lambda p: (
            p.run(),
            p.file("study.json", {"study": {"name": "\x1b]0;x", "backbone": "b", "targets": [], "methods": []}}),
            ["report", str(p.root), "--out", p.out],
        )[-1],
        "study.json is damaged",
        "cannot be shown",
    ),
    "a report of more parameters than there are": (
        lambda p: (p.run(**{"parameters.transfer": 10**400}), ["report", str(p.root), "--out", p.out])[1],
        "the number of parameters must be a number from 0",
    ),
    "a report of parameters without end": (
        lambda p: (p.run(**{"parameters.transfer": float("inf")}), ["report", str(p.root), "--out", p.out])[1],
        "the number of parameters must be a number from 0",
    ),
    "a report of scales normalised by a list": (
        lambda p: (
            p.run("scaled", **{"spec.combiner_options": [["normalise", ["x"]]]}),
            ["report", str(p.root), "--out", p.out],
        )[1],
        "normalise must be a text",
    ),
    "a report of scales normalised in an unknown way": (
        lambda p: (
            p.run("scaled", **{"spec.combiner_options": [["normalise", "x"]]}),
            ["report", str(p.root), "--out", p.out],
        )[1],
        "unknown normalise 'x'",
    ),
    **{
        f"a report of scores that are {scores}": (
            lambda p, scores=scores: p.results(
                results_json={
                    "main_metric": "f1",
                    "seeds": {str(n): {"test": {"f1": score}} for n, score in enumerate(scores)},
                }
            ),
            "a score must be a number from -1 to 1",
        )
        for scores in ([float("nan"), 0.5], [float("inf"), -float("inf")], [1e308, 1e308], [10**400], [True])
    },
    "a report of one run twice": (
        lambda p: (p.run(), os.rename(p.root / "single", p.root / "a"), p.run(), ["report", str(p.root)])[-1],
        "a table needs one",
    ),
    "a report into a file": (lambda p: (p.run(), ["report", str(p.root), "--out", p.file("o", "x")])[1], "no folder"),
    "a report below a file": (
        lambda p: (p.run(), ["report", str(p.root), "--out", p.file("o", "x") + "/r"])[1],
        "o is no folder",
    ),
    "a report of a damaged study": (
        lambda p: (p.run(), p.file("study.json", "{"), ["report", str(p.root), "--out", p.out])[-1],
        "study.json is not valid JSON",
    ),
    "a report of a study with shots as text": (
        lambda p: (
            p.run(),
            p.file("study.json", {"study": {"name": "a", "backbone": "b", "targets": [], "methods": [], "shots": 3}}),
            ["report", str(p.root), "--out", p.out],
        )[-1],
        "study.json is damaged",
    ),
    "a report of a study with targets as numbers": (
        lambda p: (
            p.run(),
            p.file("study.json", {"study": {"name": "a", "backbone": "b", "targets": [[1]], "methods": []}}),
            ["report", str(p.root), "--out", p.out],
        )[-1],
        "study.json is damaged",
    ),
    "a report of a study with an unknown table": (
        lambda p: (
            p.run(),
            p.file("study.json", {"study": {"name": "a", "backbone": "b", "targets": [], "methods": [],
                                            "published": "x"}}),
            ["report", str(p.root), "--out", p.out],
        )[-1],
        "unknown published table 'x'",
    ),
    "a report of a run without its weights": (
        lambda p: (p.run("scaled", _files={"seed-0_safetensors": None}), ["report", str(p.root), "--out", p.out])[1],
        "holds no weights",
    ),
    "a report of scales for more sources": (
        lambda p: (p.run("scaled", sources=2 * [{"name": "a"}]), ["report", str(p.root), "--out", p.out])[1],
        "scales for 1 sources, run.json names 2",
    ),
}  # fmt: skip

CHECKPOINTS = {
    "a checkpoint without a manifest": (lambda p: p.stopped(manifest_json=None), "3.0: manifest.json is missing"),
    "a manifest that is no JSON": (lambda p: p.stopped(manifest_json="{"), "manifest.json", "--restart"),
    "a manifest that is a list": (lambda p: p.stopped(manifest_json="[]"), "manifest.json", "--restart"),
    "a manifest of nothing": (lambda p: p.stopped(manifest_json={}), "manifest.json is not as it was written"),
    "a manifest of paths outside": (
        lambda p: p.stopped(manifest_json={"files": {"../../../x": {"bytes": 1, "sha256": ""}}, "sha256": ""}),
        "manifest.json is not as it was written",
    ),
    "a checkpoint without its meta": (lambda p: p.stopped(meta_json=None), "meta.json is missing"),
    "a checkpoint with another meta": (lambda p: p.stopped(meta={"step": 4}), "meta.json is not as it was written"),
    "a checkpoint of another version": (lambda p: p.stopped(seal=True, meta={"format": 9}), "has format 9"),
    "a checkpoint of a step that is text": (lambda p: p.stopped(seal=True, meta={"step": "x"}), "holds no step"),
    "a checkpoint whose meta is a list": (lambda p: p.stopped(seal=True, meta={"meta": []}), "holds no step"),
    "a checkpoint whose meta is no JSON": (lambda p: p.stopped(seal=True, meta_json="{"), "3.0: ", "--restart"),
    "a checkpoint without names": (lambda p: p.stopped(seal=True, meta={"arrays": 3}), "3.0: ", "--restart"),
    "a checkpoint of other arrays": (
        lambda p: p.stopped(seal=True, meta={"arrays": {"state/omega": "float32[1]"}}), "3.0: ", "--restart",
    ),
    "a checkpoint of other shapes": (
        lambda p: p.stopped(seal=True, meta={"arrays": {"state/step": "float32[2]"}}),
        "state/step: there float32[2], here float64[1]",
    ),
    "a checkpoint that is a file": (
        lambda p: (p.file("out.partial/.lock"), p.file("out.partial/checkpoints/3.0", "x"), p.train())[-1],
        "none of the checkpoints",
    ),
    "a checkpoint of another run": (lambda p: p.stopped(), "--seeds: there [7], here [0]", "another --out"),
}  # fmt: skip

TABLES = (
    *(FLAGS, CONFIGS, STUDIES, TASKS, DATA, PREDICTIONS, RUNS, SOURCES, BACKBONES, OUTPUTS, REPORTS, CHECKPOINTS),
    *malformed_sharing.TABLES,
)
CASES = {}
for table in TABLES:
    assert not CASES.keys() & table
    CASES |= table


@pytest.fixture(scope="module", autouse=True)
def _prepared():
    good()


@pytest.mark.parametrize("case", CASES)
def test_malformed_input_is_one_line_and_leaves_nothing(case, tmp_path, monkeypatch, capfd):
    make, *needles = CASES[case]
    argv = make(Place(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_prepare", lambda: None)  # compiled programs of tests stay where they are
    before = snapshot(tmp_path)
    code = cli.main(argv)
    out, error = capfd.readouterr()
    assert (code, out) == (2, "")
    assert error.startswith("scalearn: error: ") and error.count("\n") == 1 and error.endswith("\n")
    assert all(needle in error for needle in needles) and TOKEN not in error, error
    assert snapshot(tmp_path) == before
