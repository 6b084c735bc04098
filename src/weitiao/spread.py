"""The embedded engine in several processes, on this machine or on a cluster, through Ray Data: ``--engine ray[:WORKERS]``.

Rows go out in windows; a worker that dies is started again by Ray, and what it had in work is done again. The run folder must be readable
wherever workers run.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weitiao.errors import CommandError, EngineError, RowError, WeitiaoError, together
from weitiao.seams import Answer, Constraint, Sample, Sampling

WINDOW = 16384
"""Rows of one Ray Data job: workers load the model once per job."""
BLOCK_ROWS = 64
"""Rows that a worker takes at once; the most that is done again when it dies."""
ATTEMPTS = 5
"""How often a block is given out again after its worker died."""


class RayEngine:
    """``seams.Engine`` over workers that each hold the run's model."""

    def __init__(self, ray: Any, run: Path, n_workers: int) -> None:
        """Keep the parts; see ``ray_engine``."""
        self._ray = ray
        self._run = run
        self._n_workers = n_workers

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        constraint: Callable[[Sample], Constraint | None] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Generate an answer to each sample's prompt; see the embedded engine.

        Args:
            samples: conversations; an answer at their end is left out.
            sampling: how tokens are chosen.
            constraint: what a sample's answer may be.

        Returns:
            ``(index, answer)`` block by block.
        """
        return self._spread("generate", samples, lambda sample: (sampling, constraint(sample) if constraint else None))

    def score_labels(self, samples: Sequence[Sample], labels: Callable[[Sample], Sequence[str]]) -> Iterator[tuple[int, Answer]]:
        """Score each candidate as the whole answer; see the embedded engine.

        Args:
            samples: conversations; an answer at their end is left out.
            labels: the candidates of a sample.

        Returns:
            ``(index, answer)`` block by block.
        """
        return self._spread("score_labels", samples, lambda sample: tuple(labels(sample)))

    def likelihood(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Answer]]:
        """Score each sample's own answer; see the embedded engine.

        Args:
            samples: whole conversations.

        Returns:
            ``(index, answer)`` block by block.
        """
        return self._spread("likelihood", samples, lambda _sample: None)

    def _spread(self, call: str, samples: Sequence[Sample], asked: Callable[[Sample], Any]) -> Iterator[tuple[int, Answer]]:
        if not samples:
            return
        rows = [{"index": i, "asked": pickle.dumps((sample, asked(sample)))} for i, sample in enumerate(samples)]
        n_blocks = -(-len(rows) // BLOCK_ROWS)
        workers = min(self._n_workers, n_blocks)
        answered = self._ray.data.from_items(rows, override_num_blocks=n_blocks).map_batches(
            Worker,
            fn_constructor_args=(str(self._run), call),
            batch_size=BLOCK_ROWS,
            compute=self._ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            max_restarts=-1,
            max_task_retries=ATTEMPTS,
        )
        refused: list[WeitiaoError] = []
        for row in answered.iter_rows():
            outcome = pickle.loads(row["outcome"])
            if isinstance(outcome, Answer):
                yield int(row["index"]), outcome
            else:
                refused.append(_error(*outcome))
        if refused:
            raise together(refused)


class Worker:
    """What a Ray process does: loads the run once, answers blocks of rows."""

    def __init__(self, run: str, call: str) -> None:
        """Load the run.

        Args:
            run: its folder.
            call: method of the engine.
        """
        import torch

        from weitiao import answering, runs

        torch.set_num_threads(1)
        self._engine = answering.embedded_engine(runs.read_run(Path(run)))[0]
        self._call = call

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer a block.

        Args:
            batch: columns ``index`` and ``asked``.

        Returns:
            Columns ``index`` and ``outcome``: an answer, or what was wrong with the row.
        """
        asked = [pickle.loads(content) for content in batch["asked"]]
        samples, wishes = [sample for sample, _ in asked], {id(sample): wish for sample, wish in asked}
        outcomes: dict[int, Any] = {}
        left = list(range(len(samples)))
        while left:
            try:
                for place, answer in self._ask([samples[i] for i in left], wishes):
                    outcomes[left[place]] = answer
            except (RowError, EngineError) as error:
                culprit = next((i for i in left if i not in outcomes and samples[i].origin == error.where), None)
                if culprit is None:
                    raise
                outcomes[culprit] = (type(error).__name__, error.what, error.where, error.hint)
            left = [i for i in left if i not in outcomes]
        return {"index": batch["index"], "outcome": [pickle.dumps(outcomes[i]) for i in range(len(samples))]}

    def _ask(self, samples: list[Sample], wishes: dict[int, Any]) -> Iterator[tuple[int, Answer]]:
        if self._call == "generate":
            return self._engine.generate(samples, wishes[id(samples[0])][0], lambda sample: wishes[id(sample)][1])
        if self._call == "score_labels":
            return self._engine.score_labels(samples, lambda sample: wishes[id(sample)])
        return self._engine.likelihood(samples)


@contextmanager
def ray_engine(run: Path, n_workers: int | None) -> Iterator[RayEngine]:
    """Join the cluster of ``RAY_ADDRESS``, or start one on this machine, and leave it afterwards.

    Args:
        run: a run folder that every worker can read.
        n_workers: processes, >= 1; None for one per CPU.

    Yields:
        The engine.

    Raises:
        CommandError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise CommandError("Ray is not installed", where="--engine ray", hint='pip install "weitiao[ray]"') from error
    # No report of usage to Ray's makers; no page of its own.
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        yield RayEngine(ray, run.absolute(), n_workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
    finally:
        ray.shutdown()


def _error(kind: str, what: str, where: str, hint: str) -> RowError | EngineError:
    return (RowError if kind == "RowError" else EngineError)(what, where=where, hint=hint)
