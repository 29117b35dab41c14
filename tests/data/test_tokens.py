"""Tokenising: what the tokenizer gives, laid flat; cached under everything it depends on."""

import dataclasses
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import chex
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from scalearn_jax.data import tokens
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from tests.support import tiny_backbone

WORDS = "one two three four five six seven eight nine ten".split()
VOCABULARY = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
PAIR = Task("pair", "classification", ("a", "b"), ("no", "yes"))
TABLE = {"a": ["one two", "three"], "b": ["four", "five six"], "label": ["yes", 0]}


def tokenizer(family: str = "bert"):
    """A tokenizer of ten words, with the special tokens and token types of its family."""
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = ["input_ids", "token_type_ids", "attention_mask"]
    if family == "bert":
        backend.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    else:
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
        names.remove("token_type_ids")
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", model_input_names=names)


def spelled(encoded: tokens.Encoded) -> list[str]:
    """The sequences as words."""
    names = {number: word for word, number in VOCABULARY.items()}
    return [
        " ".join(names[int(i)] for i in encoded.ids[start:end])
        for start, end in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)
    ]


def test_bert_pairs_have_token_types():
    encoded = tokens.encode(tokenizer(), PAIR, TABLE, max_length=16)
    assert spelled(encoded) == ["<s> one two </s> four </s>", "<s> three </s> five six </s>"]
    assert encoded.token_types.tolist() == [0, 0, 0, 0, 1, 1] + [0, 0, 0, 1, 1, 1]
    assert encoded.labels.tolist() == [1, 0]
    assert (len(encoded), encoded.pad_id, encoded.lengths.tolist()) == (2, 0, [6, 6])
    assert encoded.ids.dtype == encoded.token_types.dtype == np.int32


def test_roberta_pairs_have_none():
    encoded = tokens.encode(tokenizer("roberta"), PAIR, TABLE, max_length=16)
    assert spelled(encoded)[0] == "<s> one two </s> </s> four </s>"
    assert not encoded.token_types.any()


def test_choices_are_neighbours():
    task = Task("demo", "choice", ("{a} {b}",), choices=("c", "d"))
    table = {"a": ["one", "two"], "b": ["three", "three"], "c": ["four", "five"], "d": ["six", "six"], "label": [1, 0]}
    encoded = tokens.encode(tokenizer(), task, table, max_length=16)
    assert spelled(encoded)[:2] == ["<s> one three </s> four </s>", "<s> one three </s> six </s>"]
    assert (len(encoded), encoded.sequences(np.array([1])).tolist()) == (2, [2, 3])


@pytest.mark.parametrize(
    "truncate,expected",
    [
        ("longest_first", "<s> one two three </s> six seven eight </s>"),
        ("first", "<s> one two </s> six seven eight nine </s>"),
    ],
)
def test_long_pairs_are_cut_as_the_task_says(truncate, expected):
    task = dataclasses.replace(PAIR, truncate=truncate)
    table = {"a": ["one two three four five"], "b": ["six seven eight nine"], "label": [0]}
    assert spelled(tokens.encode(tokenizer(), task, table, max_length=9)) == [expected]


def test_a_second_text_too_long_for_cutting_the_first_is_refused():
    task = dataclasses.replace(PAIR, truncate="first")
    table = {"a": ["one two"], "b": ["six seven eight nine ten"], "label": [0]}
    with pytest.raises(InputError, match="task pair: truncate 'first' cuts the first text only.*--max-length"):
        tokens.encode(tokenizer(), task, table, max_length=7)


@pytest.mark.parametrize("truncate", ["longest_first", "first"])
def test_a_long_single_text_is_cut_at_its_end(truncate):
    task = Task("one", "classification", ("a",), ("no", "yes"), truncate=truncate)
    encoded = tokens.encode(tokenizer(), task, {"a": ["one two three four"], "label": [0]}, max_length=5)
    assert spelled(encoded) == ["<s> one two three </s>"]


def test_unlabelled_texts_can_be_encoded():
    encoded = tokens.encode(tokenizer(), PAIR, {"a": ["one"], "b": ["two"]}, max_length=8, labels=False)
    assert encoded.labels.tolist() == [0]


def test_some_examples_are_those_encoded_alone():
    task = Task("choice", "choice", ("a",), choices=("b", "c"))
    table = {"a": ["one", "two three", "four"], "b": ["five", "six", "seven eight"], "c": ["nine ten", "one", "two"]}
    table["label"] = [0, 1, 1]
    order = np.array([2, 0])
    alone = {name: [values[row] for row in order] for name, values in table.items()}
    found = tokens.encode(tokenizer(), task, table, max_length=16).take(order)
    expected = tokens.encode(tokenizer(), task, alone, max_length=16)
    for field in dataclasses.fields(tokens.Encoded):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), err_msg=field.name)


