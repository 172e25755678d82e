"""The main job on one machine: `python -m demo`, see `demo.__main__`."""
