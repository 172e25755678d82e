"""runicorn: manifest-based sync for machine-learning experiments."""

from runicorn._version import __version__

__all__ = ["__version__"]
