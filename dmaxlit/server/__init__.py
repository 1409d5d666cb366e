"""An HTTP server with OpenAI's API, whose requests share the forwards of one engine."""

from dmaxlit.server.app import create_app
from dmaxlit.server.limits import Limits
from dmaxlit.server.run import listen, serve

__all__ = ["Limits", "create_app", "listen", "serve"]
