"""Benchmarks on real models, side by side with other tools. Run by hand: `python -m benchmarks --help`."""
