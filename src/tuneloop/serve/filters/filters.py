"""The filters of a gateway, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from tuneloop.chat import Chat
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.asked import Asked
from tuneloop.serve.filters.config import Action, FiltersConfig
from tuneloop.serve.filters.injection import PromptInjection
from tuneloop.serve.filters.output import OutputFilter, failed
from tuneloop.serve.filters.personal import PersonalData
from tuneloop.serve.filters.prompts import PromptFilter
from tuneloop.serve.filters.text import Check, Hits
from tuneloop.serve.filters.unsafe import Unsafe

LONG_CALL_CHARACTERS = 20_000
"""Longer calls are read on a thread, so that the others' tokens keep flowing."""


class Filters:
    """The filters of one gateway.

    Args:
        config: Which filter does what.
        count: Is told (filter, side, action, how many).

    Raises:
        ConfigError: A list of words cannot be read.
    """

    def __init__(self, config: FiltersConfig, count: Callable[[str, str, str, int], object]) -> None:
        self._config, self._count = config, count
        self._output = partial(self._checks, config.personal_data.output, config.unsafe.output)
        self._trusted = partial(self._checks, config.personal_data.input, config.unsafe.input)
        self._foreign = partial(self._trusted, config.prompt_injection.input)
        self._trusted(), self._output()  # a list that cannot be read is found now
        for side, checks in (("input", self._foreign()), ("output", self._output())):
            for check in checks:
                count(check.finder.name, side, check.action, 0)

    def output(self) -> OutputFilter | None:
        """The last stage of an answer; None when nothing is looked for."""
        if not self._output():
            return None
        return OutputFilter(self._output, lambda name, action, n: self._count(name, "output", action, n))

    async def prompt(self, asked: Asked, chat: Chat) -> tuple[Asked, Hits]:
        """A call as it may go on, and what was found in it.

        Raises:
            ApiError: 400, a filter blocks it; 500, a filter failed.
        """
        if not self._foreign():
            return asked, Hits()
        reading = PromptFilter(self._trusted, self._foreign)
        size = sum(len(m.content) for m in asked.messages) + sum(map(len, asked.prompts)) + len(asked.tools or "")
        try:
            if size > LONG_CALL_CHARACTERS:
                return await asyncio.to_thread(reading.asked, asked, chat), reading.hits
            return reading.asked(asked, chat), reading.hits
        except ApiError:
            raise
        except Exception as error:
            raise failed(error) from error
        finally:
            for (name, action), n in reading.hits.items():
                self._count(name, "input", action, n)

    def _checks(self, personal: Action, unsafe: Action, injection: Action = "off") -> Sequence[Check]:
        """New checks for one text."""
        found = []
        if personal != "off":
            found.append(Check(PersonalData(self._config.personal_data), personal))
        if unsafe != "off":
            found.append(Check(Unsafe(self._config.unsafe), unsafe))
        if injection != "off":
            found.append(Check(PromptInjection(), injection))
        return found
