"""Push to a stand-in for the hub and pull from it, the card, and that no token or place gets out."""

import json
import re
import socket
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import scalearn_jax
from scalearn_jax import cli, tree
from scalearn_jax.config import ExportConfig, FetchConfig, ImportConfig, PushConfig, TransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.io import hub_folder
from scalearn_jax.io.hub import split_revision
from scalearn_jax.models import pretrained
from scalearn_jax.runs import provenance
from scalearn_jax.runs.load import load_run
from scalearn_jax.runs.sources import load_source
from scalearn_jax.sharing.exporting import export_run
from scalearn_jax.sharing.fetch import fetch
from scalearn_jax.sharing.importing import import_source
from scalearn_jax.stages import outputs, pipeline
from tests.conftest import ROOT
from tests.support import hub_server, shareable, tiny_backbone

TOKEN = "hf_" + "a1B2" * 9
REPO = "me/rte-fold"
GOLDEN = ROOT / "tests/golden/roberta_l3_h32_t4"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_server.running(monkeypatch, tmp_path / "cache") as running:
        yield running


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone.write(tmp_path_factory.mktemp("backbone"), num_hidden_layers=2)


@pytest.fixture
def folder(tmp_path):
    return shareable.write(tmp_path / "fold")


def push(folder, repo=REPO, **changes):
    return scalearn_jax.push(PushConfig(dir=str(folder), repo=repo, **changes))


def held(hub, repo=REPO, branch="main"):
    repository = hub.repos[f"models/{repo}"]
    return {name: x for name, x in repository.commits[repository.branches[branch]].items() if name != ".gitattributes"}


def test_what_is_pushed_is_pulled_bit_for_bit(hub, folder):
    result = push(folder)
    assert held(hub) == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert result["files"] == {name: len(content) for name, content in held(hub).items()}
    source = load_source(f"{REPO}@{result['commit']}")
    local = load_source(str(folder))
    assert (source.name, source.path) == ("glue/rte", f"{REPO}@{result['commit']}")
    assert source.hash == local.hash and source.non_linearity == local.non_linearity
    assert result["use"] == f"scalearn transfer --sources {source.path} ..."
    assert load_source(REPO).path == source.path  # a branch is pinned to its commit


