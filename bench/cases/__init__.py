"""What is measured; each module has a `run`."""
