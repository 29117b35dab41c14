"""Exchange with other libraries: Hugging Face checkpoints and AdapterHub folders."""
