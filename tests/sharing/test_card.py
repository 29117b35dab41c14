"""The model card: read back by the hub's own parser, and nothing in it acts that came from a file."""

import math
import re

import pytest
from huggingface_hub import ModelCard

from scalearn_jax.data.tasks import Task, get
from scalearn_jax.sharing import card, card_metadata
from tests.support import shareable

FILES = ("adapter_config.json", "adapter.safetensors", "scalearn.json")


def content(**changes):
    described = shareable.content(**changes)
    return described | {"task": Task.from_dict(described["task"])}


def write(described, files=FILES, family="roberta", **options):
    return card.write_card(described, "me/rte-fold", files, family=family, **options)


def test_the_hub_reads_the_metadata_back():
    data = ModelCard(write(content(), license="apache-2.0")).data
    named = data.to_dict()["library_name"]
    assert data.base_model == "FacebookAI/roberta-base" and data.license == "apache-2.0"
    assert (named, data.pipeline_tag) == ("adapter-transformers", "text-classification")
    assert data.tags == ["adapter-transformers", "adapterhub:glue/rte", "scalearn", "roberta"]
    assert (data.datasets, data.metrics, data.language) == (["nyu-mll/glue"], ["accuracy"], ["en"])


@pytest.mark.parametrize("task", ["glue/cola", "glue/stsb", "superglue/record", "superglue/copa", "humset/sectors"])
def test_scores_come_back_equal(task):
    scores = {
        split: {metric: 0.5 + number / 64 for number, metric in enumerate(get(task).metrics)}
        for split in ("dev", "test")
    }
    described = content(task=get(task).to_dict(), scores=scores)
    expected = card_metadata.eval_results(described)
    key = lambda result: (result.dataset_split, result.metric_name)  # noqa: E731
    found = ModelCard(write(described)).data.eval_results
    assert sorted(found, key=key) == sorted(expected, key=key)
    by_split = {"humset/sectors": {"test", "validation"}, "superglue/record": {"validation"}}
    assert {result.dataset_split for result in expected} == by_split.get(task, {"train", "validation"})
    assert {result.metric_value for result in expected} == set(scores["test"].values())


def test_a_command_stands_there_only_if_there_was_one():
    assert "```sh\nscalearn fold rte" in write(content()) and write(content(command="")).count("```sh\n") == 1


def test_scores_that_are_no_numbers_are_left_out():
    for score in "high", math.inf, 10**400, True:
        described = content(scores={"dev": {"accuracy": math.nan}, "test": {"accuracy": score, "other": 1.0}})
        assert card_metadata.eval_results(described) == [] and "## Scores" not in write(described)


def test_the_card_says_how_it_was_made_and_how_to_load_it():
    text = write(content())
    for line in (
        'model = RobertaAdapterModel.from_pretrained("FacebookAI/roberta-base")',
        'model.load_adapter("me/rte-fold", source="hf", use_safetensors=True, set_active=True)',
        "scalearn transfer --sources me/rte-fold ...",
        'scalearn_jax.Predictor.load("me/rte-fold").predict(texts)',
        f"| `glue/mnli` | `me/mnli@{'1' * 40}` | `{'cd' * 6}` |",
        f"| `glue/rte` | `not published` | `{'ef' * 6}` |",
        "32 transfer parameters; 290 of the head; 322 trained parameters in all.",
        "| test | validation | `accuracy` | 68.75 |",
        "| `width` | `8` |",
        "| `check.largest_difference` | `4.8e-07` |",
        "scalearn fold rte --out rte-fold",
    ):
        assert line in text.splitlines() or line in text


def test_the_card_says_under_which_name_the_other_library_knows_an_encoder():
    """As ``tests/interop`` loads one."""
    text = card.write_card(content(), "me/rte-fold", FILES, family="camembert")
    assert 'config = RobertaConfig.from_pretrained("FacebookAI/roberta-base", model_type="roberta")' in text
    assert 'model = RobertaAdapterModel.from_pretrained("FacebookAI/roberta-base", config=config)' in text


def test_a_run_and_a_fusion_layer_get_their_own_lines():
    run = write(content(method="scalearn"), ("run.json", "seed-0.safetensors", "omega.png"))
    assert "AdapterModel" not in run and "--sources" not in run and "](omega.png)" in run
    assert ModelCard(run).data.to_dict()["library_name"] == "scalearn-jax"
    fusion = write(content(kind="fusion", method="fusion"), ("adapter_fusion_config.json",))
    assert "load_adapter_setup" in fusion and "--sources" not in fusion and "Predictor" not in fusion


def test_an_encoder_that_adapterhub_lacks_has_only_our_lines():
    text = write(content(), family="mpnet")
    assert "AutoAdapterModel" not in text and 'scalearn_jax.Predictor.load("me/rte-fold")' in text
    data = ModelCard(text).data
    assert data.to_dict()["library_name"] == "scalearn-jax" and data.tags == ["scalearn", "mpnet"]


