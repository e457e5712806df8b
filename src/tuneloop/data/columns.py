"""Which column means what: by its usual names, or as the configuration says."""

from __future__ import annotations

from typing import Any

from tuneloop.data.config import DataConfig
from tuneloop.data.rows import RawFile
from tuneloop.errors import DataError

PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("input_text", "target_text"),
    ("query", "answer"),
    ("query", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("question", "output"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("input", "output"),
    ("问题", "回答"),
    ("问题", "答案"),
    ("问", "答"),
    ("提问", "回复"),
    ("ask", "answer"),
    ("用户", "客服"),
)
TEXTS = (
    "text",
    "sentence",
    "utterance",
    "message",
    "tweet",
    "content",
    "query",
    "question",
    "review",
    "文本",
    "内容",
    "问题",
    "标题",
)
LABELS = ("intent", "category", "label", "class", "意图", "标签", "类别", "分类", "科室")
PAIR_LABELS = ("intent", "category", "意图", "标签", "类别", "分类", "科室")
"""Beside an answer, ``label`` and ``class`` may mean anything; these name a class."""
TITLES = ("标题", "title", "subject")
PLAIN = ("text", "content", "正文", "文本")


class Names:
    """The columns of a file, found by name without regard to case, and what the configuration says about them."""

    def __init__(self, file: RawFile, config: DataConfig) -> None:
        self.file = file
        flat = (" ".join(name.split()) for name in file.columns[:20])
        shown = (name if len(name) <= 40 else f"{name[:39]}…" for name in flat)
        self.listing = ", ".join(shown) or "(none)"
        self._by_fold = {name.strip().casefold(): name for name in reversed(file.columns)}
        self.prompt = self._named("prompt_column", config.prompt_column)
        self.response = self._named("response_column", config.response_column)
        self.label = self._named("label_column", config.label_column)
        self.forced = config.format

    def _named(self, key: str, column: str | None) -> str | None:
        if column is None:
            return None
        if found := self.find(column):
            return found
        raise DataError(
            f"there is no column {column!r}",
            where=f"{self.file.name}:{self.file.header_line}",
            hint=f"the columns are: {self.listing}; set data.{key}",
        )

    def find(self, *names: str) -> str | None:
        return next((self._by_fold[n.casefold()] for n in names if n.casefold() in self._by_fold), None)

    def sample(self, column: str) -> Any:
        """The first value of a column that is neither null nor empty."""
        return next((v for r in self.file.head if (v := r.fields.get(column)) not in (None, "", [])), None)
