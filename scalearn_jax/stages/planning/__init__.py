"""What a run will cost: `scalearn plan`, and estimates for dry runs."""