def test_many_texts_are_encoded_in_pieces(monkeypatch):
    table = {"a": WORDS, "b": WORDS[::-1], "label": [0] * len(WORDS)}
    whole = tokens.encode(tokenizer(), PAIR, table, max_length=8)
    monkeypatch.setattr(tokens, "_CHUNK", 3)
    chex.assert_trees_all_equal(
        dataclasses.asdict(tokens.encode(tokenizer(), PAIR, table, max_length=8)), dataclasses.asdict(whole)
    )


def test_half_a_surrogate_pair_is_an_unknown_word():
    encoded = tokens.encode(tokenizer(), PAIR, {"a": ["\ud800"], "b": ["one"], "label": [0]}, max_length=8)
    assert spelled(encoded) == ["<s> <unk> </s> one </s>"]


@pytest.mark.parametrize(
    "table,message",
    [
        ({"a": ["one"], "label": [0]}, "unknown column 'b'"),
        ({"a": [], "b": [], "label": []}, "is empty"),
        ({}, "is empty"),
        ({"a": ["one"], "b": [None], "label": [0]}, "row 1: no value in column 'b'"),
        ({"a": ["one"], "b": ["two"], "label": [2]}, "row 1: label 2 is outside"),
    ],
)
def test_tables_that_do_not_fit_are_refused(table, message):
    with pytest.raises(InputError) as error:
        tokens.encode(tokenizer(), PAIR, table, max_length=8)
    assert message in str(error.value)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_cached_split_equals_a_fresh_one(cache, monkeypatch):
    fresh = tokens.encode(tokenizer(), PAIR, TABLE, max_length=16)
    made = tokens.cached(tokenizer(), PAIR, TABLE, max_length=16)
    monkeypatch.setattr(tokens, "encode", None)
    read = tokens.cached(tokenizer(), PAIR, TABLE, max_length=16)
    for other in (made, read):
        chex.assert_trees_all_equal(dataclasses.asdict(fresh), dataclasses.asdict(other))
    assert isinstance(read.num_choices, int) and isinstance(read.pad_id, int)
    assert cache.stat().st_mode & 0o777 == 0o700 and all(name.endswith(".npz") for name in files(cache))


def test_the_cache_does_not_depend_on_what_was_encoded_before(cache):
    used = tokenizer()
    tokens.cached(used, PAIR, TABLE, max_length=16)
    tokens.encode(used, PAIR, TABLE, max_length=5)
    before = files(cache)
    tokens.cached(used, PAIR, TABLE, max_length=16)
    assert files(cache) == before


def test_the_cache_depends_on_the_side_that_is_cut(cache):
    left = tokenizer()
    left.truncation_side = "left"
    table = {"a": ["one two three"], "b": ["four"], "label": [0]}
    found = [spelled(tokens.cached(one, PAIR, table, max_length=6)) for one in (tokenizer(), left)]
    assert found == [["<s> one two </s> four </s>"], ["<s> two three </s> four </s>"]]


@pytest.mark.parametrize(
    "sizes, message",
    [((11, 2), "its tokenizer gives token id 11, its weights hold 11 ids"), ((14, 1), "token type id 1, its weights")],
)
def test_ids_without_an_embedding_are_refused(sizes, message):
    encoded = tokens.encode(tokenizer(), PAIR, TABLE | {"a": ["one two", "eight"]}, max_length=16)
    for type_vocab_size in (2, 0):  # an encoder without token types looks none up
        sizes_that_fit = SimpleNamespace(vocab_size=12, type_vocab_size=type_vocab_size)
        assert tokens.check_ids(encoded, sizes_that_fit, "b") is encoded
    with pytest.raises(InputError, match=message):
        tokens.check_ids(encoded, SimpleNamespace(vocab_size=sizes[0], type_vocab_size=sizes[1]), "b")


