"""Speed as ratios, each measured in one run on one thread: `python -m benchmarks [filter] [--json]`."""
