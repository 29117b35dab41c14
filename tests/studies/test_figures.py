"""Figures: which are drawn, what they show, and that reruns give the same bytes."""

import itertools
import json
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from scalearn_jax.config import ReportConfig
from scalearn_jax.io import plot
from scalearn_jax.runs.figures import mean_omega
from scalearn_jax.studies import figures, report
from scalearn_jax.studies.figures import draw_all
from scalearn_jax.studies.results import read_results
from tests.support.fake_runs import write_probe, write_run, write_study

DRAWINGS = (
    figures.draw_omegas_by_method,
    figures.draw_parameters,
    figures.draw_few_shot,
    figures.draw_probing,
)
SOURCES = ("glue/mrpc", "glue/rte")


@pytest.fixture
def study(tmp_path):
    """Two targets, three methods, all complete but scalearn++ on STS-B."""
    for target, metric in (("glue/rte", "accuracy"), ("glue/stsb", "pearson")):
        for method, score, size in (("single", 0.5, 10), ("scalearn", 0.7, 6), ("scalearn++", 0.8, 2)):
            if (method, target) != ("scalearn++", "glue/stsb"):
                sources = SOURCES if method != "single" else ()
                values = (score, score + 0.1) if target == "glue/rte" else (score, score - 0.2)
                rest = {"method": method, "values": values, "parameters": size, "metric": metric, "sources": sources}
                write_run(tmp_path / target / method, task=target, **rest)
    return tmp_path


@pytest.fixture
def everything(study):
    """The same with few-shot and probing cells."""
    write_study(study, targets=["glue/rte", "glue/stsb"], methods=["single", "scalearn", "scalearn++"], shots=[4, 16])
    for k, method in itertools.product((4, 16), ("single", "scalearn")):
        rest = {"method": method, "sources": SOURCES if method == "scalearn" else ()}
        write_run(study / f"glue/rte/{k}-shot/{method}", task="glue/rte", values=(0.4, 0.5 + k / 100), **rest)
    for first, second in itertools.product((0.0, 1.0), (0.5, 1.0)):
        write_probe(study, "glue/rte", {"glue/rte": first, "glue/mrpc": second}, values=(first / 2 + second / 4,))
        write_probe(study, "glue/rte", {f"glue/{'rte' if first else 'mrpc'}": second}, values=(0.5, 0.6))
    return study


def images(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".png", ".svg")}


def both(*names):
    return {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}


def test_only_the_figures_that_apply_are_drawn(study):
    report.make_report(ReportConfig(dir=str(study)))
    assert set(images(study / "report")) == both("omega-scalearn", "omega-scalearn++", "score-vs-parameters")


@pytest.mark.slow
def test_all_figures_are_whole_and_the_same_on_every_run(everything, monkeypatch):
    report.make_report(ReportConfig(dir=str(everything)))
    names = ("omega-scalearn", "omega-scalearn++", "score-vs-parameters", "few-shot")
    first = images(everything / "report")
    assert set(first) == both(*names, "probing-single", "probing-pairs-glue-rte")
    for name, content in first.items():
        assert content.startswith(b"\x89PNG") if name.endswith("png") else content.rstrip().endswith(b"</svg>")
        assert b"<dc:date>" not in content
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)  # of a user's matplotlibrc
    report.make_report(ReportConfig(dir=str(everything)))
    assert images(everything / "report") == first
    assert not [path for path in (everything / "report").iterdir() if path.name.startswith(".")]


def test_a_figure_that_fails_leaves_nothing_and_keeps_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "f.png").write_bytes(b"old")

    def fail(figure, file, format, **options):
        file.write(b"half")
        if format == "svg":
            raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"), plot.drawing(tmp_path, "f", 1, 1):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["f.png"] and (tmp_path / "f.png").read_bytes() == b"old"


@pytest.mark.slow
def test_figures_fit_a_page(tmp_path):
    for method, layers in (("scalearn", 24), ("scalearn-mean", 12), ("scalearn-uniform", 6)):
        for number in range(8):
            scales = np.full((layers, 8, 1), 0.2, np.float32)
            sources = tuple(f"t/{source}" for source in range(8))
            folder = tmp_path / f"{method}{number}"
            write_run(folder, task=f"t/{number}", method=method, sources=sources, omega=scales)
    draw_all(read_results(tmp_path), tmp_path)
    for path in tmp_path.glob("*.svg"):
        width, height = map(
            float, re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', path.read_text()[:2000]).groups()
        )
        assert width <= 72 * plot.PAGE[0] + 1e-6 and height <= 72 * plot.PAGE[1] + 1e-6


