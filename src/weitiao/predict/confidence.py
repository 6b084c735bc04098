"""How sure an answer is: by its label's calibrated probability, or by the probability of its own tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from weitiao.errors import EngineError, RowError
from weitiao.seams import Answer, Engine, Sample, text_message


def calibrated(probabilities: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Label probabilities at the temperature that was chosen on validation rows.

    Args:
        probabilities: of each label; sum to 1.
        temperature: above 0; 1 leaves them as they are.

    Returns:
        p^(1/T), normalised, in the same order.

    Example: 0.8 and 0.2 at temperature 2 give 0.667 and 0.333.
    """
    if temperature == 1.0:
        return dict(probabilities)
    logs = [math.log(max(p, 1e-12)) / temperature for p in probabilities.values()]
    largest = max(logs)
    weights = [math.exp(value - largest) for value in logs]
    return {label: weight / sum(weights) for label, weight in zip(probabilities, weights, strict=True)}


def require_likelihood(engine: Engine) -> None:
    """Refuse an engine that cannot tell how likely its own answers are.

    Args:
        engine: asked about nothing.

    Raises:
        EngineError: it has no likelihoods.
    """
    try:
        list(engine.likelihood([]))
    except EngineError as error:
        hint = "leave --min-confidence out, or use --engine embedded"
        raise EngineError("this engine does not tell how likely a generated answer is", where="--min-confidence", hint=hint) from error


def token_confidence(engine: Engine, samples: Sequence[Sample], answers: Sequence[Answer]) -> Iterator[float]:
    """The mean (geometric) probability of an answer's tokens, its end included, in [0, 1].

    Args:
        engine: that gave the answers.
        samples: without an answer of their own.
        answers: one per sample.

    Yields:
        One number per answer, in order. It says how the model hesitated over its words, not how often such answers are right.
    """
    spoken = [replace(s, messages=(*s.prompt, text_message("assistant", a.text))) for s, a in zip(samples, answers, strict=True)]
    try:
        scored = dict(engine.likelihood(spoken))
    except (EngineError, RowError):
        # A single answer that fills the model's positions must not stop the rest: rows are asked about one by one.
        if len(spoken) == 1:
            yield 0.0
            return
        for sample, answer in zip(samples, answers, strict=True):
            yield from token_confidence(engine, [sample], [answer])
        return
    for i in range(len(spoken)):
        yield math.exp(-(scored[i].nll or 0.0) / max(1, scored[i].n_new_tokens))
