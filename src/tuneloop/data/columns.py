"""Which column means what: by its usual names, by what stands in it, or as the configuration says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from tuneloop.data.config import DataConfig
from tuneloop.data.rows import RawFile
from tuneloop.errors import DataError

PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("input_text", "target_text"),
    ("input_text", "output_text"),
    ("query", "answer"),
    ("query", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("question", "output"),
    ("question", "answers"),
    ("questions", "answers"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("input", "output"),
    ("inputs", "targets"),
    ("source", "target"),
    ("问题", "回答"),
    ("問題", "回答"),
    ("質問", "回答"),
    ("질문", "답변"),
    ("问题", "答案"),
    ("问", "答"),
    ("提问", "回复"),
    ("提问", "回答"),
    ("标题", "回答"),
    ("输入", "输出"),
    ("ask", "answer"),
    ("用户", "客服"),
    ("用户", "助手"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("human", "bot"),
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
    "full_text",
    "文本",
    "内容",
    "句子",
    "评论",
    "问题",
    "标题",
)
LABELS = ("intent", "category", "label", "class", "意图", "标签", "类别", "分类", "科室")
PAIR_LABELS = ("intent", "category", "department", "意图", "标签", "类别", "分类", "科室")
"""Beside an answer, ``label`` and ``class`` may mean anything; these name a class."""
TITLES = ("标题", "title", "subject")
CONTEXTS = ("context", "passage", "上下文", "材料")
PLAIN = (
    "text",
    "content",
    "正文",
    "文本",
    "full_text",
    "body",
    "article",
    "document",
    "markdown",
    "文章",
    "内容",
    "page",
)
CHOSEN = ("chosen", "response_chosen", "chosen_response", "preferred_output", "chosen_messages")
REJECTED = ("rejected", "response_rejected", "rejected_response", "non_preferred_output", "rejected_messages")
KTO_TAGS = ("kto_tag", "desirable", "label")
ENTITIES = ("entities", "slots", "spans", "实体", "槽位")
ACTIONS = ("action", "actions", "动作", "操作")
TOOLS = ("tools", "functions", "工具")

JUDGED_ROWS = 20
"""Fewer values than this say nothing about a column: then its name decides."""
LABEL_CHARS = 60
"""Class names are at most this long on average; the longest of Banking77 has 49 characters."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What stands in a column: ``n`` values that are not empty, the different ones among them, their mean length in
    characters, and the first."""

    n: int
    distinct: int
    mean_chars: float
    sample: Any

    @property
    def like_classes(self) -> bool:
        """Few, short and repeated values, or too few values to tell."""
        return self.n < JUDGED_ROWS or (self.distinct <= self.n / 2 and self.mean_chars <= LABEL_CHARS)

    @property
    def like_answers(self) -> bool:
        """Values that differ and are sentences rather than names."""
        return self.n >= JUDGED_ROWS and self.distinct > self.n / 2 and self.mean_chars > LABEL_CHARS / 2


class Names:
    """The columns of a file, found by name without regard to case, and what the configuration says about them."""

    def __init__(self, file: RawFile, config: DataConfig) -> None:
        self.file = file
        flat = (" ".join(name.split()) for name in file.columns[:20])
        shown = (name if len(name) <= 40 else f"{name[:39]}…" for name in flat)
        self.listing = ", ".join(shown) or "(none)"
        self._by_fold = {name.strip().casefold(): name for name in reversed(file.columns)}
        self.facts = cache(self._facts)
        self.prompt = self._named("prompt_column", config.prompt_column)
        self.answer_parts = self._parts(config.response_column)
        self.response = None if self.answer_parts else self._named("response_column", config.response_column)
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

    def _parts(self, column: str | None) -> tuple[str, ...]:
        """The columns of ``intent+entities+action``: together, as JSON, they are the answer."""
        if column is None or "+" not in column or self.find(column):
            return ()
        return tuple(found for part in column.split("+") if (found := self._named("response_column", part.strip())))

    def find(self, *names: str) -> str | None:
        return next((self._by_fold[n.casefold()] for n in names if n.casefold() in self._by_fold), None)

    def sample(self, column: str | None) -> Any:
        """The first value of a column that is neither null nor empty."""
        return self.facts(column).sample if column else None

    def list_sample(self, column: str | None) -> list[Any]:
        """The first list in a column, read from JSON text where it stands so; empty: there is none."""
        value = self.sample(column)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return []
        return value if isinstance(value, list) else []

    def is_text(self, column: str | None) -> bool:
        return isinstance(self.sample(column), str)

    def classes(self, *names: str) -> str | None:
        """The column of the class: the configured one, or the first of these names that holds few, short values."""
        if self.label:
            return self.label
        found = (self.find(name) for name in names)
        return next((c for c in found if c and self.facts(c).like_classes), None)

    def _facts(self, column: str) -> Facts:
        values = [v for r in self.file.head if (v := r.fields.get(column)) not in (None, "", [], {})]
        texts = [v if isinstance(v, str) else repr(v) for v in values]
        mean = sum(map(len, texts)) / len(texts) if texts else 0.0
        return Facts(len(texts), len(set(texts)), mean, values[0] if values else None)
