"""The task ``stories``: word problems in free wording; and ``stories_reading``, from which a model learns to read."""

from dmaxlit.tasks.stories.reading import StoriesReadingTask
from dmaxlit.tasks.stories.task import StoriesTask, Story

__all__ = ["StoriesReadingTask", "StoriesTask", "Story"]
