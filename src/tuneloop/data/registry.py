"""Names -> classes with options: how steps and makers are found, built in or installed by others, and configured."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuneloop.errors import ConfigError


@dataclass(frozen=True)
class Registry:
    """One kind of plug-in.

    Attributes:
        kind: What one is called, e.g. ``step``.
        group: Entry point group under which other packages register classes; the fields of a class are its options.
        built_in: Name -> ``module:class``.
    """

    kind: str
    group: str
    built_in: Mapping[str, str]

    def names(self) -> list[str]:
        """Every registered name."""
        return [*self.built_in, *(e.name for e in entry_points(group=self.group) if e.name not in self.built_in)]

    def class_of(self, name: str) -> Any:
        """The class behind a name.

        Raises:
            ValueError: There is none; with a hint in its second line.
        """
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        for entry in entry_points(group=self.group):
            if entry.name == name:
                return entry.load()
        near = difflib.get_close_matches(name, self.names(), 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self.names())}"
        raise ValueError(f"unknown {self.kind} {name!r}\nhint: {hint}")

    def check(self, name: str, options: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
        """Validate a name and its options.

        Args:
            folder: Where relative paths in the options begin.

        Returns:
            The options that were given, with their paths resolved.

        Raises:
            ValueError: With a hint in its second line, as configuration classes want it.
        """
        kind = self.class_of(name)
        try:
            made = kind.model_validate(dict(options), context={"folder": folder})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            what, _, hint = first["msg"].removeprefix("Value error, ").partition("\nhint: ")
            place = f", option {key!r}" if key else ""
            known = f"its options are: {', '.join(kind.model_fields) or 'none'}"
            raise ValueError(f"{self.kind} {name!r}{place}: {what}\nhint: {hint or known}") from None
        given: dict[str, Any] = made.model_dump(mode="json", exclude_unset=True)
        return given

    def create(self, name: str, options: Mapping[str, Any]) -> Any:
        """Build one.

        Raises:
            ConfigError: No such name, or an option that it does not have.
        """
        try:
            self.check(name, options)
        except ValueError as error:
            what, _, hint = str(error).partition("\nhint: ")
            raise ConfigError(what, where=f"data.{self.kind}s {name}", hint=hint or None) from None
        return self.class_of(name)(**options)


def plugged_in(value: Any, folder: Path | None, check: Callable[..., dict[str, Any]]) -> Any:
    """What may stand in a list of plug-ins: ``name``, ``{name: options}``, or ``{name: ..., options: ...}``."""
    if isinstance(value, str):
        value = {"name": value}
    elif isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
        ((name, options),) = value.items()
        value = {"name": name, "options": options or {}}
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return {**value, "options": check(value["name"], value.get("options") or {}, folder)}
    return value
