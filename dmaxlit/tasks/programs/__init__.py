"""The task ``programs``: small Python functions asked for in English."""

from dmaxlit.tasks.programs.task import ProgramsTask

__all__ = ["ProgramsTask"]
