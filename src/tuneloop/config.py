"""YAML + dotted overrides -> a frozen configuration, with errors that name file, line and the likely meaning.

Defaults < YAML < overrides; resolved once, never mutated. Words of other tools (``cutoff_len``, ``lora_rank`` ...) are
accepted where a class lists them in ``aliases`` and are reported under the canonical name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from tuneloop.errors import ConfigError

C = TypeVar("C", bound="Config")
KeyPath = tuple[str | int, ...]


class Config(BaseModel):
    """Base of every configuration class: frozen, closed, documented field by field; its numbers are finite."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    aliases: ClassVar[Mapping[str, str]] = {}
    """Words of other tools -> the canonical dotted key relative to this class."""

    explained: ClassVar[Mapping[str, str]] = {}
    """Keys that people write here and that do not exist -> what to write instead."""

    incidental: ClassVar[tuple[str, ...]] = ()
    """Keys, dotted, that decide how the work is done and not what comes out: they are no reason to do it again."""

    def hash(self) -> str:
        return hash_json(self.identity())

    def identity(self) -> dict[str, Any]:
        """What the outcome depends on, as plain JSON."""
        tree = self.model_dump(mode="json")
        for key in self.incidental:
            *above, last = key.split(".")
            _get(tree, above).pop(last)
        return tree

    def changes(self, before: Mapping[str, Any]) -> list[str]:
        """What of ``identity`` differs from an earlier configuration, given as plain JSON: "epochs 3 -> 4"."""
        if not before:  # nobody knows what it was
            return []
        old, new = dict(_leaves(before)), dict(_leaves(self.identity()))
        keys = [k for k in {**new, **old} if not f"{k}.".startswith(tuple(f"{i}." for i in self.incidental))]
        return [f"{k} {old.get(k)} -> {new.get(k)}" for k in keys if old.get(k) != new.get(k)]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def hash_json(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def _leaves(tree: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a tree that is no mapping."""
    if not isinstance(tree, Mapping):
        yield at, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, f"{at}.{key}" if at else str(key))


def _resolve(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("folder")
    path = path.expanduser()
    return path if path.is_absolute() or base is None else Path(base) / path


ConfigPath = Annotated[Path, AfterValidator(_resolve)]
"""A path; a relative one is meant relative to the YAML file that holds it."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """A configuration, and what was said while it was read (aliases that were translated)."""

    value: C
    notes: tuple[str, ...]
    path: Path | None


class _Loader(yaml.SafeLoader):
    """YAML with 1.2 scalars: ``2e-5`` is a number, ``no`` and ``on`` are text."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in pairs if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
    ]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False)$"), list("tfTF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|nan)$"),
    list("-+0123456789."),
)


