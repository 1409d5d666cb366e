"""The version, in a module without imports so that a build can read it."""

__all__ = ["__version__"]

__version__ = "0.2.0"