def test_omegas_are_shown_by_source_and_layer(study):
    np.testing.assert_array_equal(mean_omega(study / "glue/rte/scalearn", "none"), [[0, 1, 2], [10, 11, 12]])
    np.testing.assert_array_equal(mean_omega(study / "glue/rte/scalearn++", "none"), [[0], [10]])
    weights = mean_omega(study / "glue/rte/scalearn", "softmax")  # as they act
    np.testing.assert_allclose(weights.sum(0), 1.0, rtol=1e-6)


def test_shared_scales_stand_beside_the_constant_with_their_intervals(tmp_path, monkeypatch):
    run = tmp_path / "run"
    write_run(run, task="t", method="scalearn-uniform++", sources=("a", "b"), omega=np.array([[0.5], [1.25]]))
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {"solve": {"deviation": {"a": 0.1, "b": 0.25}}}))
    shown = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: shown.append(figure))
    figures.draw_omegas_by_method(read_results(run), tmp_path)
    [axis] = shown[0].axes
    [bars] = axis.collections
    np.testing.assert_allclose([one[:, 0] for one in bars.get_segments()], [[0.304, 0.696], [0.76, 1.74]])
    points = next(line for line in axis.lines if line.get_marker() == "o")
    assert points.get_xdata().tolist() == [0.5, 1.25] and [text.get_text() for text in axis.texts] == ["0.50", "1.25"]
    assert [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"] == [1.0]
    (run / "results.json").write_text(json.dumps(results))
    figures.draw_omegas_by_method(read_results(run), tmp_path)
    assert not shown[-1].axes[0].collections


def test_scales_of_every_layer_have_their_means_intervals_at_the_right(tmp_path, monkeypatch):
    run, omega = tmp_path / "run", np.array([[[0.5], [1.25]], [[0.7], [1.5]]])
    write_run(run, task="t", method="scalearn-uniform", sources=("a", "b"), omega=omega)
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {"solve": {"deviation": {"a": 0.1, "b": 0.25}}}))
    shown = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: shown.append(figure))
    figures.draw_omegas_by_method(read_results(run), tmp_path)
    texts = [text.get_text() for text in shown[0].axes[0].texts]
    assert [text for text in texts if text.startswith("±")] == ["± 0.20", "± 0.49"] and "1.25" in texts


def test_points_average_the_targets_that_every_method_has(study):
    methods, targets = figures.points(read_results(study))
    assert targets == ["glue/rte"]
    assert {p.method: (p.parameters, round(p.score, 9)) for p in methods} == {
        "single": (10, 55.0),
        "scalearn": (6, 75.0),
        "scalearn++": (2, 85.0),
    }
    methods, targets = figures.points([r for r in read_results(study) if r.method != "scalearn++"])
    assert targets == ["glue/rte", "glue/stsb"]
    single = next(p for p in methods if p.method == "single")
    assert single.score == pytest.approx((0.55 + 0.4) * 50)
    assert single.sd == pytest.approx(100 * np.std([(0.5 + 0.5) / 2, (0.6 + 0.3) / 2], ddof=1))


def test_figures_name_the_number_of_test_examples(tmp_path):
    for target, examples, se in (("glue/cola", (300, 1043), 0.03), ("glue/rte", (277, 277), 0.04)):
        for method, sure in (("single", 1), ("fusion", 0.5)):
            rest = dict(method=method, examples=examples, parameters=9, se=sure * se)
            write_run(tmp_path / target / method, task=target, **rest)
    write_run(tmp_path / "glue/rte/4-shot/single", task="glue/rte", examples=(277, 277), se=0.05)
    write_run(tmp_path / "glue/cola/4-shot/single", task="glue/cola")  # of a version that did not record it
    write_study(tmp_path, targets=["glue/cola", "glue/rte"], methods=["single", "fusion"], shots=[4])
    for second in ({}, {"glue/rte": 1.0}):
        write_probe(tmp_path, "glue/cola", {"glue/cola": 1.0} | second, examples=(300, 1043), se=0.06)
    draw_all(read_results(tmp_path), tmp_path)
    expected = {
        "score-vs-parameters": ["test sets: 577 of 1,320, s.e. 2.50"],
        "few-shot": ["test set: all 277, s.e. 5.00", "test set: unknown, s.e. ?"],
        "probing-single": ["test set: 300 of 1,043, s.e. 6.00"],
        "probing-pairs-glue-cola": ["300 of"],  # the title has more lines
    }
    for name, texts in expected.items():
        shown = (tmp_path / f"{name}.svg").read_text()
        assert [text for text in texts if text not in shown] == [], name