def test_the_cache_depends_on_everything_else(cache):
    changed = TABLE | {"b": ["four", "five seven"]}
    tokens.cached(tokenizer(), PAIR, TABLE, max_length=16)
    tokens.cached(tokenizer("roberta"), PAIR, TABLE, max_length=16)
    tokens.cached(tokenizer(), dataclasses.replace(PAIR, texts=("b", "a")), TABLE, max_length=16)
    tokens.cached(tokenizer(), PAIR, changed, max_length=16)
    tokens.cached(tokenizer(), PAIR, TABLE | {"label": [0, 0]}, max_length=16)
    tokens.cached(tokenizer(), PAIR, TABLE, max_length=12)
    assert len(files(cache)) == 6


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 and nothing more", "half", "flipped"])
def test_a_damaged_cache_file_is_made_again(cache, damage):
    fresh = tokens.cached(tokenizer(), PAIR, TABLE, max_length=16)
    [path] = cache.iterdir()
    content = path.read_bytes()
    flipped = content[:200] + bytes([content[200] ^ 255]) + content[201:]
    path.write_bytes({"half": content[: len(content) // 2], "flipped": flipped}.get(damage, damage))
    again = tokens.cached(tokenizer(), PAIR, TABLE, max_length=16)
    chex.assert_trees_all_equal(dataclasses.asdict(fresh), dataclasses.asdict(again))
    assert path.read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no modes on this system")
def test_a_cache_others_may_write_is_not_used(cache):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    tokens.cached(tokenizer(), PAIR, TABLE, max_length=16)
    assert not files(cache)


def test_a_real_tokenizer_loads_from_a_folder(minilm):
    task = Task("one", "classification", ("a",), ("no", "yes"))
    encoded = tokens.encode(tokens.load_tokenizer(minilm), task, {"a": ["hello world"], "label": [1]}, max_length=16)
    assert encoded.ids.tolist() == [101, 7592, 2088, 102]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_tokenizer_is_read_in_spite_of_byte_order_marks(tmp_path, name, encoding):
    path, texts = tiny_backbone.write(tmp_path / "backbone") / name, ["good soup", "bad"]
    expected = tokens.load_tokenizer(str(path.parent))
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    found = tokens.load_tokenizer(str(path.parent))
    assert found(texts)["input_ids"] == expected(texts)["input_ids"]
    assert found.name_or_path == expected.name_or_path


def test_a_mark_is_no_part_of_the_first_word(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8-sig")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    tokenizer = tokens.load_tokenizer(str(tmp_path))
    assert tokenizer("one")["input_ids"] == [2, 5, 3] and tokenizer.pad_token_id == 0


def of_python(folder, kind="BertweetTokenizer", **settings):
    """A RoBERTa folder whose tokenizer has no fast backend: <s>, <pad>, </s>, <unk> and the words of vocab.txt."""
    folder.mkdir(exist_ok=True)
    config = tiny_backbone.CONFIG | {"model_type": "roberta", "pad_token_id": 1, "vocab_size": 20}
    (folder / "config.json").write_text(json.dumps(config | ({"tokenizer_class": kind} if kind else {})))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "vocab.txt").write_text("the 1\nt@@ 1\ng@@ 1\no@@ 1\no 1\nd 1\n")
    (folder / "bpe.codes").write_text("t h 3\nth e</w> 2\n")
    return str(folder)


@pytest.mark.parametrize("kind", ["BertweetTokenizer", "PhobertTokenizer"])
def test_a_tokenizer_in_python_is_read(tmp_path, cache, capfd, kind):
    found = tokens.load_tokenizer(of_python(tmp_path / "b", kind))
    table = {"a": ["the god", "to"], "b": ["the the the the", "good"], "label": [0, 1]}
    encoded = tokens.cached(found, PAIR, table, max_length=10)
    first, second = encoded.ids[:10].tolist(), encoded.ids[10:].tolist()
    assert first == [0, 4, 6, 7, 2, 2, 4, 4, 4, 2]  # the pair is cut by one at its longer end
    assert second == [0, 5, 8, 2, 2, 6, 7, 7, 9, 2] and encoded.pad_id == 1 and not encoded.token_types.any()
    (tmp_path / "b/bpe.codes").write_text("t h 3\n")  # "the" comes apart, into pieces that are not in the vocabulary
    changed = tokens.cached(tokens.load_tokenizer(str(tmp_path / "b")), PAIR, table, max_length=10)
    assert len(files(cache)) == 2 and changed.ids[1] == 3
    first_cut = dataclasses.replace(PAIR, truncate="first")
    with pytest.raises(InputError, match="cuts the first text only"):
        tokens.encode(found, first_cut, table, max_length=7)
    assert capfd.readouterr().err == ""


def test_a_vocabulary_of_another_class_is_refused(tmp_path):
    with pytest.raises(InputError, match="a RobertaTokenizer is read from vocab.json.* tokenizer_class in"):
        tokens.load_tokenizer(of_python(tmp_path / "b", kind=None))


def test_a_tokenizer_in_python_without_a_file_is_refused(tmp_path):
    folder = of_python(tmp_path / "b")
    (tmp_path / "b/bpe.codes").unlink()
    with pytest.raises(InputError, match="no usable tokenizer") as error:
        tokens.load_tokenizer(folder)
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_would_spell_emoji_out_needs_their_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "emoji", None)
    with pytest.raises(InputError, match="pip install emoji"):
        tokens.load_tokenizer(of_python(tmp_path / "b", normalization=True))
    tokens.load_tokenizer(of_python(tmp_path / "b"))


@pytest.mark.parametrize(
    "lacking, message",
    [
        (("sentencepiece", "protobuf"), "pip install sentencepiece protobuf; or put tokenizer.json"),
        (("sentencepiece",), "pip install sentencepiece;"),
        (("protobuf",), "pip install protobuf;"),
    ],
)
def test_what_a_sentencepiece_model_needs_is_named(tmp_path, monkeypatch, lacking, message):
    import transformers.utils

    for name in ("sentencepiece", "protobuf"):
        monkeypatch.setattr(transformers.utils, f"is_{name}_available", lambda name=name: name not in lacking)
    tiny_backbone.write(tmp_path / "b", model_type="xlm-roberta", pad_token_id=1)
    (tmp_path / "b/sentencepiece.bpe.model").write_bytes(b"")
    tokens.load_tokenizer(str(tmp_path / "b"))  # a tokenizer.json needs neither
    (tmp_path / "b/tokenizer.json").unlink()
    with pytest.raises(InputError) as error:
        tokens.load_tokenizer(str(tmp_path / "b"))
    assert message in str(error.value) and "tiktoken" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("family, enough", [("bert", 5), ("roberta", 6)])
def test_a_length_that_leaves_no_text_is_refused(family, enough):
    tokens.encode(tokenizer(family), PAIR, TABLE, max_length=enough)
    with pytest.raises(InputError, match=f"leaves no room .* special tokens; pass --max-length {enough} or more"):
        tokens.encode(tokenizer(family), PAIR, TABLE, max_length=enough - 1)
    choice = Task("choice", "choice", ("a",), choices=("b", "b"))
    with pytest.raises(InputError, match=f"its 2 texts beside {enough - 2} special tokens"):
        tokens.encode(tokenizer(family), choice, TABLE | {"label": [0, 0]}, max_length=enough - 1)


def test_an_empty_text_of_a_tokenizer_without_special_tokens_is_named():
    plain, task = tokenizer(), Task("one", "classification", ("a",), ("no", "yes"))
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    texts = ["one", "two", "", "three"]
    table = {"a": texts, "label": [0, 1, 0, 1]}
    with pytest.raises(InputError, match="task one, row 3: nothing is left of its text"):
        tokens.encode(plain, task, table, max_length=8)
    full = {name: [column[i] for i in (0, 1, 3)] for name, column in table.items()}
    assert tokens.encode(plain, task, full, max_length=8).lengths.tolist() == [1, 1, 1]
    assert tokens.encode(tokenizer(), task, table, max_length=8).lengths.tolist() == [3, 3, 2, 3]


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_folder_without_tokenizer_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError) as error:
        tokens.load_tokenizer(str(tmp_path))
    assert "no usable tokenizer" in str(error.value) and "\n" not in str(error.value)


def test_a_panic_is_an_error_and_all_else_on_standard_error_stays(capfd):
    class PanicException(BaseException):
        pass

    with pytest.raises(tokens.Panic, match="^one two$"), tokens.panics_as_errors():
        os.write(2, b"thread panicked")
        raise PanicException("one\ntwo")
    assert capfd.readouterr().err == ""
    for stop in (KeyboardInterrupt, SystemExit, KeyError):
        with pytest.raises(stop), tokens.panics_as_errors():
            os.write(2, b"a warning")
            raise stop
        assert capfd.readouterr().err == "a warning"
    with tokens.panics_as_errors():
        os.write(2, b"a warning")
    os.write(2, b", later")
    assert capfd.readouterr().err == "a warning, later"


def test_loading_says_nothing_about_pytorch(tmp_path):
    """Which ``transformers`` misses when it is first imported, so this takes a process of its own."""
    code = "import sys; from scalearn_jax.data import tokens; tokens.load_tokenizer(sys.argv[1])"
    call = [sys.executable, "-c", code, tiny_backbone.write(tmp_path / "backbone")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRANSFORMERS_")}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