def test_a_fold_of_less_is_not_called_exact():
    assert "were folded exactly" in write(content(fold={"width": 8, "width_before": 8}))
    assert "exactly" not in write(content(fold={"width": 4, "width_before": 8}))


def test_the_card_says_where_it_was_imported_from():
    assert "imported from `me/rte@0f`" in write(content(imported="me/rte@0f"))


def test_scores_of_a_part_of_a_split_are_no_results_of_it():
    text = write(content(most={"dev": None, "test": 64}))
    assert {result.dataset_split for result in ModelCard(text).data.eval_results} == {"train"}
    assert "| `accuracy` | 68.75 | at most 64 |" in text and "| `accuracy` | 75.00 | all |" in text


def test_the_card_says_how_many_examples_there_were_and_how_sure_that_makes_a_score():
    counts = {"dev": {"used": 200, "available": 249}, "test": {"used": 277, "available": 277}}
    scores = {"dev": {"accuracy": 0.75}, "test": {"accuracy": 0.6875}, "se": {"accuracy": 0.0279}}
    text = write(content(examples=counts, scores=scores, most={"dev": 200, "test": 500}))
    assert "| `accuracy` | 68.75 ± 2.79 | all 277 |" in text and "| `accuracy` | 75.00 | 200 of 249 |" in text
    assert "± is the standard error" in text
    assert {result.dataset_split for result in ModelCard(text).data.eval_results} == {"validation"}  # which is whole
    for damaged in ({}, 3, {"test": 3}, {"test": {"used": "x", "available": None}}):
        text = write(content(examples=damaged, scores=scores | {"se": damaged}))
        assert "| `accuracy` | 68.75 | all |" in text and "±" not in text


def test_the_card_says_how_sure_scales_are_that_were_solved_for():
    text = write(content(scales={"glue/mnli": [0.5, 0.25], "glue/rte": [1.25, None]}))
    assert "| source | place | content hash | scale, with its 95 % interval |" in text
    assert f"| `glue/mnli` | `me/mnli@{'1' * 40}` | `{'cd' * 6}` | 0.50 ± 0.49 |" in text
    assert f"| `glue/rte` | `not published` | `{'ef' * 6}` | 1.25 |" in text
    for damaged in (3, [], {"glue/mnli": 3}, {"glue/mnli": ["x", float("nan")]}):
        assert "95 % interval" not in write(content(scales=damaged))


def test_an_adapter_of_no_sources_is_not_called_folded_of_them():
    assert "folded" not in write(content(sources=[], method="single")).split("## Use")[0]


def test_a_local_backbone_is_no_base_model():
    described = content(backbone={"name": "roberta-base", "revision": None, "hash": "ab" * 32})
    assert ModelCard(write(described)).data.base_model is None
    assert "no id on the hub is known" in write(described)
    assert ModelCard(write(described, base_model="org/base")).data.base_model == "org/base"


EVIL = "x` | </code><script>\n---\nlicense: evil\n[a](http://b) ``` \x1b[2J hf_" + "Z" * 34


def test_nothing_from_a_file_acts():
    described = content(
        method=EVIL,
        backbone={"name": EVIL, "revision": EVIL, "hash": EVIL},
        sources=[{"name": EVIL, "place": EVIL, "hash": EVIL}],
        versions={EVIL: EVIL},
        command=f"```\n{EVIL}",
        fold={EVIL: [EVIL]},
        scales={EVIL: [0.5, 0.25]},
        task=get("glue/rte").to_dict() | {"labels": ["yes` <b>", "no|"], "hub": None, "name": "own/rte"},
    )
    text = write(described)
    parsed = ModelCard(text).data
    assert parsed.license is None and parsed.base_model is None and parsed.datasets is None
    assert text.count("\n---\n") == 1 and "Z" * 34 not in text and "\x1b" not in text
    prose, fenced = text.split("---\n", 2)[2], False
    for line in prose.removesuffix("\n").splitlines()[:-1]:  # the last is our own mark
        fenced ^= line.startswith("```")
        if not fenced and not line.startswith("```"):
            assert line.count("`") % 2 == 0
            assert all("<" not in part and "http://b" not in part for part in line.split("`")[::2])
    assert not fenced
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", prose, re.M)]
    bars = [{len(re.findall(r"(?<!\\)\|", line)) for line in table} for table in tables]
    assert [len(counts) for counts in bars] == [1, 1, 1]  # scores, sources, fold: as many cells in every row


def test_an_edited_card_is_told_from_one_of_ours():
    text = write(content())
    assert card.is_ours(text) and not card.is_ours(text.replace("rte", "cb", 1)) and not card.is_ours(text + "more")
