"""The variants that the published implementation saved, and the methods that they are."""

LAYERS = {
    "scalearn": "scalearn",
    "scalearn_uniform": "scalearn-uniform",
    "scalearn_pp": "scalearn++",
    "scalearn_uniform_pp": "scalearn-uniform++",
    "scalearn_mean": "scalearn-mean",
    "scalearn_softmax": "scalearn-softmax",
}
FUSIONS = {"fusion_dynamic": "fusion", "fusion_static": "fusion-static"}
