"""Label scoring: how likely each candidate is as the whole answer.

A label's probability is that of its tokens **and the stop token after them**, one after the other, divided by the sum over the row's
candidates. With the stop token in it, this is the model's own probability of giving exactly that answer, given that it answers with
one of the candidates: labels of different length compare as they are, because "stop here" and "go on" share the probability of every
common beginning. Dividing by the number of tokens would favour labels whose later tokens follow from the first ones, and the numbers
would no longer be probabilities; so it is not done.

The prompt is read once. The candidates hang below it as a tree, equal beginnings once, and are read in one more pass in which each
token sees the prompt and its own ancestors only.

Shape letters: B rows, N tree tokens (padded), T columns of the cache, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weitiao.errors import EngineError
from weitiao.infer.batches import Prompt
from weitiao.infer.cache import RoomyCache
from weitiao.infer.network import Network, Reading, arithmetic_dtype, read_batch, token_log_probs
from weitiao.infer.vision import Seen
from weitiao.seams import Answer, Renderer, Sample, text_message

ROOT = -1
"""Parent of a label's first token: the prompt's last token."""
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
    network: Network,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    prefix: RoomyCache | None,
    seen: Seen | None,
    *,
    candidates: Sequence[Sequence[str]],
    sequences: Sequence[Sequence[Sequence[int]]],
) -> list[tuple[int, Answer]]:
    """Score the candidates of each prompt.

    Args:
        network: the plain network, in eval mode, without gradients.
        renderer: gives the padding token.
        prompts: the batch.
        prefix: keys and values of what all prompts begin with, or None.
        seen: the batch's pictures, or None.
        candidates: per prompt, its labels, all different.
        sequences: per prompt, the tokens of its labels, stop token included.

    Returns:
        ``(prompt.index, answer)`` with the likeliest label and the probability of each.
    """
    n_prefix = prefix.get_seq_length() if prefix else 0
    reading = read_batch(network, [prompt.token_ids[n_prefix:] for prompt in prompts], prefix, renderer.pad_token_id, seen)
    trees = [plant(row) for row in sequences]
    sums = _log_probs(network, reading, trees, sequences, renderer.pad_token_id)
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
    network: Network, reading: Reading, trees: Sequence[Tree], sequences: Sequence[Sequence[Sequence[int]]], pad_token_id: int
) -> list[Tensor]:
    """Per prompt, the summed log probability of each of its sequences."""
    n_rows, n_nodes = len(trees), max(len(tree.token_ids) for tree in trees)
    hidden = torch.cat([reading.hidden[:, None], _read_trees(network, reading, trees, n_nodes, pad_token_id)], dim=1)
    positions: list[int] = []
    tokens: list[int] = []
    for row, (tree, row_sequences) in enumerate(zip(trees, sequences, strict=True)):
        for path, sequence in zip(tree.paths, row_sequences, strict=True):
            positions += [row * (n_nodes + 1) + node + 1 for node in path]
            tokens += sequence
    found = token_log_probs(network, hidden.reshape(n_rows * (n_nodes + 1), -1), positions, tokens)
    sums = iter(torch.split(found, [len(sequence) for row in sequences for sequence in row]))
    return [torch.stack([next(sums).sum() for _ in row]) for row in sequences]


def _read_trees(network: Network, reading: Reading, trees: Sequence[Tree], n_nodes: int, pad_token_id: int) -> Tensor:
    """Hidden states after each tree token, (B, N, H); states of padding mean nothing."""
    if n_nodes == 0:
        return reading.hidden[:, None][:, :0]
    device, n_rows = network.device, len(trees)
    chunk_BN = torch.full((n_rows, n_nodes), pad_token_id)
    depth_BN = torch.zeros(n_rows, n_nodes, dtype=torch.long)
    sees_BNN = torch.eye(n_nodes, dtype=torch.bool).repeat(n_rows, 1, 1)
    for row, tree in enumerate(trees):
        for node, (token, parent) in enumerate(zip(tree.token_ids, tree.parents, strict=True)):
            chunk_BN[row, node] = token
            if parent != ROOT:
                depth_BN[row, node] = depth_BN[row, parent] + 1
                sees_BNN[row, node] |= sees_BNN[row, parent]
    prompt_BNT = reading.mask[:, None].expand(-1, n_nodes, -1)
    visible_BNT = torch.cat([prompt_BNT, sees_BNN.to(device)], dim=-1)
    dtype = arithmetic_dtype(network)
    mask_B1NT = torch.zeros(visible_BNT.shape, dtype=dtype, device=device).masked_fill(~visible_BNT, torch.finfo(dtype).min)[:, None]
    output = network.base_model(
        input_ids=chunk_BN.to(device),
        attention_mask=mask_B1NT,
        position_ids=reading.positions[:, None] + depth_BN.to(device),
        past_key_values=reading.cache,
        use_cache=True,
    )
    hidden_BNH: Tensor = output.last_hidden_state
    return hidden_BNH
