"""infer: prompts in, answers out, through the ``Engine`` protocol of ``seams.py``; no gradient, eval mode, KV cache.

prompts -> batches (``batches.py``) -> network (``network.py``) -> decoding (``decode.py``), label scoring (``labels.py``) or
likelihood (``likelihood.py``); what an answer may be is held by ``constrain.py``. ``engine.py`` puts them together; ``steps.py`` is
the batch of a server, which prompts join and leave. Other engines stand in ``engines/``.
Knows nothing of tasks, metrics or files; text becomes tokens only through the renderer it is handed.
"""

from weitiao.infer.engine import make_engine
from weitiao.infer.engines.http import connect_server
from weitiao.infer.engines.openvino import openvino_engine
from weitiao.infer.steps import Joined, StepBatch, Stepped, make_step_batch

__all__ = ["Joined", "StepBatch", "Stepped", "connect_server", "make_engine", "make_step_batch", "openvino_engine"]
