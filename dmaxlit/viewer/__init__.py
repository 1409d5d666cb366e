"""Traces as one self-contained HTML page."""

from dmaxlit.viewer.page import Panel, page, write_page
from dmaxlit.viewer.recording import Recording

__all__ = ["Panel", "Recording", "page", "write_page"]
