"""Configs: strict reading, helpful errors, and the way back to plain values."""

import contextlib
import dataclasses
import inspect
import json
import os
import pickle
import pydoc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import scalearn_jax
from scalearn_jax import config as configs
from scalearn_jax.combiners import COMBINERS
from scalearn_jax.config import AdapterConfig, ReportConfig, StudyConfig, TransferConfig, from_dict, read_yaml, to_dict
from scalearn_jax.config.checks import fields_where
from scalearn_jax.config.schema import field_texts, field_types
from scalearn_jax.config.stages import combiner_settings
from scalearn_jax.errors import InputError, masked
from scalearn_jax.methods import METHODS

ADAPTER = {"backbone": "b", "out": "o", "task": "glue/rte"}
TRANSFER = {"backbone": "b", "out": "o", "target": "glue/rte"}
STUDY = {"name": "n", "backbone": "b", "targets": ["glue/rte"], "methods": ["scalearn"]}


@pytest.mark.parametrize("name", [name for name in configs.__all__ if name.endswith("Config")])
def test_help_explains_every_field_with_its_default(name):
    cls = getattr(configs, name)
    shown = " ".join(pydoc.plain(pydoc.render_doc(cls)).replace("|", " ").split())
    for field in dataclasses.fields(cls):
        about, declared = field_texts(cls)[field.name], shown.index(f" {field.name}: ")
        assert about and about in shown[declared:]
        if field.default is not dataclasses.MISSING:
            assert f"= {field.default!r} {about}" in shown[declared:]


