"""The PyTorch side of the interop tests: stock ``adapters``, in an environment of its own. Never imports our package.

python torch_side.py write DIR    writes the setups of ``cases.WRITTEN``, random, with the logits they give
python torch_side.py read DIR     loads what the other side wrote there; prints what came of each as JSON
"""

import json
import logging
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import adapters
import numpy as np
import torch
from adapters import AutoAdapterModel, RobertaAdapterModel, SeqBnConfig
from adapters.composition import Fuse
from cases import CHOICES, FAMILIES, FUSIONS, MPNET, OUTPUTS, STATIC, WRITTEN, Encoder, Written, spread
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    RobertaConfig,
)
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

torch.set_num_threads(1)  # the sizes are tiny
logging.disable(logging.WARNING)  # it warns of every model without adapters, which are controls here


def write(root: Path) -> None:
    """Writes every encoder of ``WRITTEN`` and ``STATIC`` with its setups, and one of each family."""
    torch.manual_seed(0)
    for case in WRITTEN:
        write_case(root / case.encoder.name, case)
    for encoder in STATIC:
        write_static(root / encoder.name, encoder)
    for encoder in FAMILIES:
        write_family(root / "families" / encoder.name, encoder)
    write_mpnet(root / "mpnet")


def write_static(folder: Path, encoder: Encoder) -> None:
    """Writes an encoder with the setup ``static``."""
    model = AutoModelForSequenceClassification.from_config(config_of(encoder, num_labels=3)).eval()
    adapters.init(model)
    uneven = SeqBnConfig(reduction_factor={"0": 3, "default": 8}, dropout=0.5, leave_out=[1])
    model.add_adapter("static", config=uneven)
    draw(model)
    save_backbone(model, folder / "backbone", add_pooling_layer=hasattr(model.base_model.pooler, "dense"))
    inputs = encoder.inputs()
    np.savez(folder / "inputs.npz", **inputs)
    save_setup(model, "static", folder, inputs)


@torch.no_grad()
def write_family(folder: Path, encoder: Encoder) -> None:
    """Writes a bare encoder, with the head of its pretraining."""
    model, inputs = AutoModelForPreTraining.from_config(config_of(encoder)).eval(), encoder.inputs()
    draw(model)
    model.save_pretrained(folder)
    np.savez(folder / "inputs.npz", **inputs)
    states = model.base_model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).last_hidden_state
    np.save(folder / "states.npy", states.numpy())


def write_case(folder: Path, case: Written) -> None:
    """Writes one encoder, its inputs and its setups."""
    model = new_model(case.encoder)
    for adapter in case.adapters:
        config = SeqBnConfig(
            reduction_factor=case.factor, non_linearity=adapter.non_linearity, ln_after=adapter.ln_after
        )
        model.add_adapter(adapter.name, config=config)
        add_head(model, adapter.name, adapter.kind)
    fusions = [Fuse(*[adapter.name for adapter in case.adapters[: case.num_sources]], name=name) for name in FUSIONS]
    for fusion in fusions if case.num_sources else ():
        model.add_adapter_fusion(fusion, FUSIONS[fusion.name])
        add_head(model, fusion.name, "classification")
    draw(model)
    save_backbone(model, folder / "backbone")
    inputs = case.encoder.inputs()
    np.savez(folder / "inputs.npz", **inputs)
    for setup in (*(adapter.name for adapter in case.adapters), *(fusions if case.num_sources else ())):
        save_setup(model, setup, folder, inputs)


