"""Coverage-guided fuzzing of everything that decodes what a server sends; `make fuzz`.

`targets` is the table of what is fuzzed; each target asserts the same of every input, under a fuzzer
(`run`, `__main__`) as in `tests/faults/test_corpus.py`, which replays what was found and needs no fuzzer.
"""
