"""The command line: fast help, one-line errors, exit codes."""

import errno
import importlib
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import types

import pytest

import scalearn_jax
from scalearn_jax import cli, config
from scalearn_jax.cli import commands, flags
from scalearn_jax.cli.commands import COMMANDS
from scalearn_jax.config import TransferConfig
from scalearn_jax.config.schema import field_texts, field_types, required_fields
from scalearn_jax.data import tasks
from scalearn_jax.errors import InputError
from scalearn_jax.methods import JOINT, METHODS
from scalearn_jax.models.backbones import BACKBONES
from tests.support.fake_runs import write_run

TRANSFER = ["--target", "glue/rte", "--backbone", "b", "--out", "o"]


@pytest.fixture
def fake(monkeypatch):
    """Puts stand-ins in the place of training and inference."""

    def put(name, **functions):
        module = types.SimpleNamespace(**functions)
        package, _, last = f"scalearn_jax.{name}".rpartition(".")
        monkeypatch.setitem(sys.modules, f"scalearn_jax.{name}", module)
        monkeypatch.setattr(importlib.import_module(package), last, module, raising=False)
        monkeypatch.setattr(commands, "_prepare", lambda: None)

    return put


def parse(*argv):
    return flags.parse(TransferConfig, [*TRANSFER, *argv], prog="scalearn transfer")


def test_help_loads_nothing_heavy():
    code = "import sys; from scalearn_jax import cli; cli.main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert not {"jax", "numpy", "transformers", "tyro", "pydantic", "ruamel.yaml", "rich"} & set(done.stderr.split())


LEAVES = {(name,): row for name, row in COMMANDS.items() if isinstance(row, commands.Command)}
LEAVES |= {
    (name, stage): row
    for name, group in COMMANDS.items()
    if isinstance(group, commands.Group)
    for stage, row in group.commands.items()
}


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_help_of_every_command_names_every_setting(command, capsys):
    assert cli.main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    row = LEAVES[command]
    texts = field_texts(getattr(config, row.config)).values()
    assert not any("\n" in text for text in texts)  # else lines break
    for name in getattr(config, row.config).__dataclass_fields__:
        assert name in (row.positional or "").split() or f"--{name.replace('_', '-')}" in shown


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_every_row_names_functions_that_exist(command):
    row = LEAVES[command]
    inspect.signature(commands._load(row.target)).bind("a config")
    printer = commands._load(row.printer) if isinstance(row.printer, str) else row.printer
    assert printer is None or callable(printer)
    fields = field_types(getattr(config, row.config))
    assert not row.processes or (row.stops and "coordinator" in fields)


@pytest.mark.parametrize("given", [("--seeds", "0-2", "7"), ("--seeds=0-2", "7"), ("--seeds", "0", "1-2", "7")])
def test_ranges_of_seeds_are_written_out(given):
    assert parse(*given, "--method", "fusion").seeds == (0, 1, 2, 7)


def test_a_bad_range_is_told(capsys):
    assert cli.main(["transfer", *TRANSFER, "--seeds", "5-2"]) == 2
    assert (
        "--seeds: expected a whole number or a range FIRST-LAST of at most a thousand, got '5-2'."
        in capsys.readouterr().err
    )


def test_flags_reach_the_config():
    got = parse("--sources", "a", "b", "--method", "scalearn-uniform++", "--seeds", "0", "1", "2", "--no-packed")
    assert (got.sources, got.method, got.seeds, got.packed) == (("a", "b"), "scalearn-uniform++", (0, 1, 2), False)
    assert got == TransferConfig(
        target="glue/rte",
        backbone="b",
        out="o",
        sources=("a", "b"),
        seeds=(0, 1, 2),
        method="scalearn-uniform++",
        packed=False,
    )


def test_yaml_fills_what_flags_leave_open(tmp_path):
    (tmp_path / "c.yaml").write_text("learning-rate: 1e-2\nbatch_size: 8\nseeds: [3, 4]\nremat: true\n")
    got = parse("--config", str(tmp_path / "c.yaml"), "--batch-size", "16", "--no-remat")
    assert (got.learning_rate, got.batch_size, got.seeds, got.remat) == (0.01, 16, (3, 4), False)
    assert parse(f"--config={tmp_path / 'c.yaml'}").remat is True
    (tmp_path / "all.yaml").write_text("target: t\nbackbone: b\nout: o\n")
    assert flags.parse(TransferConfig, ["--config", str(tmp_path / "all.yaml")], prog="x").target == "t"


