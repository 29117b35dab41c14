"""Readers on arbitrary input: what they give is valid, or one line says why not."""

import dataclasses
import functools
import gzip
import io
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from scalearn_jax import config
from scalearn_jax.config import StudyConfig, schema
from scalearn_jax.data import rows as tables
from scalearn_jax.data import splits, tasks
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io import yaml_file
from scalearn_jax.models.backbones import spec_from_config
from scalearn_jax.runs import adapterhub, foreign_head, provenance, run_json
from scalearn_jax.sharing import card, push
from scalearn_jax.sharing import recognise as formats
from scalearn_jax.sharing import release as published
from scalearn_jax.studies import cells as plan
from scalearn_jax.studies import results
from scalearn_jax.studies.checks import study_problems
from tests.support import malformed_sharing, tiny_backbone
from tests.support.malformed import ROWS, TASK, good

SOME = functools.partial(
    settings, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
SIZES = spec_from_config(tiny_backbone.CONFIG | {"vocab_size": 30})
CONFIGS = [cls for cls in vars(config).values() if dataclasses.is_dataclass(cls)]
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["0-3", "glue/rte", "mine", "nan", "1e999", "~", "scalearn"]))
NUMBERS = st.one_of(st.integers(-3, 3), st.integers(), st.just(10**400), st.floats(), st.booleans(), st.none())
VALUES = st.recursive(
    TEXTS | NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def accepts(read, *arguments, **named):
    """What a reader makes of its input, or ``None`` where it refuses it in one line; all else fails."""
    try:
        return read(*arguments, **named)
    except InputError as error:
        assert str(error) and "\n" not in str(error)
        return None


def fields_of(cls):
    """Values by the names of a config's fields, some of another name."""
    names = st.sampled_from([*schema.field_types(cls), "batch-size", "unknown"])
    return st.dictionaries(names, VALUES, max_size=6)


@st.composite
def spoilt(draw, content):
    """A JSON value, some parts of which are replaced, left out or put elsewhere."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while True:
            if not isinstance(place, dict | list) or not place:
                break
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            if draw(st.booleans()):
                del place[key]
            else:
                place[key] = draw(VALUES)
            break
    return content


@st.composite
def cut_up(draw, content):
    """Bytes, some of which are changed, left out or doubled."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at, end = sorted(draw(st.tuples(*2 * [st.integers(0, len(content))])))
        content[at : draw(st.sampled_from([at, at + 1, end]))] = draw(st.binary(max_size=4) | st.just(content[at:end]))
    return bytes(content)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.mark.parametrize("cls", CONFIGS, ids=lambda cls: cls.__name__)
@SOME(max_examples=40)
@given(data=st.data())
def test_a_config_of_any_values_is_valid_or_refused(cls, data):
    least = {name: "mine" for name in schema.required_fields(cls)}
    for content in (data.draw(fields_of(cls)), least | data.draw(fields_of(cls)), data.draw(VALUES)):
        made = accepts(schema.from_dict, cls, content)
        assert made is None or schema.from_dict(cls, json.loads(json.dumps(schema.to_dict(made)))) == made


TAGS = st.sampled_from(
    "bool int float null str binary timestamp omap pairs set map seq merge value python/name:os".split()
)
TAGGED = st.builds(
    "a: !!{} {}".format, TAGS, st.sampled_from(["", "''", "b", "1", ".", "-", "1:2", "[1]", "{b: }", "[[]]"])
)


@SOME(max_examples=100)
@given(
    content=st.one_of(st.binary(max_size=60), st.text(alphabet="ab:-[]{}&*!?|>'\"#%@,. \n\t<=01", max_size=40), TAGGED)
)
def test_a_yaml_file_of_any_bytes_is_read_or_refused(content, folder):
    (folder / "a.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    read = accepts(yaml_file.read_yaml, folder / "a.yaml")
    assert read is None or isinstance(read, dict)


@SOME(max_examples=40)
@given(content=st.dictionaries(TEXTS, VALUES, max_size=4))
def test_yaml_of_any_values_comes_back(content, folder):
    writer = YAML(typ="safe", pure=True)
    writer.sort_base_mapping_type_on_output = False
    with open(folder / "b.yaml", "w", encoding="utf-8", errors="replace") as stream:
        writer.dump(content, stream)
    read = accepts(yaml_file.read_yaml, folder / "b.yaml")
    assert read is None or str(read) == str({name.replace("-", "_"): value for name, value in content.items()})


def written(suffix: str) -> bytes:
    """The rows of a good data file."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(ROWS), file := io.BytesIO())
        return file.getvalue()
    if suffix == ".csv":
        return ("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)).encode()
    return gzip.compress(lines, mtime=0) if suffix.endswith(".gz") else lines


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
@SOME(max_examples=120)
@given(data=st.data())
def test_a_data_file_of_any_bytes_is_read_or_refused(suffix, data, folder):
    path, task = folder / f"train{suffix}", Task.from_dict(TASK)
    for content in (data.draw(st.binary(max_size=40)), data.draw(cut_up(written(suffix)))):
        path.write_bytes(content)
        table = accepts(tables.read_table, path)
        if table is not None:
            accepts(splits.examples, task, table, str(path))


@pytest.mark.parametrize("name", ["glue/stsb", "superglue/copa", "superglue/record", "superglue/wsc", "humset/sectors"])
@SOME(max_examples=60)
@given(data=st.data())
def test_rows_of_any_values_are_examples_or_refused(name, data):
    task = tasks.get(name)
    names = dict.fromkeys((*task.columns, *task.label_columns))
    values = VALUES | st.sampled_from([["a"], ["a", "b"], "cause", "effect", 0, 1, 2.5])
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, values)), min_size=1, max_size=3))
    table = accepts(splits.examples, task, tables.columns(rows), "rows")
    for row in range(tables.num_rows(table or {})):
        assert task.sequences({name: values[row] for name, values in table.items()})


@SOME(max_examples=120)
@given(
    content=spoilt(TASK | {"metrics": ["accuracy"], "hub": {"repo": "a", "files": {"train": "a", "validation": "b"}}})
)
def test_a_task_of_any_values_is_a_task_or_refused(content):
    task = accepts(Task.from_dict, content)
    assert task is None or Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task


STUDY = {
    "name": "A study",
    "backbone": "b",
    "sources": ["glue/rte", "glue/mrpc"],
    "targets": ["glue/rte"],
    "methods": ["single", "scalearn", "gentle"],
    "seeds": [0, 1],
    "stage1": {"max_steps": 7},
    "stage2": {"epochs": 3, "omega_dropout": 0.1},
    "tasks": {"glue/rte": {"seeds": [0], "stage1": {"epochs": 2}}},
    "methods_options": {"gentle": {"method": "scalearn", "omega_dropout": 0.0}},
    "probe_sources": [["self", "glue/mrpc"]],
    "probe_constants": [0.0, 1.0],
}


@SOME(max_examples=200)
@given(content=spoilt(STUDY))
def test_a_study_of_any_values_has_cells_or_problems(content):
    study = accepts(schema.from_dict, StudyConfig, content)
    if study is not None and not study_problems(study):
        assert plan.cells(study, "out")


@pytest.mark.slow
@SOME(max_examples=50)
@given(data=st.data())
def test_a_run_of_any_values_is_read_or_refused(data, folder):
    run = folder / "run"
    run.mkdir(exist_ok=True)
    content = {name: json.loads((good() / "scaled" / name).read_text()) for name in ("run.json", "results.json")}
    for name, spoil in content.items():
        (run / name).write_text(json.dumps(data.draw(spoilt(spoil))))
    info = accepts(run_json.read_info, run)
    if info is not None:
        accepts(run_json.read_spec, run, info)
    accepts(results.read_result, run)


@pytest.mark.slow
@SOME(max_examples=100)
@given(data=st.data())
def test_what_a_shared_folder_says_of_itself_is_read_or_refused(data, folder):
    adapter = folder / "adapter"
    shutil.copytree(malformed_sharing.shared("adapter"), adapter, dirs_exist_ok=True)
    for name in "scalearn.json", "adapter_config.json", "head_config.json":
        (adapter / name).write_text(json.dumps(data.draw(spoilt(json.loads((adapter / name).read_text())))))
    said = accepts(provenance.read_provenance, adapter)
    assert said is None or isinstance(said["task"], Task)
    accepts(adapterhub.load, adapter)
    head = accepts(foreign_head.read_head, adapter, SIZES, None)
    if head is not None:
        accepts(foreign_head.find_task, head, "a", SIZES, task=None, data_dir=None, noted=said and said["task"])
    described = accepts(push.describe_folder, adapter)
    if described is not None:
        text = card.write_card(described[0], "me/a", [], family=described[1])
        assert card.is_ours(text)


@SOME(max_examples=60)
@given(data=st.data())
def test_what_joins_adapters_is_read_or_refused(data, folder):
    for kind, file, read in (
        ("setup", "adapter_setup.json", formats.setup_members),
        ("setup", "a,b/adapter_fusion_config.json", lambda path: adapterhub.load_fusion(path / "a,b")),
        ("scales", "scalearn_config.json", published.load_scalearn),
    ):
        joint = shutil.copytree(malformed_sharing.shared(kind), folder / kind, dirs_exist_ok=True)
        (joint / file).write_text(json.dumps(data.draw(spoilt(json.loads((joint / file).read_text())))))
        if accepts(formats.recognise, joint) == kind:
            accepts(read, joint)


@SOME(max_examples=60)
@given(content=spoilt({"format": 1, "study": STUDY}))
def test_a_study_folder_of_any_values_is_read_or_refused(content, folder):
    (folder / "study.json").write_text(json.dumps(content))
    study = accepts(results.read_study, folder)
    assert study is None or isinstance(study["name"], str)
