"""The predictor: mixed batches against each task alone, orders, programs, files and wrong input."""

import dataclasses
import json
import shutil
import threading
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import cli, tree
from scalearn_jax.data import builtin, splits, tokens
from scalearn_jax.data.rows import columns
from scalearn_jax.data.task import Task
from scalearn_jax.data.tasks import TASKS
from scalearn_jax.errors import InputError
from scalearn_jax.io import files
from scalearn_jax.io.files import safe_name
from scalearn_jax.io.tensors import load_tensors, save_tensors
from scalearn_jax.models import pretrained
from scalearn_jax.models.adapter import bottleneck
from scalearn_jax.runs import adapterhub, provenance
from scalearn_jax.runs.evaluate import members_of
from scalearn_jax.runs.load import load_run
from scalearn_jax.runs.plain_adapter import to_plain_adapter
from scalearn_jax.runs.serving import mixed
from scalearn_jax.runs.serving.predictor import Predictor
from scalearn_jax.runs.serving.questions import answers
from scalearn_jax.runs.sources import load_source
from scalearn_jax.train.evaluate import Layout, member_logits
from tests.support import drawn_runs, tiny_backbone
from tests.support.foreign import layer, static_head

SENTIMENT, TOPIC, SIMILARITY, COMPLAINTS, CAUSE = (
    builtin.BUILTIN[f"builtin/{name}"] for name in ("sentiment", "topic", "similarity", "complaints", "cause")
)
# three choices, one text of several columns, and so short that texts are cut
PICK = Task("my/pick", "choice", ("{premise} {question}",), choices=("choice1", "choice2", "premise"), max_length=12)
# every kind of label, several widths and non-linearities, every way to fold
RUNS = {
    SENTIMENT: dict(method="scalearn"),
    TOPIC: dict(method="single", bottleneck=5, non_linearity="gelu"),
    SIMILARITY: dict(method="scalearn-uniform++", bottleneck=2),
    COMPLAINTS: dict(method="soup", options={"weights": (0.5, 0.2, 0.3)}, non_linearity="tanh"),
    CAUSE: dict(method="single", head="pooled"),
    PICK: dict(method="scalearn++", options={"compose": "reference"}),
}


def rows_of(task, count):
    name = "builtin/cause" if task is PICK else task.name
    return builtin.rows(name, "train")[:count]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("predictor")


@pytest.fixture(scope="module")
def backbone(root):
    return tiny_backbone.write(root / "backbone", num_hidden_layers=1)


@pytest.fixture(scope="module")
def folders(root, backbone):
    return {task: drawn_runs.write(root / task.name, backbone, task, **row) for task, row in RUNS.items()}


@pytest.fixture(scope="module")
def predictor(folders):
    return Predictor.load(*folders.values(), batch_size=16)


def alone(folder, rows):
    """What a run's own model makes of rows: logits Float[n C]."""
    run = load_run(folder)
    table = splits.examples(run.task, columns(rows), "rows", labels=False)
    tokenizer = tokens.load_tokenizer(run.info["backbone"]["path"])
    encoded = tokens.encode(tokenizer, run.task, table, max_length=run.task.max_length, labels=False)
    return member_logits(members_of(run), encoded, Layout.of([encoded], run.task.max_length, 8))[0], encoded


def check_mixed(predictor, folders, count, seed=0):
    """Asks all tasks at once, in a random order, and compares with each alone."""
    asked = [(task, row) for task in folders for row in rows_of(task, count)]
    order = np.random.default_rng(seed).permutation(len(asked))
    names, texts = [asked[i][0].name for i in order], [asked[i][1] for i in order]
    found, said = predictor.logits(texts, names), predictor.predict(texts, names)
    for task, folder in folders.items():
        own = [place for place in range(len(asked)) if names[place] == task.name]
        expected, encoded = alone(folder, [texts[place] for place in own])
        np.testing.assert_allclose(np.stack([found[place] for place in own]), expected, atol=1e-5, rtol=1e-5)
        for place, one in zip(own, answers(task, {}, expected), strict=True):
            assert said[place].keys() == one.keys()
            assert said[place].get("label") == one.get("label")
        if task is PICK:
            assert encoded.lengths.max() == task.max_length
    return found


