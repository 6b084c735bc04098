"""The decoding loop: greedy or seeded sampling, rows leave the batch as they finish.

Shape letters: B rows still answering, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weitiao.errors import EngineError
from weitiao.infer.batches import Prompt
from weitiao.infer.cache import RoomyCache
from weitiao.infer.constrain import Matcher
from weitiao.infer.network import Network, Reading, keep_rows, next_logits, read_batch, read_next
from weitiao.infer.vision import Seen
from weitiao.seams import Answer, EndedBy, Renderer, Sampling


@dataclass(slots=True)
class Row:
    """An answer that is being written."""

    prompt: Prompt
    sampling: Sampling
    matcher: Matcher | None
    generator: torch.Generator | None
    token_ids: list[int] = field(default_factory=list)
    ended_by: EndedBy = "length"


def decode_batch(
    network: Network,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    prefix: RoomyCache | None,
    seen: Seen | None,
    *,
    sampling: Sampling,
    matchers: Sequence[Matcher | None],
) -> Iterator[tuple[int, Answer]]:
    """Answer a batch of prompts.

    Args:
        network: the plain network, in eval mode, without gradients.
        renderer: gives the stop tokens and the text of an answer.
        prompts: the batch.
        prefix: keys and values of what all prompts begin with, or None.
        seen: the batch's pictures, or None.
        sampling: how tokens are chosen, and how many at most.
        matchers: per prompt, what its answer may be; each is used up.

    Yields:
        ``(prompt.index, answer)`` as answers finish.

    Raises:
        EngineError: a constraint cannot be followed.
    """
    n_prefix = prefix.get_seq_length() if prefix else 0
    reading = read_batch(network, [prompt.token_ids[n_prefix:] for prompt in prompts], prefix, renderer.pad_token_id, seen)
    rows = [new_row(prompt, matcher, sampling) for prompt, matcher in zip(prompts, matchers, strict=True)]
    stop_ids = frozenset(renderer.stop_token_ids)
    while True:
        tokens = choose(next_logits(network, reading.hidden), rows, sampling)
        running = []
        for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if take(row, token, stop_ids):
                yield row.prompt.index, answer_of(row, renderer)
            else:
                running.append(i)
        if not running:
            return
        rows, tokens = [rows[i] for i in running], [tokens[i] for i in running]
        _go_on(network, reading, running, tokens)


def _go_on(network: Network, reading: Reading, running: Sequence[int], tokens: Sequence[int]) -> None:
    if len(running) < len(reading.hidden):
        keep_rows(reading, running)
    read_next(network, reading, torch.tensor(tokens, device=network.device))


def new_row(prompt: Prompt, matcher: Matcher | None, sampling: Sampling) -> Row:
    """An answer of which nothing is written yet."""
    return Row(prompt, sampling, matcher, _generator(sampling, prompt.sample.id))


def take(row: Row, token: int, stop_ids: frozenset[int]) -> bool:
    """Add a token to an answer; whether the answer is finished by it."""
    row.token_ids.append(token)
    if token in stop_ids:
        row.ended_by = "stop"
        return True
    if row.matcher:
        row.matcher.take(token, row.prompt.sample.origin)
        if row.matcher.is_complete():
            row.ended_by = "constraint"
            return True
    return len(row.token_ids) == row.sampling.max_new_tokens


def answer_of(row: Row, renderer: Renderer) -> Answer:
    """A row's answer as it stands."""
    return Answer(renderer.decode(row.token_ids), len(row.prompt.token_ids), len(row.token_ids), row.ended_by)


# ---- choosing a token -------------------------------------------------------------------------------------------------


def choose(logits_BV: Tensor, rows: Sequence[Row], sampling: Sampling) -> list[int]:
    """The next token of each row, all of the same sampling; raises ``EngineError`` where the logits are not finite."""
    for logits_V, row in zip(logits_BV, rows, strict=True):
        if row.matcher:
            logits_V.masked_fill_(~row.matcher.allowed(logits_V.shape[0]).to(logits_V.device), -torch.inf)
    if not torch.isfinite(logits_BV.amax(dim=-1)).all():
        raise EngineError("the model's output is not finite", hint="the weights are damaged, or float16 overflows: use bfloat16 or float32")
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1).tolist()  # type: ignore[no-any-return]
    probs_BV = _kept(logits_BV.cpu() / sampling.temperature, sampling).softmax(dim=-1)
    return [int(torch.multinomial(probs_V, 1, generator=row.generator)) for probs_V, row in zip(probs_BV, rows, strict=True)]


def _kept(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Logits with everything outside ``top_k``, then outside ``top_p``, at minus infinity."""
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        smallest_B1 = logits_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest_B1, -torch.inf)
    if sampling.top_p < 1:
        sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
        probs_BV = sorted_BV.softmax(dim=-1)
        # A token stays while the tokens before it hold less than top_p: the likeliest one always does.
        outside_BV = probs_BV.cumsum(dim=-1) - probs_BV >= sampling.top_p
        logits_BV = logits_BV.masked_fill(outside_BV.scatter(-1, order_BV, outside_BV), -torch.inf)
    return logits_BV


def _generator(sampling: Sampling, sample_id: str) -> torch.Generator | None:
    """A source of chance of the row's own, so that an answer does not depend on the rows beside it."""
    if sampling.temperature == 0:
        return None
    digest = hashlib.sha256(f"{sampling.seed}:{sample_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))
