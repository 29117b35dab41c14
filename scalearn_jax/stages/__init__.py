"""Stage 1 and stage 2: a config becomes a run folder."""