@pytest.mark.slow
def test_a_mixed_batch_equals_each_task_alone(predictor, folders):
    check_mixed(predictor, folders, count=5)  # 5 * (4 + 2 + 3) sequences in steps of 16: the last is short


@pytest.mark.slow
@pytest.mark.parametrize("num_layers, layers", [(2, "loop"), (3, "scan")])
def test_it_does_so_in_encoders_of_other_shapes(num_layers, layers, tmp_path):
    where = tiny_backbone.write(tmp_path / "backbone", num_hidden_layers=num_layers)
    own = {
        task: drawn_runs.write(tmp_path / task.name, where, task, layers=layers, **RUNS[task])
        for task in (TOPIC, CAUSE)
    }
    check_mixed(Predictor.load(*own.values(), batch_size=5), own, count=3)


@pytest.mark.parametrize("normed", [(), (False, True, True)])
def test_rows_are_multiplied_alike_one_by_one_and_at_once(normed):
    """The second is for accelerators, which these tests have not. Some adapters may have a norm after them."""
    phis, generator = ("relu", "gelu", "relu"), np.random.default_rng(0)
    shapes = {"down": {"kernel": (2, 3, 16, 4), "bias": (2, 3, 4)}, "up": {"kernel": (2, 3, 4, 16), "bias": (2, 3, 16)}}
    shapes |= {"norm": {"scale": (2, 3, 16), "bias": (2, 3, 16)}} if normed else {}
    draw = lambda shape: jnp.asarray(generator.normal(size=shape), jnp.float32)  # noqa: E731
    bank = jax.tree.map(draw, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    z, tasks = draw((5, 8, 16)), np.array([2, 0, 1, 1, 2])
    own = [{part: leaves for part, leaves in bank.items() if part != "norm" or normed[k]} for k in range(3)]
    each = [
        bottleneck(jax.tree.map(lambda leaf, k=k: leaf[1, k], own[k]), x, phis[k])
        for x, k in zip(z, tasks, strict=True)
    ]
    for way in (mixed.row_by_row, mixed.at_once):
        found = jax.jit(way(partial(mixed.adapter_of(bank, phis, normed), 1)))(tasks, z)
        np.testing.assert_allclose(found, np.stack(each), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_few_programs_serve_all_calls(folders, monkeypatch):
    traced, apply = [], mixed.apply

    def counted(params, rows, **static):
        traced.append(rows.tokens.shape)
        return apply(params, rows, **static)

    mixed._compile_mixed.cache_clear()
    monkeypatch.setattr(mixed, "apply", counted)
    predictor = Predictor.load(folders[SENTIMENT], folders[TOPIC], batch_size=16)
    assert predictor.row_choices == (8, 16) and predictor.row_lengths == (16, 32, 64)  # eight devices share the rows
    short, long = "good soup", 80 * "good soup "
    for count in (1, 3, 16, 17, 40):
        for text in (short, long):
            assert len(predictor.predict([text] * count, SENTIMENT.name)) == count
            assert (
                len(predictor.predict([text] * count + [short], [TOPIC.name] * count + [SENTIMENT.name])) == count + 1
            )
    mixed._compile_mixed.cache_clear()
    assert sorted(traced) == [(8, 16), (8, 64), (16, 64)]


@pytest.fixture(scope="module")
def two(root, backbone):
    """Sentiment with two seeds and pairs with one, served together."""
    own = [
        drawn_runs.write(root / "two" / "a", backbone, SENTIMENT, seeds=(0, 4)),
        drawn_runs.write(root / "two" / "b", backbone, SIMILARITY, seeds=(4,), method="single"),
    ]
    return own, Predictor.load(*own, seed=4)


def test_questions_may_be_texts_sequences_or_dicts(two):
    _, predictor = two
    names = [SENTIMENT.name, SIMILARITY.name]
    asked = [["good soup", ("a", "b")], ({"sentence": "good soup", "more": 1}, {"sentence2": "b", "sentence1": "a"})]
    asked.append([["good soup"], ["a", "b"]])
    said = [predictor.predict(texts, names) for texts in asked]
    assert said[0] == said[1] == said[2]
    assert said[0][0]["label"] in SENTIMENT.labels and said[0][1].keys() == {"value"}
    assert predictor.predict([], names[0]) == predictor.logits([], []) == []
    assert dict(predictor.tasks) == {SENTIMENT.name: SENTIMENT, SIMILARITY.name: SIMILARITY}


ASKED = ["good soup", "bad soup", "no soup at all"]
WAYS = {
    "a tuple": tuple,
    "a generator": lambda texts: (text for text in texts),
    "a dictionary's values": lambda texts: dict(enumerate(texts)).values(),
    "an array": np.array,
    "an array of objects": lambda texts: np.array(texts, object),
    "an array of rows": lambda texts: np.array(texts)[:, None],
    "a Series": lambda texts: pandas().Series(texts, index=[5, 5, 1]),
    "a Series of categories": lambda texts: pandas().Series(texts, dtype="category"),
    "an Index": lambda texts: pandas().Index(texts),
    "a DataFrame": lambda texts: pandas().DataFrame({"n": range(len(texts)), "sentence": texts}),
    "a Dataset": lambda texts: pytest.importorskip("datasets").Dataset.from_dict({"sentence": texts}),
    "a column": lambda texts: pytest.importorskip("datasets").Dataset.from_dict({"sentence": texts})["sentence"],
    "an Arrow array": lambda texts: pytest.importorskip("pyarrow").array(texts),
    "an Arrow table": lambda texts: pytest.importorskip("pyarrow").table({"sentence": texts}),
}


def pandas():
    return pytest.importorskip("pandas")


@pytest.mark.parametrize("way", WAYS)
def test_questions_may_come_in_anything_with_an_order(two, way):
    _, predictor = two
    assert predictor.predict(WAYS[way](ASKED), SENTIMENT.name) == predictor.predict(ASKED, SENTIMENT.name)
    for one, other in zip(
        *(predictor.logits(texts, SENTIMENT.name) for texts in (WAYS[way](ASKED), ASKED)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("one", ["good soup", np.str_("good soup"), np.array("good soup"), {"sentence": "good soup"}])
def test_one_question_may_stand_alone(two, one):
    _, predictor = two
    assert predictor.predict(one, SENTIMENT.name) == predictor.predict(["good soup"], SENTIMENT.name)
    with pytest.raises(InputError, match="takes a sequence of 2 texts .*; got one text"):
        predictor.predict("good soup", SIMILARITY.name)


def test_a_seed_of_a_run_is_served(two):
    own, predictor = two
    first, other = (Predictor.load(own[0], seed=seed).logits(["good soup"])[0] for seed in (None, 4))
    np.testing.assert_allclose(predictor.logits(["good soup"], SENTIMENT.name)[0], other, atol=1e-6)
    assert np.abs(first - other).max() > 1e-3


def test_threads_share_a_predictor(two):
    """Tasks of different lengths ask the tokenizer for different cuts."""
    _, predictor = two
    texts, names = [["good soup " * 30], [("bad soup " * 30, "b")]], [SENTIMENT.name, SIMILARITY.name]
    expected = [predictor.logits(one, name)[0] for one, name in zip(texts, names, strict=True)]
    wrong = []

    def ask(number):
        for _ in range(5):
            if not np.array_equal(predictor.logits(texts[number], names[number])[0], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number % 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "texts, tasks, told",
    [
        (["a"], None, "there are 2 tasks (builtin/sentiment, builtin/similarity); name"),
        (["a"], "builtin/sentimen", "unknown task 'builtin/sentimen'; did you mean 'builtin/sentiment'?"),
        (["a", "b"], ["builtin/sentiment"], "tasks names 1 tasks for 2 texts"),
        (5, "builtin/sentiment", "texts must be a text or a list of texts, got a int; pass list(...)."),
        (None, "builtin/sentiment", "got a NoneType; pass list(...)."),
        ({"a", "b"}, "builtin/sentiment", "got a set; pass list(...)."),
        (b"a", "builtin/sentiment", "got a bytes; pass list(...)."),
        (np.array([1.0, 2.0]), "builtin/sentiment", "texts[0]: task builtin/sentiment takes a text (sentence), or"),
        ([b"a"], "builtin/sentiment", "texts[0]: task builtin/sentiment takes a text (sentence), or a dict"),
        (["a", None], "builtin/sentiment", "texts[1]: task builtin/sentiment takes a text (sentence), or a dict"),
        ([("a", "b")], "builtin/sentiment", "texts[0]: task builtin/sentiment takes a text (sentence)"),
        (["a"], "builtin/similarity", "takes a sequence of 2 texts (sentence1, sentence2), or a dict"),
        ([("a", "b"), ("a",)], "builtin/similarity", "texts[1]: task builtin/similarity takes"),
        ([3], "builtin/sentiment", "texts[0]: task builtin/sentiment takes a text (sentence), or a dict"),
        ([{"text": "a"}], "builtin/sentiment", "unknown column 'sentence' in the texts"),
        ([{"sentence": None}], "builtin/sentiment", "row 1: no value in column 'sentence'"),
        ([{"sentence": ["a"]}], "builtin/sentiment", "row 1: column 'sentence' holds"),
    ],
)
def test_wrong_questions_are_one_line(texts, tasks, told, two):
    with pytest.raises(InputError) as caught:
        two[1].predict(texts, tasks)
    assert told in str(caught.value)


@pytest.fixture(scope="module")
def fusion(root, backbone):
    return drawn_runs.write(root / "fusion", backbone, CAUSE, method="fusion")


@pytest.mark.slow
def test_a_run_that_is_no_adapter_is_served_alone(fusion, folders):
    rows = rows_of(CAUSE, 5)
    expected, _ = alone(fusion, rows)
    predictor = Predictor.load(fusion, batch_size=3)
    np.testing.assert_allclose(np.stack(predictor.logits(rows)), expected, atol=1e-5, rtol=1e-5)
    for pair in ((fusion, folders[TOPIC]), (folders[TOPIC], fusion)):
        with pytest.raises(InputError, match="fusion: its method cannot be served together with others, only alone"):
            Predictor.load(*pair)


def test_what_does_not_fit_together_is_refused(root, backbone, folders):
    elsewhere = tiny_backbone.write(root / "elsewhere", seed=1, num_hidden_layers=1)
    other = drawn_runs.write(root / "other", elsewhere, SENTIMENT)
    with pytest.raises(InputError, match="other was trained on the backbone .*pass runs over one backbone"):
        Predictor.load(folders[TOPIC], other)
    with pytest.raises(InputError, match="is the second folder for task builtin/topic"):
        Predictor.load(folders[TOPIC], folders[TOPIC])
    with pytest.raises(InputError, match="no folder to serve"):
        Predictor.load()
    with pytest.raises(InputError, match="--seed 7: the run .* holds seeds"):
        Predictor.load(folders[TOPIC], seed=7)
    for options, told in (
        ({"dtype": "float31"}, "unknown dtype"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
    ):
        with pytest.raises(InputError, match=told):
            Predictor.load(folders[TOPIC], **options)


def exported(folder, out, *, says=True, head=True):
    """Writes a run as a folder of AdapterHub, with or without what only this library reads."""
    run = load_run(folder)
    one = to_plain_adapter(run, next(iter(run.members)))
    adapterhub.save(one.adapter, out, name="a b", config={"model_type": "bert", "non_linearity": one.non_linearity})
    kinds = dict(kind=one.task.kind, labels=one.task.labels, num_choices=one.task.num_choices)
    if head:
        adapterhub.save_head(one.head, out, name="a b", config={"model_type": "bert"}, **kinds)
    if says:
        provenance.write_provenance(out, provenance.describe_run("fold", run.folder, run.info, run.task, 0))
    return str(out)


@pytest.mark.slow
def test_folders_of_adapterhub_are_served(folders, backbone, tmp_path):
    row = rows_of(CAUSE, 1)[0]
    expected = Predictor.load(folders[CAUSE]).logits([row])[0]
    known, strange = (exported(folders[CAUSE], tmp_path / str(says), says=says) for says in (True, False))
    together = Predictor.load(folders[TOPIC], known)
    assert together.tasks[CAUSE.name] == CAUSE
    np.testing.assert_allclose(together.logits([row], CAUSE.name)[0], expected, atol=1e-5)
    found = Predictor.load(strange, backbone=str(backbone))
    assert list(found.tasks) == [safe_name("a b")]
    texts = (f"{row['premise']} {row['question']}", row["choice1"], row["choice2"])
    np.testing.assert_allclose(found.logits([texts])[0], expected, atol=1e-5)
    for folder, told in (known, "where its backbone lies, which is backbone; pass"), (strange, "backbone lies; pass"):
        with pytest.raises(InputError, match=told):
            Predictor.load(folder)


def test_a_static_head_is_served_beside_others(folders, backbone, tmp_path):
    strange = exported(folders[TOPIC], tmp_path / "a", says=False, head=False)
    ids = {label: number for number, label in enumerate(TOPIC.labels)}
    classifier = layer("classifier", len(ids), 16)
    static_head(tmp_path / "a", "BertForSequenceClassification", classifier, num_labels=len(ids), label2id=ids)
    alone = Predictor.load(strange, backbone=str(backbone))
    beside = Predictor.load(folders[SENTIMENT], strange, backbone=str(backbone))
    (name,) = alone.tasks
    found = [predictor.logits(["good soup"], name)[0] for predictor in (alone, beside)]
    assert np.shape(found[0]) == (len(ids),)
    np.testing.assert_allclose(*found, atol=1e-5)


def test_a_strange_adapter_of_another_base_model_is_refused(folders, backbone, tmp_path, monkeypatch):
    folder = exported(folders[TOPIC], tmp_path / "strange", says=False)
    config = json.loads((tmp_path / "strange/adapter_config.json").read_text())
    files.write_json(tmp_path / "strange/adapter_config.json", config | {"model_name": "org/other-base"})
    read = pretrained.load_hashed_backbone
    monkeypatch.setattr(pretrained, "load_hashed_backbone", lambda path, *args, **flags: read(str(backbone), **flags))
    load_tokenizer = tokens.load_tokenizer
    monkeypatch.setattr(tokens, "load_tokenizer", lambda path, *args: load_tokenizer(str(backbone)))
    with pytest.raises(InputError, match="base model 'org/other-base', the backbone is 'org/base@main'"):
        Predictor.load(folder, backbone="org/base@main")
    assert Predictor.load(folder, backbone="org/base@main", any_base_model=True).tasks
    assert Predictor.load(folder).where == "org/other-base"  # what the file names


@pytest.mark.slow
def test_a_strange_adapter_takes_one_text_or_two(folders, backbone, tmp_path):
    given = {"backbone": str(backbone)}
    one, two = (
        Predictor.load(exported(folders[task], tmp_path / task.name, says=False), **given)
        for task in (TOPIC, SIMILARITY)
    )
    (first,), (second,) = one.tasks.values(), two.tasks.values()
    assert first.labels == TOPIC.labels and second.kind == "regression"
    for predictor, task, text in (one, TOPIC, "good soup"), (two, SIMILARITY, ("good soup", "bad")):
        expected = Predictor.load(folders[task]).logits([text])[0]
        np.testing.assert_allclose(predictor.logits([text])[0], expected, atol=1e-5)
    with pytest.raises(InputError, match="row 1: no value in column 'text_pair'"):
        one.predict(["good soup", ("good soup", "bad")])


def test_beside_a_pair_a_strange_adapter_still_takes_one_text(folders, backbone, tmp_path):
    """A file has its columns for all of its tasks; those of a trained task are needed, whatever they are called."""
    strange = exported(folders[TOPIC], tmp_path / "a", says=False)
    pair = Task("own/pair", "classification", ("text", "text_pair"), ("no", "yes"), max_length=12)
    run = drawn_runs.write(tmp_path / "pair", backbone, pair, method="single")
    alone, both = (Predictor.load(*paths, backbone=str(backbone)) for paths in ([strange], [strange, run]))
    rows = [{"text": "good soup", "text_pair": None}, {"text": "good soup", "text_pair": "bad"}]
    found = both.predict(rows, [next(iter(alone.tasks)), "own/pair"])
    assert found[0] == alone.predict(["good soup"])[0] and set(found[1]["probabilities"]) == {"no", "yes"}
    with pytest.raises(InputError, match="unknown column 'text_pair'"):
        both.predict([{"text": "good soup"}], "own/pair")
    with pytest.raises(InputError, match=r"takes a sequence of 2 texts \(text, text_pair\).*; got one text"):
        both.predict(["good soup"], "own/pair")


def test_weights_that_are_no_numbers_answer_nothing(folders, tmp_path):
    run = shutil.copytree(folders[TOPIC], tmp_path / "run")
    leaves = load_tensors(run / "seed-0.safetensors")
    save_tensors(run / "seed-0.safetensors", leaves | {"adapters/up/bias": leaves["adapters/up/bias"] * np.nan})
    with pytest.raises(FloatingPointError, match="task builtin/topic: the logits of .* are not finite"):
        Predictor.load(str(run)).predict(["good soup"])


def test_a_source_is_its_adapter_whatever_lies_beside_it(folders, tmp_path):
    run = Path(shutil.copytree(folders[TOPIC], tmp_path / "run"))
    odd = {"other": np.zeros(1, np.float32), "other/inside": np.zeros(1, np.float32)}  # a leaf and a branch
    save_tensors(run / "seed-0.safetensors", load_tensors(run / "seed-0.safetensors") | odd)
    assert load_source(str(run)).hash == load_source(folders[TOPIC]).hash
    with pytest.raises(InputError, match="the weights do not fit run.json"):
        Predictor.load(str(run))


def test_a_run_cannot_bring_a_backbone_of_its_own(folders, backbone, tmp_path):
    """Else what a stranger calls the known backbone would serve, and be kept for the folders after it."""
    own = tree.flatten({"backbone": pretrained.load_hashed_backbone(str(backbone))[0]})
    for file in "seed-0.safetensors", "frozen.safetensors":
        run = Path(shutil.copytree(folders[TOPIC], tmp_path / file))
        kept = load_tensors(run / file) if (run / file).exists() else {}
        save_tensors(run / file, kept | own)
        with pytest.raises(InputError, match="holds backbone/.*, but a 'single' run leaves the backbone as it is"):
            Predictor.load(str(run))


def test_an_adapter_of_another_backbone_or_without_head_is_refused(folders, root, backbone, tmp_path):
    folder = exported(folders[TOPIC], tmp_path / "a")
    other = str(tiny_backbone.write(tmp_path / "other", seed=1, num_hidden_layers=1))
    with pytest.raises(InputError, match="was trained on backbone .*, this one is"):
        Predictor.load(folder, backbone=other)
    with pytest.raises(InputError, match="holds an adapter without a head"):
        Predictor.load(exported(folders[TOPIC], tmp_path / "b", head=False), backbone=str(backbone))
    said = json.loads((tmp_path / "a/scalearn.json").read_text())
    provenance.write_provenance(tmp_path / "a", said | {"task": SENTIMENT.to_dict()})
    with pytest.raises(InputError, match="is a classification of 6 outputs and 1 choices, task 'builtin/sentiment' a"):
        Predictor.load(folder, backbone=str(backbone))


def test_a_row_with_candidates_gives_one_answer(root, backbone):
    task = dataclasses.replace(TASKS["superglue/record"], max_length=32)
    folder = drawn_runs.write(root / "record", backbone, task, method="single")
    rows = [
        {"passage": "soup and bread", "query": "we ate @placeholder", "entities": entities}
        for entities in (["soup", "bread", "tea"], ["bread"])
    ]
    predictor = Predictor.load(folder)
    logits, said = predictor.logits(rows), predictor.predict(rows)
    assert [one.shape for one in logits] == [(3, 2), (1, 2)]
    np.testing.assert_allclose(np.concatenate(logits), alone(folder, rows)[0], atol=1e-5)
    assert [list(one["probabilities"]) for one in said] == [["bread", "soup", "tea"], ["bread"]]
    best = ("bread", "soup", "tea")[int((logits[0][:, 1]).argmax())]
    assert [one["label"] for one in said] == [best, "bread"]


def predict(tmp_path, rows, *arguments):
    """Calls the command; returns its exit code and the lines it wrote."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    out.unlink(missing_ok=True)
    code = cli.main(["predict", *arguments, "--input", str(source), "--output", str(out)])
    return code, [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else None


def read_back(path):
    """The rows of a file of answers, by another library."""
    suffix = path.suffix
    if suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    frame = (
        pandas().read_parquet(path) if suffix == ".parquet" else pandas().read_csv(path, sep="\t,"[suffix == ".csv"])
    )
    return frame.to_dict("records")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("task", [SENTIMENT, SIMILARITY, COMPLAINTS, PICK], ids=lambda task: task.kind)
def test_answers_are_written_as_the_ending_says(folders, root, tmp_path, suffix, task, backbone):
    folder = folders.get(task) or drawn_runs.write(root / task.name, backbone, task)
    rows, out = rows_of(task, 3), tmp_path / f"out{suffix}"
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert cli.main(["predict", folder, "--input", str(tmp_path / "in.jsonl"), "--output", str(out)]) == 0
    expected = Predictor.load(folder, batch_size=128).predict(rows)
    if suffix != ".jsonl":
        for answer in expected:
            answer |= {f"probability of {name}": p for name, p in answer.pop("probabilities", {}).items()}
            answer |= {"labels": json.dumps(answer["labels"])} if "labels" in answer else {}
    for found, one in zip(read_back(out), expected, strict=True):
        assert found.keys() == one.keys()
        for name, value in one.items():
            is_number = isinstance(value, float)
            assert found[name] == pytest.approx(value, abs=1e-5) if is_number else str(found[name]) == str(value)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.jsonl", out.name])


@pytest.mark.parametrize("name", ["out.txt", "out.xlsx", "out.csv.gz", ".csv"])
def test_answers_of_another_ending_are_refused(folders, tmp_path, name, capsys):
    (tmp_path / "in.csv").write_text("sentence\ngood soup\n")
    arguments = ["--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / name)]
    assert cli.main(["predict", folders[SENTIMENT], *arguments]) == 2
    assert f"{name}: unknown file type; end its name in one of .jsonl, .csv, .tsv, .parquet." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_answers_of_several_tasks_keep_their_probabilities_together(two, tmp_path):
    (tmp_path / "in.csv").write_text(
        f"task,sentence,sentence1,sentence2\n{SENTIMENT.name},good soup,,\n{SIMILARITY.name},,a,b\n"
    )
    arguments = ["--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv"), "--seed", "4"]
    assert cli.main(["predict", two[0][0], "--also", two[0][1], *arguments]) == 0
    first, second = read_back(tmp_path / "out.csv")
    assert set(json.loads(first["probabilities"])) == set(SENTIMENT.labels) and np.isnan(first["value"])
    assert second["label"] != second["label"] and isinstance(second["value"], float)


def test_the_command_answers_a_file_of_several_tasks(two, tmp_path):
    own, predictor = two
    pairs = [
        {"task": SIMILARITY.name, "sentence1": "a", "sentence2": "b"},
        {"task": SENTIMENT.name, "sentence": "good soup"},
        {"task": SIMILARITY.name, "sentence1": "c", "sentence2": "d"},
    ]
    code, lines = predict(tmp_path, pairs, own[0], "--also", own[1], "--seed", "4")
    assert code == 0
    expected = predictor.predict(pairs, [row["task"] for row in pairs])
    for line, one in zip(lines, expected, strict=True):
        assert line.keys() == one.keys()
        assert line == one or line["value"] == pytest.approx(one["value"], rel=1e-4)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"task": "builtin/x"}, "unknown task 'builtin/x'"),
        ({"task": ["builtin/sentiment"]}, "unknown task ['builtin/sentiment']"),
        ({"task": None}, "in.jsonl, row 2: no value in column 'task'"),
        ({"tusk": "a"}, "unknown column 'task' in"),
        ({"sentence": None}, "in.jsonl, of those of task builtin/sentiment, row 2: no value in column 'sentence'"),
    ],
)
def test_wrong_files_of_several_tasks_are_refused(change, told, two, tmp_path, capsys):
    good = {"task": SENTIMENT.name, "sentence": "good soup"}
    rows = [{"tusk": "a"}] if "tusk" in change else [good, good | change]
    code, lines = predict(tmp_path, rows, two[0][0], "--also", two[0][1], "--seed", "4")
    assert (code, lines) == (2, None)
    assert told in capsys.readouterr().err
