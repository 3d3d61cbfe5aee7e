"""Evenhand's core: cases, models, privacy, training, prediction. Knows no Flower, no Streamlit."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("evenhand")
