"""WordNet's own files (Princeton, versions 2 to 3.1), read where they lie: nothing is loaded or downloaded.

Formats: the manual pages wndb(5WN) (index and data files) and morphy(7WN) (detachment rules, exception lists).
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tuneloop.errors import ConfigError

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
_REPLACED = ("noun", "adj", "adv")
"""Verbs of one synset take different objects (tell me, but not say me), so they are left alone."""
_SENSE_KEY_DIGIT = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}
_SELDOM = 3
_RARER = 5
"""Word and answer were tagged at least ``_SELDOM`` times, and the answer is at most ``_RARER`` times rarer: no hebdomad for week."""
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        about above across after against along although amid among another anybody anyone anything around because been
        before behind below beneath beside besides between beyond both cannot cant could despite does dont down during
        each either else even ever every everybody everyone everything except from have having here hers herself himself
        however inside instead into itself just less like many might mine more most much must myself near neither never
        nobody none nothing once only onto other others ought ours outside over past rather same shall should since some
        somebody someone something such than that their theirs them then there these they this those though through
        throughout till today together tomorrow toward towards under underneath unless until upon very well were what
        whatever when whenever where whereas wherever whether which whichever while whoever whom whose will with within
        without wont would yesterday your yours yourself
        """,
    )
)
"""WordNet has no prepositions, pronouns and conjunctions, and takes those that look like a noun or an adverb for one."""
_ENDINGS = {
    "noun": (("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")),
    "verb": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
}  # fmt: skip
"""Rules of detachment of morphy(7WN): ending -> what stands there in the base form."""


class Sense(NamedTuple):
    """The most frequent sense of a word as one part of speech: where its synset stands, and how many senses were tagged."""

    synset: int
    tagged_senses: int


class WordNet:
    """A folder with index.noun, data.noun, noun.exc ... (Debian: package ``wordnet-base``, /usr/share/wordnet).

    Raises:
        ConfigError: The folder has no such files.
    """

    def __init__(self, folder: Path) -> None:
        self._index, self._data, self._irregular = {}, {}, {}
        for part in PARTS_OF_SPEECH:
            self._index[part] = _mapped(folder / f"index.{part}")
            self._data[part] = _mapped(folder / f"data.{part}")
            exceptions = folder / f"{part}.exc"
            lines = exceptions.read_text(encoding="ascii").splitlines() if exceptions.is_file() else []
            self._irregular[part] = {line.split(" ", 1)[0] for line in lines if line}
        self._counts = _mapped(folder / "cntlist.rev")
        self.synonyms = lru_cache(maxsize=100_000)(self._synonyms)

    def sense(self, word: str, part: str) -> Sense | None:
        """Its first sense, or None where the word is no such part of speech."""
        line = next(_lines(self._index[part], f"{word} "), None)
        if line is None:
            return None
        # lemma pos synset_cnt p_cnt [ptr_symbol...] sense_cnt tagsense_cnt synset_offset...
        fields = line.split()
        at = 4 + int(fields[3])
        return Sense(int(fields[at + 2]), int(fields[at + 1]))

    def frequency(self, word: str, part: str) -> int:
        """How often its first sense was tagged in WordNet's semantic concordance."""
        for line in _lines(self._counts, f"{word}%"):
            key, sense_number, count = line.split()
            if sense_number == "1" and _SENSE_KEY_DIGIT[key[len(word) + 1]] == part:
                return int(count)
        return 0

    def part_of_speech(self, word: str) -> str | None:
        """What the word is in practice: its only part of speech, or the only one it has in WordNet's tagged texts.

        None where that is not certain, and where the word may be the inflected form of another one.
        """
        found = {part: sense for part in PARTS_OF_SPEECH if (sense := self.sense(word, part))}
        tagged = [part for part, sense in found.items() if sense.tagged_senses]
        certain = tagged or list(found)
        return certain[0] if len(certain) == 1 and not self._may_be_inflected(word) else None

    def _may_be_inflected(self, word: str) -> bool:
        if any(word in irregular for irregular in self._irregular.values()):
            return True
        return any(
            word.endswith(ending) and self.sense(word.removesuffix(ending) + base, part)
            for part, endings in _ENDINGS.items()
            for ending, base in endings
        )

    def _synonyms(self, word: str) -> tuple[str, ...]:
        """Words in use whose most frequent sense is the most frequent sense of this one; () where nothing is certain.

        Args:
            word: In lower case. Compounds of several words and proper names are no answers.
        """
        part = None if word in _FUNCTION_WORDS else self.part_of_speech(word)
        if part not in _REPLACED:
            return ()
        sense = self.sense(word, part)
        assert sense is not None
        seen = self.frequency(word, part)
        if seen < _SELDOM:
            return ()
        enough = max(_SELDOM, seen / _RARER)
        return tuple(
            other
            for other in self._words(part, sense.synset)
            if other not in _FUNCTION_WORDS | {word}
            and self.frequency(other, part) >= enough
            and self.part_of_speech(other) == part
            and self._means(other, part, sense.synset)
        )

    def _means(self, word: str, part: str, synset: int) -> bool:
        sense = self.sense(word, part)
        return sense is not None and sense.synset == synset

    def _words(self, part: str, synset: int) -> list[str]:
        """Plain words of a synset, in its order: no underscores, capitals, digits or syntactic markers."""
        data = self._data[part]
        # synset_offset lex_filenum ss_type w_cnt(hexadecimal) word lex_id [word lex_id...] p_cnt ...
        fields = data[synset : data.find(b"\n", synset)].decode("ascii").split()
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        return [word for word in words if re.fullmatch("[a-z]+", word)]


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"not a WordNet folder: {error.strerror if isinstance(error, OSError) else error}",
            where=str(path),
            hint="on Debian: apt install wordnet-base, then wordnet: /usr/share/wordnet",
        ) from None


def _lines(file: mmap.mmap, prefix: str) -> Iterator[str]:
    """The lines that begin so: binary search over the bytes of a sorted file, as WordNet's own library does it."""
    wanted = prefix.encode("ascii", "replace")
    low, high = 0, len(file)
    while low < high:  # low: the first line not known to stand before the prefix
        start = file.rfind(b"\n", low, (low + high) // 2) + 1 or low
        end = file.find(b"\n", start) + 1 or len(file)
        if file[start : start + len(wanted)] < wanted:
            low = end
        else:
            high = start
    while file[low : low + len(wanted)] == wanted:
        end = file.find(b"\n", low) + 1 or len(file)
        yield file[low:end].decode("ascii").rstrip("\n")
        low = end
