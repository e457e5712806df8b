"""The stage: bundle -> merged -> GGUF -> parity. What fails parity is kept for inspection and never served."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneloop.chat import Chat
from tuneloop.compress.config import CompressConfig
from tuneloop.compress.parity import Parity, compare
from tuneloop.data import read_records
from tuneloop.errors import DataError, need
from tuneloop.models import Bundle, load_model, load_tokenizer, open_bundle, seal, staging
from tuneloop.progress import log
from tuneloop.rundir import RunDir, read_json
from tuneloop.types import Dropped, Record

BUNDLE, RESULT = "bundle", "compress.json"


@dataclass(frozen=True, slots=True)
class Compressed:
    """A compressed bundle. ``sizes_bytes``: the weights of the original as trained ('float32'), at 16 bit, and as written."""

    bundle: Bundle
    quantisation: str
    sizes_bytes: Mapping[str, int]
    parity: Parity


def run(config: CompressConfig, bundle: Bundle, records_folder: Path, out: RunDir) -> Compressed:
    """Compress a bundle and compare it with the original on answers of the test split.

    Raises:
        ModelError: An architecture that cannot be exported.
    """
    model, tokenizer = load_model(bundle, merge=True), load_tokenizer(bundle)
    log(f"  writing {config.quantisation} GGUF")
    base = bundle.base or bundle.path
    facts = dict(bundle.manifest.get("facts", {}))
    name = f"{base.name}-tuned"
    with staging(out / BUNDLE) as folder:
        from tuneloop.compress.gguf_file import write_gguf

        write_gguf(
            model, tokenizer, folder / f"model.{config.quantisation.upper()}.gguf", config.quantisation, name=name
        )
        _copy_tokenizer(tokenizer, model, folder)
        parity = check(config, model, tokenizer, Bundle(folder, "gguf"), records_folder)
        facts |= {"parity": parity.to_json()}
        seal(folder, "gguf", facts, precision=config.quantisation, base=base)
    compressed = open_bundle(out / BUNDLE)
    parameters = sum(p.numel() for p in model.parameters())
    sizes = {
        "float32": parameters * 4,
        "16 bit": parameters * 2,
        config.quantisation: compressed.gguf_file.stat().st_size,
    }
    result = Compressed(compressed, config.quantisation, sizes, parity)
    out.write_json(
        RESULT,
        {
            "quantisation": config.quantisation,
            "sizes_bytes": sizes,
            "parameters": parameters,
            "parity": parity.to_json(),
        },
    )
    log(f"  parity: {parity.reason}")
    return result


def load(out: RunDir) -> Compressed:
    """Read a finished compression."""
    facts = read_json(out / RESULT)
    return Compressed(open_bundle(out / BUNDLE), facts["quantisation"], facts["sizes_bytes"], Parity(**facts["parity"]))


def check(config: CompressConfig, model: Any, tokenizer: Any, compressed: Bundle, records_folder: Path) -> Parity:
    """Parity of a compressed bundle against the model it was made from."""
    chat = Chat(tokenizer)
    records = _spread(read_records(records_folder, "test"), config.parity_prompts)
    lost: list[Dropped] = []
    sequences = [(e.input_ids, e.loss_mask.index(True)) for r in records for e in chat.examples(r, dropped=lost)]
    if lost:
        log(f"  {len(lost)} answers cannot be compared, e.g. {lost[0].id}: {lost[0].reason}")
    if not sequences:
        raise DataError(
            "no answer of the test split can be compared", where=str(records_folder), hint="see report.html there"
        )
    theirs = Chat(load_tokenizer(compressed))
    equal = _same_vocabulary(tokenizer, compressed) and all(
        chat.prompt_ids(r.prompt, r.tools) == theirs.prompt_ids(r.prompt, r.tools) for r in records
    )
    parity = compare(model, load_model(compressed), sequences, token_ids_equal=equal)
    failures = [
        text
        for failed, text in (
            (not equal, "the tokenizer in the file gives other token ids"),
            (parity.mean_kl > config.max_mean_kl, f"mean KL {parity.mean_kl:.2g} > {config.max_mean_kl}"),
            (
                parity.greedy_agreement < config.min_greedy_agreement,
                f"greedy agreement {parity.greedy_agreement:.1%} < {config.min_greedy_agreement:.0%}",
            ),
        )
        if failed
    ]
    reason = "; ".join(failures) or (
        f"same token ids, mean KL {parity.mean_kl:.2g} nats, greedy agreement {parity.greedy_agreement:.1%}"
        f" over {parity.positions} positions"
    )
    return dataclasses.replace(parity, ok=not failures, reason=reason)


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    """``count`` records, evenly spread."""
    if len(records) <= count:
        return list(records)
    return [records[i * len(records) // count] for i in range(count)]


def _copy_tokenizer(tokenizer: Any, model: Any, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def _same_vocabulary(tokenizer: Any, bundle: Bundle) -> bool:
    """Whether tokens, merges, end token and template inside the GGUF are the tokenizer's own."""
    gguf: Any = need("gguf", "train")
    fields = gguf.GGUFReader(bundle.gguf_file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    ours = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
    return bool(
        all(tokens[i] == token for token, i in tokenizer.get_vocab().items())
        and merges == ours
        and fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
        and fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    )
