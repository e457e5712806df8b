"""How the next token of one answer is chosen from the model's logits."""

from __future__ import annotations

import torch
from torch import Tensor

from tuneloop.engines.grammar import Guide
from tuneloop.types import Request, Sampling


class Chooser:
    """Bias, penalties and grammar of one answer, then its draw.

    Penalties are OpenAI's (API reference, "frequency and presence penalties"): a token that the answer holds c > 0 times
    loses ``presence_penalty + c * frequency_penalty`` logits.

    Args:
        request: What is wanted.
        device: Where the logits are.
        guide: Its grammar, at the beginning.
    """

    def __init__(self, request: Request, device: torch.device, guide: Guide | None = None) -> None:
        self._sampling, self._device, self.guide = request.sampling, device, guide
        self._bias = dict(request.sampling.logit_bias)
        self._counts: dict[int, int] = {}
        self._generator = _generator(request.sampling, device)

    @property
    def plainly_greedy(self) -> bool:
        """Whether the most probable token is the choice, so that nobody needs to ask."""
        return self._generator is None and self.guide is None and not self._bias and not self._penalised

    @property
    def _penalised(self) -> bool:
        return bool(self._sampling.presence_penalty or self._sampling.frequency_penalty)

    def choose(self, logits_V: Tensor) -> int:
        """The next token.

        Raises:
            DataError: The grammar allows none.
        """
        moved = dict(self._bias)
        if self._penalised:
            for token, count in self._counts.items():
                loss = self._sampling.presence_penalty + count * self._sampling.frequency_penalty
                moved[token] = moved.get(token, 0.0) - loss
        if moved:
            index = torch.tensor(list(moved), device=self._device)
            logits_V = logits_V.index_add(0, index, torch.tensor(list(moved.values()), device=self._device))
        if self.guide is not None:
            allowed_V = torch.from_numpy(self.guide.allowed()).to(self._device)
            logits_V = logits_V.masked_fill(~allowed_V, -torch.inf)
        if self._generator is None:
            return int(logits_V.argmax())
        return draw(logits_V, self._sampling, self._generator)

    def took(self, token: int) -> bool:
        """Count a token that is part of the answer; true when the grammar allows nothing after it."""
        if self._penalised:
            self._counts[token] = self._counts.get(token, 0) + 1
        return self.guide is not None and self.guide.take(token)


def _generator(sampling: Sampling, device: torch.device) -> torch.Generator | None:
    if sampling.temperature <= 0:
        return None
    generator = torch.Generator(device=device)
    if sampling.seed is not None:
        generator.manual_seed(sampling.seed)
    else:
        generator.seed()
    return generator


def draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Temperature, then top-k, then top-p (nucleus; Holtzman et al., 2020), then one draw."""
    scaled = logits_V / sampling.temperature
    if sampling.top_k:
        kth = scaled.topk(min(sampling.top_k, len(scaled))).values[-1]
        scaled = scaled.masked_fill(scaled < kth, -torch.inf)
    p_V = scaled.softmax(-1)
    if sampling.top_p < 1:
        ordered, index = p_V.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0.0
        return int(index[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(p_V, 1, generator=generator))


def most_probable(logits_V: Tensor, normaliser: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """The most probable tokens with the natural logarithms of their probabilities, best first."""
    values, index = logits_V.topk(min(count, len(logits_V)))
    return tuple(zip(index.tolist(), (values - normaliser).tolist(), strict=True))
