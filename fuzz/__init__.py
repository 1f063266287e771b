"""Hostile input for every reader: mutated files, read in a process apart, and shown to the reference libraries.

`python -m fuzz.run` feeds seeded mutants to `formats.examine` and measures time and memory of each. A mutant is known
by its format, the seed of the run and its number, and can be made again from these.
"""
