"""Label scoring: how likely each candidate is as the whole answer.

A label's probability is that of its tokens **and the stop token after them**, one after the other, divided by the sum over the row's
candidates. With the stop token in it, this is the model's own probability of giving exactly that answer, given that it answers with
one of the candidates: labels of different length compare as they are, because "stop here" and "go on" share the probability of every
common beginning. Dividing by the number of tokens would favour labels whose later tokens follow from the first ones, and the numbers
would no longer be probabilities; so it is not done.

The prompt is read once, and the candidates with it: they hang below it as a tree, equal beginnings once, in which each token sees the
prompt and its own ancestors only.

Shape letters: N tokens of the pass, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weitiao.errors import EngineError
from weitiao.infer.batches import Prompt
from weitiao.infer.cache import Prefix, SlotCache
from weitiao.infer.network import Reader, token_log_probs
from weitiao.infer.spans import ROOT, Span
from weitiao.infer.vision import prompt_span
from weitiao.seams import Answer, Renderer, Sample, Vision, text_message

MAX_KNOWN = 10_000
"""Labels whose tokens are kept."""


@dataclass(slots=True)
class Tree:
    """Token sequences with common beginnings merged; node ``i`` is a token that is read, its parent comes before it."""

    token_ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)
    """Per sequence, the nodes after which its tokens come: ``ROOT``, then all its own but the last."""


def plant(sequences: Sequence[Sequence[int]]) -> Tree:
    """Merge token sequences into a tree.

    Args:
        sequences: at least one token each.

    Returns:
        The tree, without the last token of each sequence: nothing follows it, so it need not be read.

    Example: (5, 6, 9) and (5, 9) give the tokens 5, 6 with parents ROOT, 0 and the paths (ROOT, 0, 1) and (ROOT, 0).
    """
    tree = Tree()
    known: dict[tuple[int, int], int] = {}
    for sequence in sequences:
        path = [ROOT]
        for token in sequence[:-1]:
            key = (path[-1], token)
            if key not in known:
                known[key] = len(tree.token_ids)
                tree.token_ids.append(token)
                tree.parents.append(path[-1])
            path.append(known[key])
        tree.paths.append(path)
    return tree


class LabelTokens:
    """Tokens of labels as answers, stop token included, each rendered once."""

    def __init__(self, renderer: Renderer) -> None:
        """Keep the renderer, the only one who knows how text becomes tokens."""
        self._renderer = renderer
        self._known: dict[str, tuple[int, ...]] = {}

    def of(self, label: str, sample: Sample) -> tuple[int, ...]:
        """Tokens of a label.

        Args:
            label: the text of the answer.
            sample: a conversation in which it could be the answer.

        Returns:
            Its tokens, the last being the stop token; they do not depend on what was asked.
        """
        if label not in self._known:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            question = [message for message in sample.prompt if message.role == "system"][:1]
            rendered = self._renderer.conversation([*question, text_message("user", "?"), text_message("assistant", label)])
            self._known[label] = tuple(token for token, on in zip(rendered.input_ids, rendered.trained, strict=True) if on)
        return self._known[label]


def score_batch(
    reader: Reader,
    cache: SlotCache,
    prompts: Sequence[Prompt],
    prefix: Prefix | None,
    vision: Vision | None,
    *,
    candidates: Sequence[Sequence[str]],
    sequences: Sequence[Sequence[Sequence[int]]],
) -> list[tuple[int, Answer]]:
    """Score the candidates of each prompt, in one pass over prompts and candidates.

    Args:
        reader: reads tokens.
        cache: without rows, and left so.
        prompts: the batch.
        prefix: what all prompts begin with, or None.
        vision: of a vision model.
        candidates: per prompt, its labels, all different.
        sequences: per prompt, the tokens of its labels, stop token included.

    Returns:
        ``(prompt.index, answer)`` with the likeliest label and the probability of each.
    """
    n_prefix = len(prefix.token_ids) if prefix else 0
    trees = [plant(row) for row in sequences]
    cache.reserve(len(prompts), max(len(prompt.token_ids) + len(tree.token_ids) for prompt, tree in zip(prompts, trees, strict=True)))
    spans = [
        prompt_span(vision, prompt, cache.open(prefix, n_prefix), n_prefix, tree.token_ids, tree.parents)
        for prompt, tree in zip(prompts, trees, strict=True)
    ]
    hidden_NH = reader.read(cache, spans)
    cache.lengths.clear()
    sums = _log_probs(reader, hidden_NH, spans, trees, sequences)
    return [(prompts[i].index, _answer(prompts[i], candidates[i], sequences[i], sums[i])) for i in range(len(prompts))]


def distinct_candidates(sample: Sample, labels: Sequence[str]) -> list[str]:
    """A row's candidates, each once; raises ``EngineError`` where there is none."""
    distinct = list(dict.fromkeys(labels))
    if not distinct:
        raise EngineError("there is no label to choose from", where=sample.origin, hint="name the labels in the recipe's task section")
    return distinct


def _answer(prompt: Prompt, candidates: Sequence[str], sequences: Sequence[Sequence[int]], sums: Tensor) -> Answer:
    probabilities = sums.double().softmax(dim=0).tolist()
    best = max(range(len(candidates)), key=probabilities.__getitem__)
    return Answer(
        text=candidates[best],
        n_prompt_tokens=len(prompt.token_ids),
        n_new_tokens=len(sequences[best]),
        ended_by="stop",
        label_probabilities=dict(zip(candidates, probabilities, strict=True)),
    )


def _log_probs(
    reader: Reader, hidden_NH: Tensor, spans: Sequence[Span], trees: Sequence[Tree], sequences: Sequence[Sequence[Sequence[int]]]
) -> list[Tensor]:
    """Per prompt, the summed log probability of each of its sequences."""
    positions: list[int] = []
    tokens: list[int] = []
    n_before = 0
    for span, tree, row_sequences in zip(spans, trees, sequences, strict=True):
        first_node = n_before + len(span.token_ids) - len(tree.token_ids)
        for path, sequence in zip(tree.paths, row_sequences, strict=True):
            # ROOT is -1: the token before the first node.
            positions += [first_node + node for node in path]
            tokens += sequence
        n_before += len(span.token_ids)
    found = token_log_probs(reader, hidden_NH, positions, tokens)
    sums = iter(torch.split(found, [len(sequence) for row in sequences for sequence in row]))
    return [torch.stack([next(sums).sum() for _ in row]) for row in sequences]