@torch.no_grad()
def write_mpnet(folder: Path) -> None:
    """Writes an MPNet classifier of transformers, and for its inputs the last states, the logits and the texts' vectors
    as sentence-transformers makes them of the states; beside them the bucket of every distance from -600 to 600.
    """
    config = MPNET.config | {"num_labels": OUTPUTS["classification"]}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    draw(model.eval())
    model.save_pretrained(folder / "backbone")
    inputs = MPNET.inputs()
    np.savez(folder / "inputs.npz", **inputs)
    tokens, mask = (torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask"))
    states = model.mpnet(tokens, attention_mask=mask).last_hidden_state
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    found = {
        "states": states,
        "logits": model(tokens, attention_mask=mask).logits,
        "vectors": torch.nn.functional.normalize(means, dim=1),
        "buckets": MPNetEncoder.relative_position_bucket(torch.arange(-600, 601)),
    }
    np.savez(folder / "expected.npz", **{name: value.numpy() for name, value in found.items()})


def new_model(encoder: Encoder) -> torch.nn.Module:
    """Makes a model without any adapter."""
    return AutoAdapterModel.from_config(config_of(encoder)).eval()


def config_of(encoder: Encoder, **more) -> AutoConfig:
    """Makes transformers' own configuration of an encoder."""
    config = dict(encoder.config)
    return AutoConfig.for_model(config.pop("model_type"), **config, **more)


def add_head(model: torch.nn.Module, name: str, kind: str) -> None:
    """Adds a head as their users do."""
    labels = {number: f"{name} {number}" for number in range(OUTPUTS[kind])}
    if kind == "choice":
        model.add_multiple_choice_head(name, num_choices=CHOICES)
    else:
        more = {"multilabel": kind == "multilabel", "id2label": labels}
        model.add_classification_head(name, num_labels=OUTPUTS[kind], **more)


@torch.no_grad()
def draw(model: torch.nn.Module) -> None:
    """Draws every parameter anew: many of them start at 0 or 1, where a mistake would not show."""
    for name, parameter in model.named_parameters():
        parameter.normal_(*spread("LayerNorm.weight" in name, parameter.shape[1:]))


def save_backbone(model: torch.nn.Module, folder: Path, **options) -> None:
    """Saves the bare encoder as transformers does, config.json and model.safetensors."""
    bare = AutoModel.from_config(model.config, **options)
    missing, _ = bare.load_state_dict(model.base_model.state_dict(), strict=False)  # which holds adapters as well
    assert not missing
    bare.save_pretrained(folder)


def save_setup(model: torch.nn.Module, setup: str | Fuse, folder: Path, inputs: dict[str, np.ndarray]) -> None:
    """Saves an adapter or a fusion with its head in both forms, and its logits."""
    name = setup if isinstance(setup, str) else setup.name
    save = model.save_adapter if isinstance(setup, str) else model.save_adapter_fusion
    for parent, is_safe in (("setups", True), ("pickles", False)):
        (folder / parent / name).mkdir(parents=True)
        save(str(folder / parent / name), setup, with_head=True, use_safetensors=is_safe)
    np.save(folder / "setups" / name / "logits.npy", logits(model, setup, name, inputs))


@torch.no_grad()
def logits(model: torch.nn.Module, setup: str | Fuse | None, head: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Runs a model with one setup active."""
    model.set_active_adapters(setup)
    model.active_head = head
    return model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()


def read(root: Path) -> dict[str, dict]:
    """Loads every encoder below a folder, and every setup over it.

    Returns:
      What came of each, under ``ENCODER`` and ``ENCODER/SETUP``; see ``read_setup``.
    """
    found = {}
    for folder in sorted(path.parent for path in root.glob("*/backbone")):
        maker, options = AutoAdapterModel, {}
        if folder.name.startswith("camembert"):  # which their library knows under the name of its blocks alone
            maker = RobertaAdapterModel
            options = {"config": RobertaConfig.from_pretrained(folder / "backbone", model_type="roberta")}
        model, info = maker.from_pretrained(folder / "backbone", output_loading_info=True, **options)
        found[folder.name] = {"missing": sorted(info["missing_keys"]), "unexpected": sorted(info["unexpected_keys"])}
        inputs = dict(np.load(folder / "inputs.npz"))
        for setup in sorted((folder / "setups").iterdir(), key=is_fusion):  # a fusion after its sources
            found[f"{folder.name}/{setup.name}"] = read_setup(model.eval(), setup, inputs)
    return found


def is_fusion(folder: Path) -> bool:
    """Whether a setup is a fusion."""
    return (folder / "adapter_fusion_config.json").exists()


def read_setup(model: torch.nn.Module, folder: Path, inputs: dict[str, np.ndarray]) -> dict:
    """Loads one setup as its users do, and compares.

    Returns:
      ``missing`` and ``unexpected`` keys; ``labels`` of the head; the largest ``difference`` of a logit from those
      that lie beside the setup, and that of one ``without`` its adapters; of a fusion also that of the ``whole``
      setup. Or ``error``, why it could not be loaded.
    """
    load, info = model.load_adapter_fusion if is_fusion(folder) else model.load_adapter, {}
    try:
        load(str(folder), use_safetensors=True, set_active=True, loading_info=info)
    except Exception as error:  # of whatever is wrong with the folder; the other setups go on
        return {"error": f"{type(error).__name__}: {error}"}
    name = json.loads((folder / "head_config.json").read_text())["name"]
    ours, labels = np.load(folder / "logits.npy"), model.get_labels(name)
    difference = lambda setup: float(np.abs(logits(model, setup, name, inputs) - ours).max())  # noqa: E731
    found = {"difference": difference(model.active_adapters), "without": difference(None), "labels": labels}
    if (folder / "whole").exists():  # the fusion with its adapters, loaded at once by a model that knows neither
        whole = AutoAdapterModel.from_pretrained(folder.parent.parent / "backbone").eval()
        whole.load_adapter_setup(str(folder / "whole"), use_safetensors=True, set_active=True)
        found["whole"] = float(np.abs(logits(whole, whole.active_adapters, name, inputs) - ours).max())
    model.delete_head(name)  # what is missing is looked for by substring: "a" would miss what belongs to "ab"
    if is_fusion(folder):
        model.delete_adapter_fusion(name)
    return found | {"missing": info["missing_keys"], "unexpected": info["unexpected_keys"]}


if __name__ == "__main__":
    command, root = sys.argv[1:]
    print(json.dumps({"write": write, "read": read}[command](Path(root))))
