"""Names of persons, places and organisations, through presidio-analyzer and a spaCy model from a local folder.

A name has no checksum: a model guesses it from the sentence. That is slow, never complete, and impossible in a stream.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tuneloop.data.personal.scan import Span
from tuneloop.errors import ConfigError, need

TYPES = ("NAME", "ADDRESS", "ORGANIZATION")
_PRESIDIO = {"PERSON": "NAME", "LOCATION": "ADDRESS", "ORGANIZATION": "ORGANIZATION"}
_SPACY = {
    "PERSON": "PERSON", "PER": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION", "ORG": "ORGANIZATION",
}  # fmt: skip
"""Labels of spaCy's models (OntoNotes, WikiNER) -> presidio's entities."""


class Names:
    """Finds names with one spaCy model.

    Args:
        model: Folder with the model's ``meta.json``.

    Raises:
        ConfigError: There is no spaCy model in the folder.
        MissingExtraError: presidio-analyzer is not installed.
    """

    def __init__(self, model: Path) -> None:
        presidio = need("presidio_analyzer", "names")
        engines = need("presidio_analyzer.nlp_engine", "names")
        recognizers = need("presidio_analyzer.predefined_recognizers", "names")
        self._language = _language(model)
        labels = engines.NerModelConfiguration(model_to_presidio_entity_mapping=_SPACY, labels_to_ignore=[])
        engine = engines.SpacyNlpEngine(
            models=[{"lang_code": self._language, "model_name": str(model)}], ner_model_configuration=labels
        )
        registry = presidio.RecognizerRegistry(supported_languages=[self._language])
        registry.add_recognizer(
            recognizers.SpacyRecognizer(
                supported_language=self._language, supported_entities=list(_PRESIDIO), check_label_groups=[]
            )
        )
        self._analyzer: Any = presidio.AnalyzerEngine(
            registry=registry, nlp_engine=engine, supported_languages=[self._language]
        )

    def find(self, text: str, types: Sequence[str] = TYPES) -> list[Span]:
        """Names in a text, by position, without overlaps."""
        wanted = [entity for entity, kind in _PRESIDIO.items() if kind in types]
        found = self._analyzer.analyze(text, language=self._language, entities=wanted)
        return add([], sorted((Span(_PRESIDIO[r.entity_type], r.start, r.end) for r in found), key=lambda s: s[1:]))


@lru_cache(maxsize=1)
def load(model: Path) -> Names:
    """One model a process: it takes seconds to load, and a step is applied to many frames."""
    return Names(model)


def _language(model: Path) -> str:
    """The language that a spaCy model's ``meta.json`` names."""
    try:
        meta = json.loads((model / "meta.json").read_text(encoding="utf-8"))
        return str(meta["lang"])
    except (OSError, ValueError, KeyError):
        raise ConfigError(
            "there is no spaCy model in this folder (no meta.json that names its language)",
            where=str(model),
            hint="unpack a spaCy model wheel such as en_core_web_lg and name the folder that holds meta.json",
        ) from None


def add(certain: Sequence[Span], more: Sequence[Span]) -> list[Span]:
    """Spans by position; of ``more`` those that overlap nothing before them."""
    spans = list(certain)
    for span in more:
        if all(span.end <= other.start or span.start >= other.end for other in spans):
            spans.append(span)
    return sorted(spans, key=lambda s: s.start)
