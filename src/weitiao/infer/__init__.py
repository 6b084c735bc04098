"""infer: prompts in, answers out, through the ``Engine`` protocol of ``seams``; no gradient, eval mode, KV cache.

prompts (``batches.py``) -> rows that join and leave (``steps.py``, ``rows.py``), label scoring (``labels.py``) or likelihood
(``likelihood.py``); all of them read tokens into slots (``cache.py``, ``spans.py``) through a reader: the network as it stands
(``network.py``), or its weights laid out for this CPU (``packed.py``). What an answer may be is held by ``constrain.py``, which token
comes next by ``choose.py``, and what it will probably be, so that several are read at once, by ``speculation.py``. ``engine.py`` puts them
together. Other engines stand in ``engines/``.

A server drives the same machinery step by step::

    engine = infer.make_engine(model, renderer, batch_size=16, hold=True)
    batch = engine.step_batch()                      # all of its methods are called from one thread
    ticket = batch.join(sample, Sampling(max_new_tokens=256, temperature=0.7, seed=1), constraint).ticket
    for stepped in batch.step():                     # again and again, while `batch.n_waiting or batch.n_working`
        ...                                          # stepped.ticket, .token_ids, and .answer where they finish it
    batch.leave(ticket)                              # at any time

Knows nothing of tasks, metrics or files; text becomes tokens only through the renderer it is handed.
"""

from weitiao.infer.engine import EmbeddedEngine, answering_bytes, make_engine, make_step_batch
from weitiao.infer.engines.http import connect_server, session_for
from weitiao.infer.engines.openvino import openvino_engine
from weitiao.infer.rows import Joined, Stepped
from weitiao.infer.steps import StepBatch

__all__ = [
    "EmbeddedEngine",
    "Joined",
    "StepBatch",
    "Stepped",
    "answering_bytes",
    "connect_server",
    "make_engine",
    "make_step_batch",
    "openvino_engine",
    "session_for",
]
