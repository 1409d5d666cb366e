"""The task ``stories``: word problems in free wording."""

from dmaxlit.tasks.stories.task import StoriesTask, Story, StoryReport

__all__ = ["StoriesTask", "Story", "StoryReport"]