def load(schema: type[C], path: Path | str, overrides: Iterable[str] = ()) -> Loaded[C]:
    """Read a YAML file, apply ``a.b=value`` overrides and validate.

    Raises:
        ConfigError: A missing or unreadable file, broken YAML, an unknown key, a value of the wrong kind.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], 1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "tuneloop init my-project  writes one"
        raise ConfigError("no such file", where=str(path), hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path), hint="save it as UTF-8 text") from None
    tree, lines = _parse_yaml(text, str(path))
    return build(schema, tree, overrides, path=path, lines=lines)


def _parse_yaml(text: str, where: str) -> tuple[Any, dict[KeyPath, int]]:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        if node is not None:
            _index_lines(node, (), lines, where)
        return (loader.construct_document(node) if node is not None else {}), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(
            f"not valid YAML: {error.problem}", where=f"{where}:{line}", hint="check indentation and quotes there"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"not valid YAML: {' '.join(str(error).split())}", where=where, hint="save it as UTF-8 text"
        ) from None
    finally:
        if loader is not None:
            loader.dispose()


def _index_lines(node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], where: str) -> None:
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            here = (*at, str(key_node.value))
            if here in lines:
                raise ConfigError(
                    f"the key {key_node.value!r} stands twice (first in line {lines[here]})",
                    where=f"{where}:{key_node.start_mark.line + 1}",
                    hint="keep one of them",
                )
            lines[here] = key_node.start_mark.line + 1
            _index_lines(value_node, here, lines, where)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _index_lines(item, (*at, i), lines, where)


def build(
    schema: type[C],
    tree: Any,
    overrides: Iterable[str] = (),
    *,
    path: Path | None = None,
    lines: Mapping[KeyPath, int] | None = None,
) -> Loaded[C]:
    """Validate a tree (from YAML or Python) with overrides applied."""
    where = str(path) if path else "config"
    if not isinstance(tree, dict):
        raise ConfigError(
            "the top level must be a mapping of sections", where=where, hint="see examples/*/tuneloop.yaml"
        )
    lines, from_override = dict(lines or {}), dict[KeyPath, str]()
    for item in overrides:
        keys, value = _parse_override(item)
        tree = _with(tree, keys, value, item)
        from_override[keys] = item
    notes: list[str] = []
    moved: dict[KeyPath, KeyPath] = {}
    tree = _apply_aliases(schema, tree, (), notes, moved)
    try:
        value = schema.model_validate(tree, context={"folder": path.parent.resolve() if path else None})
    except ValidationError as error:
        raise _explain(schema, error, where, lines, from_override, moved) from None
    return Loaded(value, tuple(notes), path)


def _parse_override(item: str) -> tuple[tuple[str, ...], Any]:
    key, sep, raw = item.partition("=")
    if not sep or not key.strip():
        raise ConfigError(f"{item!r} is not an override", hint="write section.key=value, e.g. train.learning_rate=2e-5")
    value, _ = _parse_yaml(raw, f"override {item}") if raw.strip() else ("", {})
    return tuple(key.strip().split(".")), value


def _with(tree: Any, keys: Sequence[str], value: Any, item: str) -> Any:
    """A copy of the tree with one dotted key set. Numbers index lists."""
    out: Any = dict(tree) if isinstance(tree, Mapping) else list(tree)
    head: Any = keys[0]
    if isinstance(out, list):
        if not head.isdigit() or int(head) >= len(out):
            raise ConfigError(
                f"{head!r} is not an index of a list of {len(out)}", where=f"override {item}", hint="count from 0"
            )
        head = int(head)
    if len(keys) == 1:
        out[head] = value
        return out
    inner = out[head] if isinstance(head, int) else out.get(head)
    out[head] = _with(inner if isinstance(inner, Mapping | list) else {}, keys[1:], value, item)
    return out


def _sub_schema(annotation: Any) -> type[Config] | None:
    """The Config class inside ``X``, ``X | None``, ``tuple[X, ...]`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next((s for a in get_args(annotation) if (s := _sub_schema(a))), None)


def _apply_aliases(
    schema: type[Config], tree: Any, at: KeyPath, notes: list[str], moved: dict[KeyPath, KeyPath]
) -> Any:
    if isinstance(tree, list | tuple):
        return [_apply_aliases(schema, item, (*at, i), notes, moved) for i, item in enumerate(tree)]
    if not isinstance(tree, Mapping):
        return tree
    out: dict[str, Any] = {}
    renamed: dict[str, Any] = {}
    for key, value in tree.items():
        field = schema.model_fields.get(key) if isinstance(key, str) else None
        if field is None and key in schema.aliases:
            renamed[key] = value
            continue
        sub = _sub_schema(field.annotation) if field else None
        if sub and isinstance(value, Mapping) and _is_dict_of(field.annotation if field else None):
            out[key] = {k: _apply_aliases(sub, v, (*at, key, k), notes, moved) for k, v in value.items()}
        else:
            out[key] = _apply_aliases(sub, value, (*at, key), notes, moved) if sub else value
    for key, value in renamed.items():
        target = schema.aliases[key].split(".")
        if _get(out, target) is not None:
            continue_at = ".".join(map(str, (*at, key)))
            raise ConfigError(
                f"{continue_at} and {'.'.join(map(str, (*at, *target)))} say the same thing twice",
                hint="keep one of them",
            )
        out = _with(out, target, value, key)
        moved[(*at, *target)] = (*at, key)
        notes.append(f"{'.'.join(map(str, (*at, key)))} is read as {'.'.join(map(str, (*at, *target)))}")
    return out


def _is_dict_of(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) in (dict, Mapping)


def _get(tree: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _schema_at(schema: type[Config], at: Sequence[str | int]) -> type[Config] | None:
    current: type[Config] | None = schema
    for key in at:
        if current is None:
            return None
        if isinstance(key, int) or key not in current.model_fields:
            continue
        current = _sub_schema(current.model_fields[key].annotation)
    return current


def dotted_fields(schema: type[Config], prefix: str = "") -> list[str]:
    """Every canonical key below a class, dotted."""
    out: list[str] = []
    for name, field in schema.model_fields.items():
        out.append(prefix + name)
        if sub := _sub_schema(field.annotation):
            out += dotted_fields(sub, f"{prefix}{name}.")
    return out


def _explain(
    schema: type[Config],
    error: ValidationError,
    where: str,
    lines: Mapping[KeyPath, int],
    overrides: Mapping[KeyPath, str],
    moved: Mapping[KeyPath, KeyPath],
) -> ConfigError:
    first = error.errors()[0]
    loc: KeyPath = tuple(first["loc"])
    written = moved.get(loc, loc)
    key = ".".join(map(str, written)) or "(top level)"
    place = next((f"override {t}" for k, t in overrides.items() if written[: len(k)] == k), None)
    if place is None:
        line = next((lines[written[:i]] for i in range(len(written), -1, -1) if written[:i] in lines), None)
        place = f"{where}:{line}" if line else where
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return ConfigError(f"unknown key {key!r}{more}", where=place, hint=_did_you_mean(schema, loc))
    if first["type"] == "missing":
        return ConfigError(f"the key {key!r} is required{more}", where=place, hint=f"add {loc[-1]}: ... there")
    message = re.sub(r"^(Value error|Assertion failed), ", "", first["msg"])
    what, _, hint = message.partition("\nhint: ")
    got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return ConfigError(f"{key}: {what}{got}{more}", where=place, hint=hint or _field_help(schema, loc))


def _did_you_mean(schema: type[Config], loc: KeyPath) -> str:
    name = str(loc[-1])
    here = _schema_at(schema, loc[:-1])
    known = list(here.model_fields) if here else []
    if here and name in here.explained:
        return here.explained[name]
    if near := difflib.get_close_matches(name, [*known, *(here.aliases if here else {})], 1, 0.6):
        return f"did you mean {near[0]!r}?"
    elsewhere = [f for f in dotted_fields(schema) if f.rsplit(".", 1)[-1] == name or f == name]
    for section, field in schema.model_fields.items():
        sub = _sub_schema(field.annotation)
        if sub and name in sub.aliases:
            elsewhere.append(f"{section}.{sub.aliases[name]}")
    if elsewhere:
        return f"it belongs at {elsewhere[0]!r}"
    return f"known here: {', '.join(known)}" if known else "remove it"


def _field_help(schema: type[Config], loc: KeyPath) -> str | None:
    names = [k for k in loc if isinstance(k, str)]
    while names:
        here = _schema_at(schema, names[:-1])
        if here and names[-1] in here.model_fields:
            text = here.model_fields[names[-1]].description or ""
            return re.sub(r"\s+", " ", text).strip() or None
        names.pop()
    return None
