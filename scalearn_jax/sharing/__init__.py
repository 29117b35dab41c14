"""Other libraries, other machines, the hub."""