@pytest.mark.parametrize(
    "cls, content",
    [
        (AdapterConfig, ADAPTER | {"seeds": [0, 1], "learning_rate": 1e-3}),
        (TransferConfig, TRANSFER | {"sources": ["a", "b"], "coefficients": [0.5, 1.0], "normalise": "mean"}),
        (StudyConfig, STUDY | {"tasks": {"glue/rte": {"epochs": 3}}, "stage1": {"max_steps": 5}}),
    ],
)
def test_dict_round_trip_through_json(cls, content):
    config = from_dict(cls, content)
    assert from_dict(cls, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    "extra, message",
    [
        ({"batch_sise": 4}, "unknown key 'batch_sise'; did you mean 'batch_size'?"),
        ({"batch-size": 4}, "did you mean 'batch_size'?"),
        ({"batch_size": "4"}, "key 'batch_size': expected a whole number, got '4'"),
        ({"batch_size": True}, "expected a whole number, got True"),
        ({"packed": 1}, "expected true or false, got 1"),
        ({"seeds": 0}, "expected a list of whole numbers, got 0"),
        ({"seeds": []}, "seeds must be"),
        ({"seeds": [1, 1]}, "seeds must be"),
        ({"seeds": [-1]}, "seeds must be"),
        ({"seeds": "5-2"}, "expected a range FIRST-LAST of at most a thousand numbers, got '5-2'"),
        ({"seeds": "0-99999999"}, "of at most a thousand numbers"),
        ({"seeds": [[0, 1], 2]}, "'seeds': expected a whole number, got [0, 1] at [0]"),
        ({"learning_rates": [1e-3, -1.0]}, "learning_rates must be different numbers from 0 on"),
        ({"batch_size": 8, "accumulate": 3}, "accumulate 3 does not divide batch_size 8"),
        ({"learning_rate": "fast"}, "expected a number, got 'fast'"),
        ({"learning_rate": float("nan")}, "'learning_rate': expected a finite number, got nan"),
        ({"learning_rate": -1}, "learning_rate must be at least 0, got -1.0"),
        ({"select": "los"}, "expected one of loss, metric (did you mean 'loss'?)"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"reduction_factor": 0}, "reduction_factor must be larger than 0"),
        ({"max_length": 3}, "max_length must be at least 4, got 3"),
        ({1: 2}, "unknown key 1"),
    ],
)
def test_bad_values_are_named(extra, message):
    with pytest.raises(InputError) as error:
        from_dict(AdapterConfig, ADAPTER | extra, where="a.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_ranges_are_written_out():
    assert from_dict(AdapterConfig, ADAPTER | {"seeds": "0-3"}).seeds == (0, 1, 2, 3)
    assert from_dict(AdapterConfig, ADAPTER | {"seeds": [7, "9-10"]}).seeds == (7, 9, 10)


@pytest.mark.parametrize(
    "extra, message",
    [
        ({"weights": [1.0, -1.0]}, "weights are divided by their sum"),
        ({"weights": [float("nan")]}, "'weights': expected a finite number, got nan at .0."),
        ({"coefficients": [float("inf")]}, "'coefficients': expected a finite number, got inf at .0."),
        ({"omega_init": float("nan")}, "'omega_init': expected a finite number"),
        ({"omega_dropout": 1.0}, "omega_dropout must be below 1"),
    ],
)
def test_bad_options_of_combiners_are_named(extra, message):
    with pytest.raises(InputError, match=message):
        from_dict(TransferConfig, TRANSFER | extra)


def test_the_home_folder_is_found_in_files_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = from_dict(TransferConfig, TRANSFER | {"out": "~/runs", "sources": ["~/a", "b"], "backbone": "org/name"})
    assert (config.out, config.sources, config.backbone) == ("/home/me/runs", ("/home/me/a", "b"), "org/name")


def test_all_problems_come_at_once():
    with pytest.raises(InputError, match="^a.yaml: 3 problems: .*'epoch'.*'batch_size'.*missing key 'task'"):
        from_dict(AdapterConfig, {"backbone": "b", "out": "o", "epoch": 1, "batch_size": "x"}, where="a.yaml")


def test_numbers_without_a_dot_are_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text("task: t\nbackbone: b\nout: o\nlearning-rate: 6e-3\n")
    assert from_dict(AdapterConfig, read_yaml(tmp_path / "a.yaml")).learning_rate == 6e-3


@pytest.mark.parametrize(
    "content",
    [
        b"a: 1\na: 2\n",
        b"a: [",
        b"- 1\n",
        b"",
        b"a: &a 1\nb: &a 2\n",
        b"%YAML 1.1\n---\na: 12:30\n",
        b"a: !!int 1\n",
        b"\xff\xfe\x00",
        b'a: !!python/object/apply:os.system ["true"]',
        b"[" * 5000,
        b"a: 2020-13-45",
        b"#" * 1_000_001,
    ],
)
def test_unreadable_files_are_input_errors(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match="a.yaml"):
        read_yaml(tmp_path / "a.yaml")


def test_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")


def test_merge_keys_still_work(tmp_path):
    (tmp_path / "a.yaml").write_text("x: &x {p: 1}\ny:\n  <<: *x\n  q: 2\n")
    assert read_yaml(tmp_path / "a.yaml")["y"] == {"p": 1, "q": 2}


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_a_config_may_come_through_a_pipe_but_not_without_end(size):
    reader, writer = os.pipe()
    thread = threading.Thread(target=fill, args=(writer, b"a: 1\n".ljust(size)))
    thread.start()
    try:
        if size < 100:
            assert read_yaml(f"/dev/fd/{reader}") == {"a": 1}
        else:
            with pytest.raises(InputError, match="has more than 1000000 bytes"):
                read_yaml(f"/dev/fd/{reader}")
    finally:
        os.close(reader)
        thread.join()


def fill(writer, content):
    """Writes into a pipe until all is written or nobody reads."""
    with contextlib.suppress(BrokenPipeError), open(writer, "wb") as stream:
        stream.write(content)


def test_values_have_the_types_of_yaml_1_2(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 12:30\nb: 0x1F\nc: [.5, 1_000, 0o17, 6e-3]\nd: [yes, no, true]\n")
    read = read_yaml(tmp_path / "a.yaml")
    assert read == {"a": "12:30", "b": 31, "c": [0.5, 1000, 15, 0.006], "d": ["yes", "no", True]}


def test_every_field_is_documented():
    from tyro._docstrings import get_field_docstring

    for name in configs.__all__:
        cls = getattr(configs, name)
        for field in getattr(cls, "__dataclass_fields__", {}):
            assert get_field_docstring(cls, field, ()), f"{name}.{field} has no help text"


CLASSES = [cls for cls in vars(configs).values() if dataclasses.is_dataclass(cls)]


@pytest.mark.parametrize("cls", [AdapterConfig, TransferConfig])
def test_every_setting_of_a_run_says_whether_the_result_follows_from_it(cls):
    for field in dataclasses.fields(cls):
        assert isinstance(field.metadata.get("result"), bool), f"{field.name}: declare it with _result or _means"


def test_settings_of_a_combiner_are_options_that_it_knows():
    for field in dataclasses.fields(TransferConfig):
        assert set(field.metadata["combiners"]) <= COMBINERS.keys()
        for combiner in field.metadata["combiners"] if field.metadata["option"] else ():
            assert field.metadata["option"] in inspect.signature(COMBINERS[combiner]).parameters, (field.name, combiner)
        about = field_texts(TransferConfig)[field.name].split(":")[0]
        assert field.metadata["combiners"] or about.split(",")[0] not in (*METHODS, "ScaLearn"), field.name


def test_what_only_one_process_or_place_has_is_marked():
    for cls in (AdapterConfig, TransferConfig):
        paths, own = (set(fields_where(cls, mark)) for mark in ("path", "per_host"))
        assert own - {"process_id"} == paths - {"embedder"}  # an embedder is part of what is asked for
        assert own <= set(fields_where(cls, "by_study"))


@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_called_a_folder_or_file_is_a_path(cls):
    for name, text in field_texts(cls).items():
        if field_types(cls)[name] is not bool and text.startswith(("Folder", "Run folder", "File", "Where the")):
            assert name in fields_where(cls, "path"), name


def test_methods_with_a_bottleneck_of_their_own_take_its_size():
    for method in METHODS.values():
        assert method.trains_adapter == ("reduction_factor" in combiner_settings(method.combiner))


def test_config_is_frozen():
    with pytest.raises(AttributeError):
        ReportConfig(dir="a").dir = "b"


TOKEN = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    "cls, content, where",
    [
        (AdapterConfig, ADAPTER | {"backbone": f"x/{TOKEN}"}, "backbone"),
        (AdapterConfig, ADAPTER | {"data_dir": "https://me:secret@host/x"}, "data_dir"),
        (TransferConfig, TRANSFER | {"sources": ["a", "b", TOKEN]}, "sources"),
        (StudyConfig, STUDY | {"stage2": {"embedder": [TOKEN]}}, "stage2"),
        (StudyConfig, STUDY | {"tasks": {TOKEN: {}}}, "tasks"),
        (ReportConfig, {"dir": TOKEN}, "dir"),
        (configs.ListConfig, {"what": "tasks", TOKEN: 1}, "unknown key"),
        (AdapterConfig, ADAPTER | {"seeds": "x" * 40 + "/" + TOKEN}, "seeds"),
        (AdapterConfig, ADAPTER | {"batch_size": TOKEN}, "batch_size"),
    ],
)
def test_tokens_and_passwords_are_refused_and_not_repeated(cls, content, where):
    with pytest.raises(InputError, match=where) as error:
        from_dict(cls, content)
    assert TOKEN not in str(error.value) and "secret" not in str(error.value) and "***" in str(error.value)


def test_a_token_is_refused_in_the_library_with_what_to_do():
    with pytest.raises(InputError, match="`hf auth login` or set HF_TOKEN"):
        AdapterConfig(task="t", out="o", backbone=f"https://user:{TOKEN}@huggingface.co/x/y")


@pytest.mark.parametrize(
    "harmless",
    [
        *("hf_short", "org/hf_roberta-base-with-a-long-name", "https://host:8080/a@b", "shelf_" + "a" * 40),
        *("./my_hf_robertalargefinetunedmnli", "models/hf_bertbaseuncasedfinetuned", "gs://bucket/model@main"),
        *("https://huggingface.co/x/y@main", "my_api_org_" + "a" * 34, f"{TOKEN}_x", "https://host/?mail=a@b"),
    ],
)
def test_what_only_looks_like_a_token_is_allowed(harmless):
    assert AdapterConfig(task="t", out="o", backbone=harmless).backbone == harmless


@pytest.mark.parametrize(
    "secret, left",
    [
        ("x/hf_oauth_eyJ.abc-" + "a" * 20, "x/***"),
        ("hf_jwt_" + "a" * 20, "***"),
        ("api_org_" + "a" * 34, "***"),
        ("https://ghp_x@github.com/y", "https://***@github.com/y"),
        ("https://user:p/w@host/x", "https://***@host/x"),
        ("https://user:p@ss@host/x", "https://***@host/x"),
    ],
)
def test_all_kinds_of_tokens_and_passwords_are_masked(secret, left):
    assert masked(secret) == left and len(masked("://" * 100_000 + secret)) > 0
    with pytest.raises(InputError, match="backbone: "):
        AdapterConfig(task="t", out="o", backbone=secret)


def test_the_recorded_command_masks_tokens(monkeypatch):
    from scalearn_jax.runs import provenance

    monkeypatch.setattr("sys.argv", ["/bin/scalearn", "transfer", f"--backbone={TOKEN}", "https://a:b@c/d"])
    assert provenance.command() == "scalearn transfer --backbone=*** https://***@c/d"


def test_a_notebook_has_no_command(monkeypatch):
    from scalearn_jax.runs import provenance

    monkeypatch.setattr("sys.argv", ["/lib/ipykernel_launcher.py", "-f", "kernel.json"])
    assert provenance.command() == ""


def test_a_path_object_is_a_path(tmp_path):
    config = AdapterConfig(task="glue/rte", backbone=tmp_path, data_dir=tmp_path, out=tmp_path / "out")
    assert (config.backbone, config.out) == (str(tmp_path), str(tmp_path / "out"))


@pytest.mark.parametrize(
    "given, taken",
    [
        ({"seeds": [0, 1]}, {"seeds": (0, 1)}),
        ({"seeds": range(3)}, {"seeds": (0, 1, 2)}),
        ({"seeds": np.arange(3)}, {"seeds": (0, 1, 2)}),
        ({"seeds": "0-2"}, {"seeds": (0, 1, 2)}),
        ({"seeds": (np.int64(4),), "max_steps": np.int32(5)}, {"seeds": (4,), "max_steps": 5}),
        ({"learning_rate": 1}, {"learning_rate": 1.0}),
        ({"learning_rate": np.float32(0.5)}, {"learning_rate": 0.5}),
        ({"sources": [Path("a"), "b"]}, {"sources": ("a", "b")}),
        ({"packed": np.bool_(False)}, {"packed": False}),
    ],
)
def test_values_that_mean_the_same_are_taken_in_python(given, taken):
    config = TransferConfig(**TRANSFER | given)
    found = {name: getattr(config, name) for name in taken}
    assert found == taken and [type(value) for value in found.values()] == [type(value) for value in taken.values()]
    assert all(type(item) in (int, str) for value in found.values() if isinstance(value, tuple) for item in value)
    assert hash(config) == hash(TransferConfig(**TRANSFER | taken)) and dataclasses.replace(config) == config
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    "given, message",
    [
        ({"max_steps": "2"}, "key 'max_steps': expected a whole number, got '2'"),
        ({"max_steps": True}, "key 'max_steps': expected a whole number, got True"),
        ({"max_steps": 2.0}, "key 'max_steps': expected a whole number, got 2.0"),
        ({"learning_rate": "1e-3"}, "key 'learning_rate': expected a number, got '1e-3'"),
        ({"learning_rate": False}, "key 'learning_rate': expected a number, got False"),
        ({"learning_rate": 10**400}, "key 'learning_rate': expected a number, got 1000"),
        ({"packed": 1}, "key 'packed': expected true or false, got 1"),
        ({"sources": "a"}, "key 'sources': expected a list of text, got 'a'"),
        ({"seeds": {0, 1}}, "key 'seeds': expected a list of whole numbers, got {0, 1}"),
        ({"seeds": (0, True)}, "key 'seeds': expected a whole number, got True at [1]"),
        ({"out": None}, "key 'out': expected text, got None"),
        ({"select": "los"}, "key 'select': expected one of loss, metric (did you mean 'loss'?), got 'los'"),
        (
            {"max_steps": "2", "epochs": 1.5},
            "key 'epochs': expected a whole number, got 1.5; key 'max_steps': expected a whole number, got '2'",
        ),
    ],
)
def test_wrong_types_are_one_line_in_python_too(given, message):
    with pytest.raises(InputError) as error:
        TransferConfig(**TRANSFER | given)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_configs_are_imported_without_what_checks_them():
    code = "import sys, scalearn_jax.config; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "pydantic_core", "ruamel", "ruamel.yaml", "numpy", "jax"} & set(loaded)