def test_a_pinned_revision_outlives_the_branch_and_the_network(hub, folder, monkeypatch):
    first = push(folder)["commit"]
    place = load_source(REPO).path
    hub.add(f"models/{REPO}", {"adapter.safetensors": b"something else"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.asked.clear()
    for name in (f"{REPO}@{first}", REPO):  # by commit, and by the branch as it was when it was last read
        assert load_source(name).path == place
    assert not hub.asked
    with pytest.raises(
        InputError, match="me/other'.*HF_HUB_OFFLINE is set, and the cache lacks it; run `scalearn fetch`"
    ):
        load_source("me/other")


def test_a_run_is_read_from_the_hub(hub, tmp_path, backbone):
    folder = shareable.write_run(
        tmp_path / "run", backbone, config={"max_train_samples": None, "max_eval_samples": None}
    )
    result = push(folder, "me/run")
    assert "![" in (folder / "README.md").read_text() and held(hub, "me/run")["omega.png"].startswith(b"\x89PNG")
    found = load_run("me/run", backbone=str(backbone))
    expected = load_run(str(folder), backbone=str(backbone))
    assert tree.content_hash(found.members[0]) == tree.content_hash(expected.members[0])
    assert result["use"] == f"scalearn evaluate me/run@{result['commit']}"
    with pytest.raises(InputError, match="me/run@.*holds a 'scalearn' run, .*which `scalearn fold` makes of most runs"):
        load_source("me/run")


def test_a_transfer_records_the_commits_of_its_sources_and_backbone(hub, tmp_path):
    root = tiny_backbone.write_with_sources(tmp_path / "made")
    commits = {
        name: hub.add(f"models/me/{name}", {path.name: path.read_bytes() for path in (root / name).iterdir()})
        for name in ("backbone", "source0", "source1")
    }
    where = dict(backbone="me/backbone@main", target="builtin/sentiment", out=str(tmp_path / "out"), max_steps=1)
    config = TransferConfig(sources=("me/source0@main", str(root / "source1")), max_train_samples=8, **where)
    info = outputs.describe("transfer", pipeline.transfer_setups(config)[0])
    assert [source["path"] for source in info["sources"]] == [f"me/source0@{commits['source0']}", str(root / "source1")]
    assert (info["backbone"]["path"], info["backbone"]["revision"]) == ("me/backbone", commits["backbone"])
    with pytest.raises(InputError, match="me/backbone@main and --revision v1 name different revisions"):
        pretrained.locate_backbone("me/backbone@main", "v1")


def test_pickles_are_fetched_only_on_request(hub, folder):
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".json"}
    hub.add("models/me/old", files | {"pytorch_adapter.bin": b"no pickle", "other.bin": b""})
    with pytest.raises(InputError, match="holds no adapter.safetensors; expected"):
        load_source("me/old")
    with pytest.raises(InputError, match="pytorch_adapter.bin"):
        load_source("me/old", allow_pickle=True)
    asked = {path.rpartition("/")[2] for _, path, _ in hub.asked if "/resolve/" in path}
    assert "pytorch_adapter.bin" in asked and "other.bin" not in asked


def test_a_pull_request_and_a_private_repository_arrive(hub, folder):
    push(folder, private=True, message="A fold")
    assert hub.repos[f"models/{REPO}"].private
    before = held(hub)
    (folder / "scalearn.json").write_text(json.dumps(shareable.content(seed=4)))
    result = push(folder, create_pr=True)
    assert result["url"].endswith("/discussions/1") and held(hub) == before
    assert json.loads(held(hub, branch="refs/pr/1")["scalearn.json"])["seed"] == 4
    push(folder, "me/open")
    assert not hub.repos["models/me/open"].private
    with pytest.raises(InputError, match="could not upload to me/open: it is there already, and public; make it"):
        push(folder, "me/open", private=True)


def test_a_dry_run_writes_the_card_and_asks_nobody(hub, folder, capsys):
    (folder / "metrics.jsonl").touch()
    (folder / "pytorch_adapter.bin").touch()
    (folder / "explain").mkdir()
    assert cli.main(["push", str(folder), REPO, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert not hub.asked and ModelCard.load(folder / "README.md")
    assert "left out: explain/, metrics.jsonl, pytorch_adapter.bin" in shown
    assert f"wrote README.md in {folder}" in shown and "nothing was sent" in shown
    assert {line.split()[0] for line in shown.split("\n\n")[0].splitlines()[2:]} == {
        *("README.md", "adapter.safetensors", "adapter_config.json", "head_config.json"),
        *("model_head.safetensors", "scalearn.json"),
    }


def test_an_edited_card_is_sent_as_it_is_and_one_of_ours_anew(hub, folder, capsys):
    push(folder, dry_run=True)
    first = (folder / "README.md").read_text()
    push(folder, dry_run=True, license="mit")
    second = (folder / "README.md").read_text()
    assert "license: mit" in second and "license: mit" not in first and not capsys.readouterr().err
    (folder / "README.md").write_text(second + "\nMy own words.\n")
    assert push(folder)["written"] == []
    assert held(hub)["README.md"].decode().endswith("My own words.\n")
    assert "is sent as it is; remove it for a new one" in capsys.readouterr().err


REFUSALS = {
    "401": (
        (401, {"X_Error_Message": "Invalid credentials in Authorization header"}),
        "who you are .401.; log in with",
    ),
    "403": ((403, {}), "you may not do that there .403.; log in with `hf auth login` or set HF_TOKEN"),
    "404": ((404, {"X_Error_Code": "RepoNotFound"}), "no such repository, or it is private"),
    "409": ((409, {}), "could not upload to me/rte-fold: "),
    "a gated repository": (
        (403, {"X_Error_Code": "GatedRepo"}),
        "access to it must be granted; ask for it on its page",
    ),
    "a fault of the hub": ((500, {}), "could not upload to me/rte-fold: "),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_hub_refuses_is_one_line(case, hub, folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.refuses, message = REFUSALS[case]
    assert cli.main(["push", str(folder), REPO]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error)
    assert TOKEN not in error and hub.asked[-1][2] == f"Bearer {TOKEN}"


def test_what_cannot_be_read_is_one_line(hub, folder, capsys, monkeypatch):
    push(folder)
    with pytest.raises(
        InputError, match="'me/rte-fold' could not be read .*revision v9.*no such revision; name a branch"
    ):
        load_source(f"{REPO}@v9")
    with pytest.raises(
        InputError, match="no such folder is here, and 'me/none' .*no such repository, or it is private"
    ):
        load_source("me/none")
    hub.refuses = 403, {"X_Error_Code": "GatedRepo"}
    with pytest.raises(InputError, match="access to it must be granted; ask for it on its page, then log in with"):
        load_source("me/none")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        hub_server.point_to(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert cli.main(["push", str(folder), REPO]) == 2
        assert "could not upload to me/rte-fold: the hub cannot be reached" in capsys.readouterr().err
        with pytest.raises(InputError, match="the hub cannot be reached, and the cache lacks it; is there a network?"):
            load_source("me/none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="could not upload to me/rte-fold: HF_HUB_OFFLINE is set; unset it where"):
        push(folder)


def test_other_things_than_adapters_are_named(hub):
    hub.add("models/me/lora", {"adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.safetensors": b""})
    hub.add("models/me/fusion", {"adapter_fusion_config.json": b"{}"})
    hub.add("models/me/bert", {"config.json": b"{}"})
    for name, message in {
        "me/lora": r"is a PEFT adapter \(LORA\)",
        "me/fusion": "holds what joins adapters, a layer or a setup; .*`scalearn import`",
        "me/bert": "the repository holds no adapter and no run",
        "me/bert@": "expected OWNER/NAME@REVISION",
    }.items():
        with pytest.raises(InputError, match=message):
            load_source(name)


def test_tokens_stay_here(hub, folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert cli.main(["push", str(folder), REPO, "--message", "m", "--json"]) == 0
    sent = b"".join(held(hub).values()) + capsys.readouterr().out.encode()
    assert TOKEN.encode() not in sent and {who for *_, who in hub.asked} == {f"Bearer {TOKEN}"}
    monkeypatch.setenv("HF_TOKEN", "secret-of-another-form")
    config = json.loads((folder / "head_config.json").read_text()) | {"a": TOKEN}
    for name, text in {"head_config.json": json.dumps(config), "README.md": "secret-of-another-form"}.items():
        hub.asked.clear()
        kept = (folder / name).read_bytes()
        (folder / name).write_text(text)
        with pytest.raises(InputError, match=f"{name} holds a token or password, which must not be uploaded") as caught:
            push(folder)
        assert not hub.asked and TOKEN not in str(caught.value) and "secret" not in str(caught.value)
        (folder / name).write_bytes(kept)


def test_places_on_this_machine_stay_here(hub, tmp_path, backbone, folder):
    run = shareable.write_run(tmp_path / "run", backbone)
    with pytest.raises(InputError, match=f"run.json names a place .*`scalearn export {run} --format native"):
        push(run)
    config = json.loads((folder / "adapter_config.json").read_text()) | {"model_name": "~/models/bert"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="names a place on this machine, '~/models/bert'.*edit the file"):
        push(folder)
    assert not hub.asked and not (folder / "README.md").exists()
    path = "runs@home/rte", "me/rte@main", "~/a@" + 40 * "0", "me/rte@" + 40 * "0"
    assert [provenance.public_place({"path": place}) for place in path] == [None, None, None, path[-1]]
    told = provenance.without_places(f"scalearn fold {run} --out=~me/x/ --url https://a/b --name glue/rte")
    assert told == "scalearn fold run --out=x/ --url https://a/b --name glue/rte"


def test_a_folder_that_says_nothing_or_nonsense_is_named(tmp_path, folder):
    with pytest.raises(InputError, match="holds neither scalearn.json nor run.json; pass a folder made by"):
        push(tmp_path)
    provenance.write_provenance(folder, shareable.content(sources="x", scores=[]))
    with pytest.raises(InputError, match="scalearn.json.*key 'sources'.*key 'scores'"):
        push(folder)
    for repo in ("rte", "a/b/c", "a--b/c", "a/b.git", "a b/c", "-a/b"):
        with pytest.raises(InputError, match="expected OWNER/NAME"):
            PushConfig(dir="x", repo=repo)


def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path):
    (tmp_path / "secret").write_text("{}")
    (folder / "results.json").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="results.json is a link that leads out of its folder"):
        push(folder, dry_run=True)


def test_names_of_the_hub_are_told_from_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/rte").mkdir(parents=True)
    assert not hub_folder.is_remote("runs/rte") and hub_folder.is_remote("runs/other")
    assert not any(map(hub_folder.is_remote, ("rte", "/a/b", "./a/b", "a/b/c", "../b")))
    assert split_revision("a/b@refs/pr/1") == ("a/b", "refs/pr/1")


def test_a_fusion_goes_with_its_adapters_and_comes_back(hub, tmp_path):
    sources = tuple(str(GOLDEN / "adapters" / name) for name in ("mnli", "qqp", "stsb", "rte"))
    given = dict(backbone=str(GOLDEN / "backbone"), head=str(GOLDEN / "heads/target"))
    imported = import_source(
        ImportConfig(src=str(GOLDEN / "transfer/fusion_dynamic"), out=str(tmp_path / "a"), sources=sources, **given)
    )
    folder = export_run(ExportConfig(run=str(imported), out=str(tmp_path / "setup")))
    result = push(folder)
    assert result["left_out"] == [] and "mnli,qqp,stsb,rte/model_adapter_fusion.safetensors" in result["files"]
    assert "load_adapter_setup" in held(hub)["README.md"].decode()
    hub.add("models/org/base", {path.name: path.read_bytes() for path in (GOLDEN / "backbone").iterdir()})
    again = import_source(ImportConfig(src=REPO, out=str(tmp_path / "b"), backbone="org/base@main"))
    first, second = (load_run(str(run)) for run in (imported, again))
    assert tree.content_hash(first.members[0]) == tree.content_hash(second.members[0])
    assert second.info["imported"]["from"] == f"{REPO}@{result['commit']}"
    exported = export_run(ExportConfig(run=str(again), out=str(tmp_path / "c")))
    assert provenance.read_provenance(exported)["imported"] == f"{REPO}@{result['commit']}"
    assert second.info["backbone"]["path"] == "org/base" and len(second.info["backbone"]["revision"]) == 40
    assert result["commit"][:12] in fetch(FetchConfig(sources=(REPO,)))


def test_the_scales_of_a_fold_are_drawn(hub, tmp_path):
    folder = shareable.write(tmp_path / "fold", omega=[[0.5, 0.7], [0.1, 1.0], [0.2, 0.3]])
    push(folder)
    assert held(hub)["omega.png"].startswith(b"\x89PNG") and "(omega.png)" in held(hub)["README.md"].decode()


@pytest.mark.parametrize("omega", [None, "x", [[0.5]], [[0.5, float("nan")]], [[1, 2], [3]], [{}, {}]])
def test_scales_that_make_no_sense_are_not(hub, tmp_path, omega):
    assert push(shareable.write(tmp_path / "fold", omega=omega), dry_run=True)["written"] == ["README.md"]
