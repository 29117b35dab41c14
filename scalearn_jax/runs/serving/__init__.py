"""Finished runs answer questions: `Predictor` and `scalearn predict`."""