FUNCTIONS = {
    "evaluate": "EvaluateConfig",
    "explain_run": "ExplainConfig",
    "export_run": "ExportConfig",
    "import_source": "ImportConfig",
    "fold_run": "FoldConfig",
    "predict": "PredictConfig",
    "make_report": "ReportConfig",
    "push": "PushConfig",
    "fetch": "FetchConfig",
    "train_adapter": "AdapterConfig",
    "train_joint": "JointConfig",
    "transfer": "TransferConfig",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_of_a_config_takes_its_settings_and_refuses_all_else_in_one_line(name):
    function, other = getattr(scalearn_jax, name), scalearn_jax.PredictConfig(run="r", input="i", output="o")
    wrong = [((3,), {}), ((None,), {}), (({"run": "x"},), {}), ((), {"no_such": 1}), (("a", "b", "c", "d"), {})]
    wrong += [((), {"run": 3}), ((scalearn_jax.ReportConfig(dir="d") if name != "make_report" else other,), {})]
    for given, named in wrong:
        with pytest.raises(InputError, match=f"^{name}: ") as caught:
            function(*given, **named)
        assert "\n" not in str(caught.value)
    assert f"``{FUNCTIONS[name]}`` it takes its settings, by name" in function.__doc__


def test_settings_come_as_a_config_by_place_or_by_name(tmp_path):
    report = scalearn_jax.make_report
    for call in (
        lambda: report("none"),
        lambda: report(Path("none")),
        lambda: report(dir="none"),
        lambda: report(config=scalearn_jax.ReportConfig(dir="none")),
        lambda: report(scalearn_jax.ReportConfig(dir="none"), strict=True),
        lambda: report(scalearn_jax.ReportConfig(dir="some"), dir="none"),
    ):
        with pytest.raises(InputError, match="^none: no finished run"):
            call()
    with pytest.raises(InputError, match="make_report: expected one ReportConfig, or its settings by name, dir also"):
        report("none", dir="none")


@pytest.mark.parametrize(
    "call, told",
    [
        (
            lambda: AdapterConfig(task="t", backbone="b", out="o", max_step=2),
            "unknown key 'max_step'; did you",
        ),
        (lambda: AdapterConfig(task="t"), "AdapterConfig: 2 problems: missing key 'backbone'; missing key 'out'"),
        (lambda: AdapterConfig("glue/rte"), "AdapterConfig: expected settings by name, .* got 'glue/rte'"),
        (lambda: scalearn_jax.Task("t", "regression"), "Task: missing key 'texts'"),
        (
            lambda: scalearn_jax.Task("t", "regression", ("a",), label=()),
            "unknown key 'label'; did you mean 'labels'",
        ),
        (lambda: scalearn_jax.Task("t", "regression", ("a",), name="u"), "Task: key 'name': given twice"),
        (lambda: scalearn_jax.run_study("study.yaml", "o"), "study: expected a StudyConfig, got 'study.yaml'"),
        (lambda: scalearn_jax.scalars({}), "scalars: expected an event, as on_event gets it, got {}"),
        (lambda: scalearn_jax.load_run(3), "run: expected the name of a folder or OWNER/NAME of the hub, got 3"),
        (lambda: scalearn_jax.load_source(None), "source: expected the name of a folder .* got None"),
        (lambda: scalearn_jax.load_backbone(""), "backbone: expected a folder or a hub id, got ''"),
        (lambda: scalearn_jax.load_run(Path("none")), "none/run.json does not exist"),
    ],
)
def test_what_python_would_refuse_with_a_traceback_is_one_line(call, told):
    with pytest.raises(InputError, match=told) as caught:
        call()
    assert "\n" not in str(caught.value)