@pytest.mark.parametrize(
    "argv, message",
    [
        (["trian-adapter"], "unknown command 'trian-adapter'; did you mean 'train-adapter'?"),
        (["plan", "transfr"], "unknown stage 'transfr'; did you mean 'transfer'?"),
        (["plan", "transfer", *TRANSFER, "--no-sugest"], "unknown flag --no-sugest; did you mean --"),
        (["transfer", *TRANSFER, "--method", "scalearn+"], "unknown method 'scalearn+'; did you mean 'scalearn"),
        (["transfer", *TRANSFER, "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["transfer", *TRANSFER, "--seeds", "1", "1"], "seeds must be"),
        (["transfer", *TRANSFER, "--config", "none.yaml"], "cannot read none.yaml: No such file or directory"),
        (["transfer", *TRANSFER, "--config"], "--config: expected one file name"),
        (["transfer", *TRANSFER, "--config", "a", "--config", "b"], "--config: expected one file name"),
        (["run", "none.yaml", "--out", "o"], "cannot read none.yaml"),
        (["report", "nowhere"], "no finished run"),
    ],
)
def test_wrong_input_is_one_line_and_code_two(argv, message, capsys):
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("scalearn: error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "argv, line",
    [
        (["transfer", "--target", "t", "--out", "o"], "transfer: expected --backbone TEXT, got nothing. Folder or"),
        (["transfer", *TRANSFER, "--batch-sise", "2"], "unknown flag --batch-sise; did you mean --batch-size?"),
        (["transfer", *TRANSFER, "--max-steps", "ten"], "--max-steps: expected a whole number, got 'ten'."),
        (["transfer", *TRANSFER, "--batch-size=1.5"], "--batch-size: expected a whole number, got '1.5'."),
        (["transfer", *TRANSFER, "--learning-rates", "1", "x"], "--learning-rates: expected a number, got 'x'."),
        (["transfer", *TRANSFER, "--max-steps"], "--max-steps: expected a whole number after it, got nothing;"),
        (
            ["transfer", *TRANSFER, "--select", "los"],
            "--select: expected one of loss, metric, got 'los'; did you mean loss?",
        ),
        (["transfer", *TRANSFER, "--remat=3"], "--remat takes no value, got '3'; leave it out."),
        (["transfer", *TRANSFER, "--remat", "3"], "unexpected '3': no flag before it takes it; see --help."),
        (["evaluate", "run", "--batch-size", "8", "other"], "unexpected 'other': no flag before it takes it;"),
        (["list", "task"], "WHAT: expected one of tasks, methods, backbones, got 'task'; did you mean tasks?"),
        (["evaluate"], "evaluate: expected DIR, got nothing. Run folder"),
        (["plan", "transfer"], "plan transfer: expected --backbone TEXT, got nothing."),
        (["report", "--dir", "x"], "unknown flag --dir; DIR is given without one, for instance: scalearn report runs/"),
        (["push", "--dir=x", "o/n"], "unknown flag --dir; DIR is given without one, for instance: scalearn push fol"),
        (["report", "x", "--config", "c.yaml"], "unknown flag --config; see --help."),
        (["report", "-x"], "unknown flag -x; flags begin with two dashes"),
        (["report", ""], "DIR is empty; expected a text."),
        (["evaluate", "x", "--no-json"], "unknown flag --no-json; did you mean --json?"),
        (["transfer", *TRANSFER, "--no-seeds"], "unknown flag --no-seeds; did you mean --seeds?"),
        (["transfer", *TRANSFER, "--target", "u"], "--target: given twice; give it once."),
        (["transfer", *TRANSFER, "--packed", "--no-packed"], "--no-packed: given twice; give it once."),
        (
            ["transfer", *TRANSFER, "--seeds", "0", "--seeds", "1"],
            "--seeds: given twice; give it once, with all values",
        ),
        (["transfer", *TRANSFER, "--seeds", "x"], "--seeds: expected a whole number or a range FIRST-LAST"),
        (["transfer", *TRANSFER, "--sources"], "--sources: expected a text after it, got nothing;"),
        (["transfer", *TRANSFER, "--method", "-x"], "--method: expected a text after it, got '-x'; else write"),
    ],
)
def test_wrong_flags_are_explained_in_a_line_with_code_two(argv, line, capsys):
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"scalearn: error: {line}") and error.count("\n") == 1


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_what_is_missing_or_misplaced_is_told_by_us_and_not_by_the_parser(command, capsys):
    """Of every command: nothing given, and each place given as a flag; the line ends with an example that parses."""
    row = LEAVES[command]
    cls, places = getattr(config, row.config), (row.positional or "").split()
    wrong = [[f"--{name}", "x"] for name in places] + ([[]] if required_fields(cls) else [])
    for argv in wrong:
        assert cli.main([*command, *argv]) == 2
        error = capsys.readouterr().err
        assert re.match(r"scalearn: error: (unknown flag --|" + " ".join(command) + ": expected ).*: scalearn ", error)
        assert error.count("\n") == 1 and error.rstrip().endswith(row.example)
    parsed = flags.parse(cls, shlex.split(row.example), prog="scalearn", positional=row.positional)
    assert isinstance(parsed, cls)


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_help_says_every_default_and_ends_with_an_example(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([*command, "--help"]) == 0
    shown, _, example = capsys.readouterr().out.partition("\nexample:\n")
    assert shlex.split(example.replace("\\\n", " ")) == ["scalearn", *command, *LEAVES[command].example.split()]
    flat = " ".join(re.sub("[│╭╮╰╯─]", " ", shown).split())
    entries = re.split(r" (?=--[a-z-]+ (?:[A-Z{][^ ]*|, --no-[a-z-]+|[A-Z][a-z]))", flat)[1:]
    silent = [entry for entry in entries if not re.search(r"default|published:|required|without it", entry)]
    assert silent == [] and max(map(len, (shown + example).splitlines())) <= 80


def test_the_default_of_a_rate_is_that_of_the_method(tmp_path, capsys):
    assert cli.main(["transfer", "--help"]) == cli.main(["train-adapter", "--help"]) == 0
    found = re.findall(r"--learning-rate X[^(]*\(default: ([^,]*), by", capsys.readouterr().out)
    assert [float(one) for one in found] == [METHODS["scalearn"].learning_rate, METHODS["single"].learning_rate]
    (tmp_path / "c.yaml").write_text("method: fusion\npacked: false\n")
    assert cli.main(["transfer", "--config", str(tmp_path / "c.yaml"), "--help"]) == 0
    assert "(default: 5e-05, by" in capsys.readouterr().out
    assert parse("--config", str(tmp_path / "c.yaml"), "--no-packed").packed is False  # off already


def test_numbers_below_zero_are_no_flags():
    assert parse("--method", "fixed", "--coefficients", "-0.5", "1e-3").coefficients == (-0.5, 1e-3)
    assert parse("--omega-init", "-1").omega_init == -1


@pytest.mark.parametrize(
    "error, code, message",
    [
        (InputError("a\nb"), 2, "a b"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "Permission denied: /x"),
        (FloatingPointError("no finite loss"), 1, "no finite loss"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(fake, capsys, error, code, message):
    def stop(config):
        raise error

    fake("stages.pipeline", transfer=stop)
    assert cli.main(["transfer", *TRANSFER]) == code
    assert capsys.readouterr().err == f"scalearn: error: {message}\n"


@pytest.mark.parametrize("flag", ["--batch-size", "--select", "--backbone", "--config", "--seeds", "--none"])
def test_tokens_on_the_command_line_are_refused_and_not_repeated(flag, capsys):
    secret = "aB3" * 12
    for argument in (f"hf_{secret}", f"https://me:{secret * 5}@huggingface.co/{'x' * 60}"):
        for argv in ([flag, argument], [f"{flag}={argument}"], [f"--{argument}"]):
            assert cli.main(["transfer", *TRANSFER, *argv]) == 2
            error = capsys.readouterr().err
            assert "`hf auth login` or set HF_TOKEN" in error and error.count("\n") == 1 and "aB3" not in error


def test_our_own_faults_keep_their_traceback(fake):
    def stop(config):
        raise OSError(errno.EBADF, "Bad file descriptor")

    fake("stages.pipeline", transfer=stop)
    with pytest.raises(OSError, match="Bad file"):
        cli.main(["transfer", *TRANSFER])


def test_training_commands_print_the_folder(fake, capsys):
    fake("stages.pipeline", transfer=lambda config: config.out, train_adapter=lambda config: config.out)
    assert cli.main(["transfer", *TRANSFER]) == 0
    assert cli.main(["train-adapter", "--task", "t", "--backbone", "b", "--out", "p"]) == 0
    assert capsys.readouterr().out == "wrote o\nwrote p\n"


def test_evaluate_prints_a_table_or_json(fake, capsys):
    result = {"run": "r", "task": "t", "split": "test", "examples": {"used": 4, "available": 9}}
    result |= {"seeds": {"0": {"loss": 1, "accuracy": 0.5}, "1": {"loss": 2, "accuracy": 1.0}}}
    result |= {"se": {"0": {"accuracy": 0.25}, "1": {"accuracy": 0.0}}}
    fake("runs.evaluate", evaluate=lambda config: result)
    assert cli.main(["evaluate", "r"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("r: t, test split, 4 of 9 examples, 2 seeds, in percent but for loss\n")
    assert "\nmean  1.5000  75.00\n" in shown and shown.endswith("\nse    -       12.50\n")
    assert cli.main(["evaluate", "r", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result


@pytest.mark.parametrize(
    "what, name", [("tasks", "glue/rte"), ("methods", "scalearn-uniform++"), ("backbones", "roberta")]
)
def test_list_prints_the_tables(what, name, capsys):
    assert cli.main(["list", what]) == 0
    assert f"\n{name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    "what, names, last",
    [
        ("tasks", tasks.known(), "question_match, accuracy"),
        ("methods", [*METHODS, *(f"train-joint {name}" for name in JOINT)], "sources whose numbers are shuffled"),
        ("backbones", BACKBONES, "MPNet"),
    ],
)
@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_a_list_fits_the_terminal(what, names, last, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["list", what]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= int(columns) and len(shown) == 2 + len(names)
    assert all(line.startswith(name) for line, name in zip(shown[2:], names, strict=True))
    monkeypatch.delenv("COLUMNS")
    assert cli.main(["list", what]) == 0
    assert last in capsys.readouterr().out  # a pipe gets all


def test_the_tasks_of_a_folder_are_listed_with_their_rows(tmp_path, capsys):
    row = {"text": "a", "sentence1": "a", "sentence2": "b"}
    for name, splits in {"my/one": "train dev", "glue/rte": "train validation", "my/bad": "train"}.items():
        (tmp_path / name).mkdir(parents=True)
        if name != "glue/rte":
            text = f"name: {name}\nkind: classification\ntexts: [text]\nlabels: [a, b]\n"
            (tmp_path / name / "task.yaml").write_text(text)
        for split in splits.split():
            count = 30 if split == "train" else 4
            lines = [json.dumps(row | {"label": number % 2}) for number in range(count)]
            (tmp_path / name / f"{split}.jsonl").write_text("\n".join(lines))
    assert cli.main(["list", "tasks", "--data-dir", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = {line[0]: line[1:5] for line in lines[2:4]}
    assert found == {"my/one": ["classification", "27", "4", "3"], "glue/rte": ["classification", "27", "3", "4"]}
    assert lines[4][0] == f"{tmp_path}/my/bad/task.yaml:" and "validation" in lines[4]


@pytest.mark.parametrize(
    "what, folder, told",
    [
        ("methods", ".", "--data-dir lists tasks, not methods"),
        ("tasks", "none", "there is no such folder"),
        ("tasks", ".", "holds no task: no task.yaml"),
    ],
)
def test_a_folder_that_lists_nothing_is_refused(what, folder, told, tmp_path, capsys):
    assert cli.main(["list", what, "--data-dir", str(tmp_path / folder)]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "words, expected, missing",
    [
        (["tran"], {"transfer"}, {"train-adapter"}),
        (["plan", "tr"], {"train-adapter", "transfer"}, set()),
        (["list", ""], {"tasks", "methods", "backbones"}, set()),
        (["transfer", "--ta"], {"--target", "--targets"}, {"--task"}),
        (["train-adapter", "--no"], {"--no-packed", "--non-linearity"}, {"--no-remat"}),
        (["plan", "transfer", "--sug"], {"--suggest"}, set()),
        (["transfer", "--target", "t", "--method", "fus"], {"fusion"}, {"scalearn"}),
        (["transfer", "--fit", ""], {"sgd", "solve"}, set()),
        (["predict", "runs/x", "--ke"], {"--keep", "--keep-all"}, set()),
        (["evaluate", "x"], set(), {"evaluate"}),
    ],
)
def test_the_shell_completes_commands_flags_and_values(words, expected, missing, capsys):
    assert cli.main(["--print-completion", "bash"]) == 0
    quoted = " ".join(f"'{word}'" for word in ["scalearn", *words])
    ask = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _scalearn; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", capsys.readouterr().out + ask], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert expected <= found and not missing & found and not done.stderr
    assert all(one.startswith(words[-1]) for one in found)


def test_zsh_takes_the_same_script_and_other_shells_none(capsys):
    assert cli.main(["--print-completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("autoload -U +X bashcompinit")
    for rest in ([], ["fish"]):
        assert cli.main(["--print-completion", *rest]) == 2
        assert "--print-completion: expected bash or zsh, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    "is_terminal, settings, coloured",
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_an_error_is_coloured_on_a_terminal_alone(is_terminal, settings, coloured, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in ({"TERM": "xterm"} | settings).items():
        monkeypatch.setenv(name, value)
    assert cli.main(["nothing"]) == 2
    word = "\x1b[1;31merror:\x1b[0m" if coloured else "error:"
    assert stream.getvalue().startswith(f"scalearn: {word} unknown command")


@pytest.mark.parametrize("encoding, shown", [("ascii", "60.00 +- 14.14"), ("cp1252", "60.00 ± 14.14")])
def test_the_command_prints_where_there_is_no_unicode(encoding, shown, tmp_path, monkeypatch):
    write_run(tmp_path / "état" / "a", task="glue/rte", values=(0.5, 0.7))
    out, errors = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(cli.signal, "signal", lambda *args: None)
    codes = []
    for argv in (["report", str(tmp_path / "état")], ["list", "tasks"], ["--help"], ["push", "\udcff", "ω/ω"]):
        monkeypatch.setattr(sys, "argv", ["scalearn", *argv])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        codes.append(stop.value.code)
    out.flush()
    errors.flush()
    assert codes == [0, 0, 0, 2], errors.buffer.getvalue()
    assert shown in out.buffer.getvalue().decode(encoding) and b"\\udcff" in errors.buffer.getvalue()


def test_report_prints_the_table(tmp_path, capsys):
    write_run(tmp_path / "a", task="glue/rte", values=(0.5, 0.7))
    assert cli.main(["report", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\| single +\| 0 +\| 1 +\| 60.00 ± 14.14 ", shown)


def test_cache_folder_is_private(tmp_path, monkeypatch):
    from scalearn_jax.io.cache import cache_folder

    monkeypatch.setenv("SCALEARN_CACHE", str(tmp_path / "cache"))
    folder = cache_folder("xla/abc")
    assert folder.is_dir() and (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    os.chmod(tmp_path / "cache", 0o777)  # someone else could now plant a program
    assert cache_folder("xla/abc") is None
    monkeypatch.setenv("SCALEARN_CACHE", os.devnull)
    assert cache_folder("xla/abc") is None


def test_version_is_printed(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"scalearn {scalearn_jax.__version__}\n"


def test_every_public_name_exists():
    assert all(name in dir(scalearn_jax) for name in scalearn_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        scalearn_jax.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["AdapterConfig", "TransferConfig", "PlanAdapterConfig", "PlanTransferConfig"])
def test_every_flag_of_a_stage_is_in_one_group_of_its_help(name):
    grouped = [flag for names in flags._GROUPS.values() for flag in names.split()]
    assert len(set(grouped)) == len(grouped)
    assert set(field_types(getattr(config, name))) - set(grouped) <= {"suggest", "json"}


def test_groups_change_no_value(capsys):
    argv = ["--target", "t", "--sources", "s", "--backbone", "b", "--out", "o", "--seeds", "0-2", "--no-packed"]
    found = flags.parse(TransferConfig, [*argv, "--dtype", "mixed", "--epochs", "7"], prog="scalearn transfer")
    values = dict(target="t", sources=("s",), backbone="b", out="o", seeds=(0, 1, 2), packed=False, dtype="mixed")
    assert found == TransferConfig(**values, epochs=7)
    assert cli.main(["transfer", "--help"]) == 0
    boxes = [box.replace("-", "_") for box in re.findall(r"\W ([a-z][\w-]*) options \W", capsys.readouterr().out)]
    assert boxes == [*flags._GROUPS]
