"""Protobuf messages <-> the JSON bodies of the HTTP routes, which check and shape everything."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from tuneloop.serve.api_error import ApiError

M = TypeVar("M", bound=Message)
AS_JSON = "_json"
"""A field ``x_json`` holds the body's ``x`` as JSON text."""


def to_body(message: Message) -> dict[str, Any]:
    """The fields that are set, under the names of the HTTP body.

    Raises:
        ApiError: 400, a field with JSON in it holds something else.
    """
    out: dict[str, Any] = {}
    for field, value in message.ListFields():
        name, plain = field.name, _plain(field, value)
        if name.endswith(AS_JSON):
            name = name.removesuffix(AS_JSON)
            try:
                plain = json.loads(plain)
            except (ValueError, RecursionError):
                raise ApiError(400, f"{field.name} is not valid JSON", param=name, code="invalid_json") from None
        out[name] = plain
    return out


def to_message(kind: type[M], body: dict[str, Any]) -> M:
    """A body of the HTTP routes as a message; null means not set. A field that the proto lacks is a ``ParseError``."""
    message = kind()
    return ParseDict(_fitted(message.DESCRIPTOR, body), message)  # type: ignore[no-any-return]


def _plain(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [to_body(item) if field.message_type is not None else item for item in value]
    return to_body(value) if field.message_type is not None else value


def _fitted(descriptor: Descriptor, body: dict[str, Any]) -> dict[str, Any]:
    """Without nulls, and with the fields as text that the proto has as JSON."""
    out: dict[str, Any] = {}
    for name, value in body.items():
        field = descriptor.fields_by_name.get(name)
        if value is None:
            continue
        if field is None and name + AS_JSON in descriptor.fields_by_name:
            out[name + AS_JSON] = json.dumps(value, ensure_ascii=False)
        elif field is None or field.message_type is None:
            out[name] = value
        elif field.is_repeated:
            out[name] = [_fitted(field.message_type, item) for item in value]
        else:
            out[name] = _fitted(field.message_type, value)
    return out
