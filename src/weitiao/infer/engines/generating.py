"""What engines can do that only generate: choose a label by a constraint. What they cannot, they refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from weitiao.errors import EngineError
from weitiao.seams import Answer, Constraint, Engine, Sample, Sampling


class GeneratingEngine(Engine):
    """An engine out of its ``generate`` alone, which those that inherit bring."""

    name: str
    """What messages call the engine."""

    def score_labels(self, samples: Sequence[Sample], labels: Callable[[Sample], Sequence[str]]) -> Iterator[tuple[int, Answer]]:
        """Let the model choose among the labels; no probabilities.

        Args:
            samples: conversations; an answer at their end is left out.
            labels: the candidates of a sample.

        Returns:
            ``(index, answer)`` as answers come, without ``label_probabilities``.
        """
        longest = max((len(label) for sample in samples for label in labels(sample)), default=1)
        # A character has at most four tokens in a byte-level vocabulary; the stop token comes on top.
        return self.generate(samples, Sampling(max_new_tokens=4 * longest + 1), lambda sample: Constraint(choices=tuple(labels(sample))))

    def likelihood(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Answer]]:
        """Refused: nothing tells the likelihood of a given answer.

        Args:
            samples: not looked at.

        Returns:
            Nothing.

        Raises:
            EngineError: always.
        """
        raise EngineError(f"{self.name} does not tell the likelihood of an answer ({len(samples)} rows)", hint="use --engine embedded")
