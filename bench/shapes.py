"""What the benchmarks share: models of Qwen's shapes with random weights, rows of tokens, and the machine's own rate at those shapes."""

from __future__ import annotations

import random
import time
from typing import Any

import torch
from torch.nn import functional

SHAPES = {
    "0.1B": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 9, "num_key_value_heads": 3},
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2},
}
VOCABULARY = {"0.1B": 49152, "0.5B": 151936, "1.5B": 151936}


def random_network(size: str, n_layers: int | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """A network of that shape; ``n_layers`` instead of all of them where given."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    shape = SHAPES[size] | ({"num_hidden_layers": n_layers} if n_layers else {})
    config = Qwen2Config(vocab_size=VOCABULARY[size], tie_word_embeddings=True, max_position_embeddings=32768, **shape)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def arithmetic(asked: str) -> str:
    """Name of the dtype that is asked for; of ``auto`` what a run takes on this processor."""
    from weitiao.model.facts import pick_dtype

    return str(pick_dtype(asked, torch.device("cpu"))).removeprefix("torch.")


def body_parameters(network: Any) -> int:
    """Parameters of the decoder layers."""
    return sum(weight.numel() for name, weight in network.named_parameters() if ".layers." in name and "lora" not in name)


def useful_flop(n_tokens: int, n_answers: int, lengths: list[int], config: Any, n_body: int, *, full: bool) -> float:
    """Operations that one forward and backward needs: 2 per parameter and token forward, as many for activations' gradients, as many again
    for the weights' where they are trained; the head where it is used; attention's two products below the diagonal, twice backward."""
    factor = 6 if full else 4
    head = factor * n_answers * config.vocab_size * config.hidden_size
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    attention = sum(3 * 2 * length * length * width * config.num_hidden_layers for length in lengths)
    return float(factor * n_tokens * n_body + head + attention)


def gemm_rate(config: Any, n_tokens: int = 1024, dtype: torch.dtype = torch.float32, seconds: float = 2.0) -> float:
    """FLOP/s of plain matrix products at the model's own shapes, each shape weighted by its share of the work; best of each."""
    hidden, inner = config.hidden_size, config.intermediate_size
    head_size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    keys = config.num_key_value_heads * head_size
    shapes = {(hidden, inner): 2, (inner, hidden): 1, (hidden, hidden): 2, (hidden, keys): 2}
    work = taken = 0.0
    for (n_in, n_out), count in shapes.items():
        x, w = torch.randn(n_tokens, n_in, dtype=dtype), torch.randn(n_out, n_in, dtype=dtype)
        best, until = float("inf"), time.monotonic() + seconds / len(shapes)
        while time.monotonic() < until or best == float("inf"):
            started = time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
            functional.linear(x, w)
            ended = time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
            best = min(best, ended - started)
        work += count * 2 * n_tokens * n_in * n_out
        taken += count * best
    return work / taken


def token_rows(n: int, shortest: int, longest: int, n_answer: int, seed: int = 0, n_vocabulary: int = 40000) -> list[Any]:
    """Rows of random tokens, lengths even between two bounds, the last ``n_answer`` trained."""
    from weitiao.seams import IGNORED, EncodedRow

    dice = random.Random(seed)
    made = []
    for _ in range(n):
        length = dice.randint(shortest, longest)
        ids = [dice.randrange(10, n_vocabulary) for _ in range(length)]
        made.append(EncodedRow(ids, [IGNORED] * (length - n_answer) + ids[-n_answer:], (length,)))
    return made
