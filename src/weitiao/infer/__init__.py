"""infer: prompts in, answers out, through the ``Engine`` protocol of ``seams.py``; no gradient, eval mode, KV cache.

prompts -> batches (``batches.py``) -> network (``network.py``) -> decoding (``decode.py``), label scoring (``labels.py``) or
likelihood (``likelihood.py``); what an answer may be is held by ``constrain.py``. ``engine.py`` puts them together.
Knows nothing of tasks, metrics or files; text becomes tokens only through the renderer it is handed.
"""

from weitiao.infer.engine import make_engine

__all__ = ["make_engine"]
