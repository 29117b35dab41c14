"""The benchmark of the training step and of prediction; `python -m experiments.benchmark --help`."""
