"""Source adapters: what they are called, where they lie, and which backbones they are for."""

import json

import pytest

from scalearn_jax.errors import InputError
from scalearn_jax.models.backbones import spec_from_config
from scalearn_jax.runs import adapterhub
from scalearn_jax.runs.sources import check_sources, load_source
from scalearn_jax.tree import content_hash
from tests.support import tiny_backbone
from tests.support.foreign import adapter, uneven

SIZES = tiny_backbone.CONFIG | {"vocab_size": 11, "hidden_size": 8, "pad_token_id": 1}


def saved(folder, name="s0", family="bert"):
    adapterhub.save(adapter(), folder, name=name, config={"model_type": family})
    return str(folder)


def test_an_alias_is_the_name_and_the_folder_the_path(tmp_path):
    path = saved(tmp_path / "one")
    source, plain = load_source(f"first/one={path}"), load_source(path)
    assert (source.name, source.path, plain.name) == ("first/one", path, "s0") and source.hash == plain.hash


def test_two_of_one_name_need_aliases(tmp_path):
    one, two, spec = saved(tmp_path / "one"), saved(tmp_path / "two"), spec_from_config(SIZES | {"model_type": "bert"})
    with pytest.raises(InputError) as error:
        check_sources([load_source(one), load_source(two)], spec, "")
    advice = str(error.value).split("--sources ")[1].rstrip(".").split()
    assert advice == [f"a={one}", f"b={two}"] and "\n" not in str(error.value)
    named = [load_source(text) for text in advice]
    check_sources(named, spec, "")
    assert [source.name for source in named] == ["a", "b"]


def test_a_checkpoint_of_the_trainer_is_its_adapter(tmp_path):
    path = saved(tmp_path / "checkpoint-500/rte", "rte")
    (tmp_path / "checkpoint-500/trainer_state.json").write_text("{}")
    source = load_source(str(tmp_path / "checkpoint-500"))
    assert (source.name, source.path) == ("rte", path) and content_hash(source.adapter) == content_hash(adapter())


@pytest.mark.parametrize("theirs, ours, fits", [
    ("roberta", "camembert", True), ("camembert", "roberta", True), ("roberta", "xlm-roberta", False),
    ("bert", "electra", False), ("ernie", "splinter", False), ("ernie", "ernie", True), ("gpt2", "bert", False),
])  # fmt: skip
def test_adapters_are_for_a_family_as_adapterhub_knows_it(tmp_path, theirs, ours, fits):
    path = saved(tmp_path, family="bert")
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(content | {"model_type": theirs}))
    spec = spec_from_config(SIZES | {"model_type": ours})
    if fits:
        check_sources([load_source(path)], spec, "")
        return
    with pytest.raises(InputError, match=f"is for a {theirs!r} backbone, this one is {ours!r}"):
        check_sources([load_source(path)], spec, "")


def test_it_is_known_whether_layers_are_left_out(tmp_path):
    uneven(tmp_path / "a", (4, None), leave_out=[1])
    assert load_source(str(tmp_path / "a")).leaves_out and not load_source(saved(tmp_path / "b")).leaves_out
