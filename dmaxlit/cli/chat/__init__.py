"""``dmaxlit chat``: a conversation in the terminal, in which one sees the answers form."""

from dmaxlit.cli.chat.command import run

__all__ = ["run"]
