"""The benchmark script: one tiny cell of ours, its formulas, and its tables from made-up cells."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import accelerator, cells, flops, ours, predict, tables
from tests.conftest import FAST, ROOT
from tests.support import tiny, tiny_backbone


def call(*arguments):
    """Runs the script in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST}
    command = [sys.executable, "-m", "experiments.benchmark", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


@pytest.mark.slow
def test_a_cell_is_measured_kept_and_not_measured_again(tmp_path):
    model = tiny_backbone.write(tmp_path / "model")
    given = ("--tiny", "--repeats", 1, "--backbone", model, "--out", tmp_path / "r", "--only", "full/scalearn.1")
    done = call(*given)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 cells to measure" in done.stderr and "no --torch-python" in done.stderr
    result = json.loads((tmp_path / "r/cells/methods/full/scalearn.1.json").read_text())["result"]
    assert result["seconds"] > 0 and result["rows"] == 2 and result["programs"] == 1
    assert result["trainable"] == 2 * 2 * 16 + 16 * 17 + 17 * result_classes()
    assert result["flops"] > result["needed_flops"] > 0
    assert "| scalearn | " in (tmp_path / "r/README.md").read_text()
    assert "0 of 1 cells to measure" in call(*given).stderr


@pytest.mark.slow
def test_the_accelerator_part_runs_and_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "CELLS", [accelerator.Cell("scalearn", 32, seeds=10)])
    monkeypatch.setattr("scalearn_jax.io.cache.keep_compiled_programs", lambda: None)
    for _ in range(2):
        assert accelerator.main([str(tmp_path), "--tiny", "--repeats", "1"]) == 0
        [entry] = json.loads((tmp_path / "accelerator.json").read_text())["cells"].values()
        assert entry["seconds"] > 0
        monkeypatch.setattr(accelerator, "measure_cell", None)  # the second call has nothing to measure
    assert "scalearn" in (tmp_path / "README.md").read_text()


def test_mixed_batches_are_measured_against_single_tasks(tmp_path):
    model = tiny_backbone.write(tmp_path / "model", num_hidden_layers=1, max_position_embeddings=128)
    given = [str(tmp_path / "r"), "--tiny", "--repeats", "1", "--backbone", str(model)]
    assert predict.main(given) == 0
    cells = json.loads((tmp_path / "r/predict.json").read_text())["cells"]
    assert [(cell["tasks"], cell["texts"]) for cell in cells] == [(2, 4), (2, 8)]
    assert all(cell["ratio"] > 0 and cell["difference"] < 1e-5 for cell in cells)
    assert "| 2 | 8 | " in (tmp_path / "r/README.md").read_text()


def result_classes() -> int:
    """Outputs of the task that --tiny trains on."""
    from scalearn_jax.data import tasks

    return tasks.get(cells.TINY.real_task).num_outputs


@pytest.mark.parametrize("arguments", [["--backbone", "nowhere"], ["--tiny", "--backbone", ".", "--repeats", "0"]])
def test_wrong_input_is_one_line(arguments, capsys):
    assert benchmark.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("benchmark: error: ") and told.count("\n") == 1


def test_the_full_table_of_cells_is_consistent():
    every = [cell for make in cells.CELLS for cell in make(cells.Sizes())]
    names = [cell.name for cell in every]
    assert len(set(names)) == len(names)
    assert {cell.setting["task"] for cell in every if cell.name.startswith("tasks/")} == set(cells.GLUE)
    assert all(cell.worker in ours.WORKERS for cell in every)
    chosen = [cell.name for cell in cells.select(every, "tasks/rte/torch.1")]
    assert chosen == ["tasks/rte/batches", "tasks/rte/torch.1"]  # with what it reads


def test_needed_operations_of_the_smallest_model():
    spec = tiny.spec("single")  # L 2, d 16, f 32, r 4
    slots, places, products, one = 3 * 8, 5, 4 * 8 * 16, 2 * 16 * 4  # the last layer goes on at 5 places only
    attend, rest = 3 * 2 * 16**2 + products, 2 * 16**2 + 2 * 2 * 16 * 32
    forward = 2 * slots * attend + (slots + places) * (rest + 2 * one)
    backward = slots * (attend + products) + places * (rest + one) + (slots + places) * 3 * one
    expected = forward + backward + 2 * 5 * 16 * (3 * 16 + 3 * 3)
    assert flops.needed_flops(spec, rows=3, row_length=8, examples=5, num_outputs=3) == expected


def test_collectives_are_read_off_a_program():
    text = """
      %all-reduce.1 = f32[4,2]{1,0} all-reduce(%a), channel_id=1
      %all-reduce-start = (f32[3]{0}, bf16[2]{0}) all-reduce-start(%b, %c)
      %fusion = f32[99]{0} fusion(%all-reduce.1)
      %g = s32[8]{0} all-gather(%d), dimensions={0}
    """
    assert ours.collective_bytes(text) == {"all-reduce": 32 + 12 + 4, "all-gather": 32}


def write_cells(out: Path, results: dict[str, dict]) -> None:
    """Writes made-up cells."""
    for name, result in results.items():
        path = benchmark.path_of(out, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"cell": name, "result": result}))


def test_tables_take_the_best_time_and_the_worst_memory_and_say_what_is_met(tmp_path):
    fast, slow = {"seconds": 1.0, "median": 1.0, "memory": 2e6}, {"seconds": 2.0, "median": 2.0, "memory": 3e6}
    step = {"rows": 4.0, "flops": 22e9, "needed_flops": 20e9, "temp": 1e6, "trainable": 1000}
    write_cells(
        tmp_path,
        {
            "tasks/rte/packed.1": step | slow,
            "tasks/rte/packed.2": step | fast,
            "tasks/rte/padded.1": step | slow,
            "tasks/rte/torch.1": {"seconds": 8.0, "median": 8.0, "memory": 12e6},
            "methods/full/single.1": step | fast,
            "methods/full/scalearn.1": step | fast,
            "peak/ours.1": {"float32": {"8x8x8": 40e9, "9x9x9": 30e9}},
            "collectives/single": {"bytes": {"all-reduce": 4400}, "total": 4400, "trainable": 1000},
            "start/help": {"seconds": 0.6},
        },
    )
    tables.write(tmp_path, command="this one")
    lines = (tmp_path / "README.md").read_text().splitlines()
    found = {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")}
    measured = {name: line.split(" | ")[2:] for name, line in found.items()}
    step = "PyTorch's ScaLearn step, padded to 128, / ours, packed, geometric mean over tasks"
    assert measured[step] == ["8.00", "met |"]
    assert measured["peak memory of our step / PyTorch's, geometric mean over tasks"] == ["0.250", "met |"]
    assert measured["compiled / needed operations, any method"] == ["1.100", "missed |"]
    assert measured["share of the matrix-product peak, ScaLearn, full rows"] == ["50 %", "missed |"]
    assert measured["bytes exchanged / bytes of trainable parameters, 8 devices"] == ["1.10", "met |"]
    assert measured["`scalearn --help`"] == ["0.60 s", "missed |"]
    assert measured["any ScaLearn variant / single, 8 sources"] == ["not measured", " |"]
    assert found["rte"] == "| rte | 4.0 | 1.000 | 2.000 | 8.000 | - | 8.00 | - | 2.00 | 3 | 12 |"
    assert "this one" in lines
