"""Benchmarks of the paper's tables, judged by the authors' rules or by strict ones."""