def test_without_a_complete_target_there_are_no_points(tmp_path):
    write_run(tmp_path / "a", task="glue/rte")
    write_run(tmp_path / "b", task="glue/mrpc", method="head")
    assert figures.points(read_results(tmp_path)) == ([], []) and draw_all(read_results(tmp_path), tmp_path) == []


@pytest.mark.parametrize("spread", [0.0, 0.02, 3.0])
@pytest.mark.parametrize("smallest", [0, 8])
def test_names_of_methods_do_not_overlap(spread, smallest):
    sizes = (smallest, 48, 3072, 6144, 18432, 73728, 113040, 894528, 2658816, 21252096)
    names = ["scalearn-uniform++", "scalearn-uniform", "scalearn++", "scalearn-mean", "scalearn", "scalearn-softmax"]
    names += ["single", "fusion-static", "fusion", "full"]
    scores = 70 + spread * np.sin(np.arange(10))
    methods = [figures.Point(*values, 0.3) for values in zip(names, sizes, scores, strict=True)]
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    renderer = FigureCanvasAgg(figure).get_renderer()
    with matplotlib.rc_context({"font.size": 8}):
        labels = figures.fill(figure.subplots(), methods)
        figure.canvas.draw()
        boxes = [Text.get_window_extent(label, renderer) for label in labels]  # without their lines
    assert sorted(label.get_text() for label in labels) == sorted(names)
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    frame = labels[0].axes.bbox
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_pairs_are_laid_out_by_constant(everything):
    pairs = [result for result in read_results(everything) if len(result.coefficients) == 2]
    first, second, values = figures.grid(pairs[:-1])
    assert (first, second) == ([0.0, 1.0], [0.5, 1.0])
    np.testing.assert_allclose(values, [[12.5, 25.0], [62.5, np.nan]])


@pytest.mark.parametrize("draw", DRAWINGS)
def test_nothing_is_drawn_of_nothing(draw, tmp_path):
    assert draw([], tmp_path) == [] and not list(tmp_path.iterdir())


def test_styles_differ_without_colour():
    styles = plot.styles([f"m{number}" for number in range(14)]).values()
    assert len({(style["marker"], str(style["linestyle"])) for style in styles}) == 14


@pytest.mark.slow
def test_a_dollar_sign_in_a_name_is_one(tmp_path):
    for number, method in enumerate(("$x^$", "a$", "$\\frac$")):
        write_run(tmp_path / str(number), task="t/$_", method=method, parameters=10**number)
    for number in range(2):
        sources = ("$a", "$b$")
        write_run(tmp_path / f"s{number}", task=f"t/$_{number}$", method="scalearn", sources=sources, parameters=9)
    write_run(tmp_path / "more", task="t/$_", method="scalearn", sources=sources, parameters=9)
    draw_all(read_results(tmp_path), tmp_path)
    assert set(images(tmp_path)) == both("omega-scalearn", "score-vs-parameters")


@pytest.mark.parametrize(
    "sizes, expected", [((1e3, 1e5), ["10³", "10⁴", "10⁵"]), ((0, 1e2), ["0", "10⁰", "10²"]), ((2e3, 4e3), ["3×10³"])]
)
def test_powers_need_no_formula(sizes, expected):
    figure = Figure()
    FigureCanvasAgg(figure)
    with matplotlib.rc_context({"text.parse_math": False}):
        axis = figure.subplots()
        figures.fill(axis, [figures.Point(str(size), size, 50.0, 0.0) for size in sizes])
        figure.canvas.draw()
    texts = [label.get_text() for label in (*axis.get_xticklabels(), *axis.get_xticklabels(minor=True))]
    assert set(expected) <= set(texts) and not [text for text in texts if "$" in text]
