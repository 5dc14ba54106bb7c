"""Benchmarks and soak runs, each one command of the Makefile."""
