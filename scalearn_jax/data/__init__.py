"""Files to packed batches, in numpy."""
