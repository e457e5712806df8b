"""How far a student's distribution is from a teacher's. Everything is in log space and float32.

P is the teacher, Q the student, both softened by the temperature T; the gradient of a softened divergence shrinks as
1 / T^2, so the loss is scaled by T^2 (Hinton, Vinyals & Dean, 2015, arXiv:1503.02531, section 2.1).

    forward_kl   KL(P | Q)
    reverse_kl   KL(Q | P)
    jsd          beta KL(P | M) + (1 - beta) KL(Q | M),  M = beta P + (1 - beta) Q
                 (Agarwal et al., 2024, arXiv:2306.13649, section 2; what TRL's generalized_jsd_loss computes)

**Top k.** Of a cached teacher only its k most likely tokens and the mass of all others are known. Both distributions are
then looked at through the same k + 1 events: "token i" for each of the k, and "any other token". P has the stored
probabilities and 1 - their sum; Q has its own for the same tokens and 1 - *their* sum. Both add up to one, so every
divergence above is a proper one: not negative, zero where the student agrees on the k tokens and on the rest as a whole.
Merging events never raises a divergence (data processing inequality; Cover & Thomas, 2006, section 2.8), so the loss
is a lower bound of the full one, and what it misses is only how the rest is shared out. Renormalising the k tokens
instead, as some do, would teach the student that the rest is impossible.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from tuneloop.train.sections import DistilConfig


def divergence(teacher_NE: Tensor, student_NE: Tensor, config: DistilConfig) -> Tensor:
    """Divergence of N pairs of distributions over E events, in nats, times temperature squared.

    Args:
        teacher_NE: Log-probabilities, softened already, finite; no gradient flows into them.
        student_NE: The same of the student.
        config: Which divergence; its temperature and beta.
    """
    if config.divergence == "forward_kl":
        out_N = _kl(teacher_NE, student_NE)
    elif config.divergence == "reverse_kl":
        out_N = _kl(student_NE, teacher_NE)
    else:
        mixture_NE = torch.logaddexp(teacher_NE + math.log(config.beta), student_NE + math.log1p(-config.beta))
        out_N = config.beta * _kl(teacher_NE, mixture_NE) + (1 - config.beta) * _kl(student_NE, mixture_NE)
    return out_N * config.temperature**2


def _kl(p_NE: Tensor, q_NE: Tensor) -> Tensor:
    """KL(p | q) of log-probabilities; torch's function takes its arguments the other way round."""
    return kl_div(q_NE, p_NE, reduction="none", log_target=True).sum(-1)


def soften(logits_NV: Tensor, temperature: float, width: int) -> Tensor:
    """Log-probabilities over the first ``width`` tokens."""
    return log_softmax(logits_NV[:, :width].float() / temperature, dim=-1)


def best(log_probs_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most likely tokens (int64, N x k), and the log-probabilities of these and of all others (N x (k + 1)).

    k must be smaller than the vocabulary, so that there is a rest.
    """
    values_Nk, tokens_Nk = log_probs_NV.topk(k, dim=-1)
    return tokens_Nk, torch.cat([values_Nk, _rest(log_probs_NV, tokens_Nk)], dim=-1)


def seen_through(log_probs_NV: Tensor, tokens_Nk: Tensor) -> Tensor:
    """A distribution over the k tokens and the rest: N x (k + 1) log-probabilities."""
    return torch.cat([log_probs_NV.gather(1, tokens_Nk), _rest(log_probs_NV, tokens_Nk)], dim=-1)


def _rest(log_probs_NV: Tensor, tokens_Nk: Tensor) -> Tensor:
    """Log of the mass of all other tokens, summed as such: 1 - the sum of the best loses all digits where they are sure."""
    return log_probs_NV.scatter(1, tokens_Nk, float("-inf")).logsumexp(dim=-1, keepdim=True)
