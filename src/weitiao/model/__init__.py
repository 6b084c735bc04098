"""model: where weights come from, and what of them is trained.

``load_base`` reads weights and tokenizer; ``attach_tuning`` puts LoRA on or opens every weight; ``load_checkpoint`` brings back what a run
saved. ``weights.py`` finds the folder behind a name; a new source of weights goes there. Facts that a configuration does not tell stand in
``facts.py``. Knows nothing of rows, templates or tasks.
"""

from weitiao.model.checkpoint import (
    CheckpointFacts,
    generation_settings,
    hub_id,
    load_checkpoint,
    read_facts,
    restore_weights,
    save_checkpoint,
    weights_hash,
)
from weitiao.model.facts import pick_device, pick_dtype
from weitiao.model.load import find_folder, load_base, load_network, load_processor
from weitiao.model.outline import LIBRARIES_BYTES, check_memory, memory_bytes, outline, parameter_bytes
from weitiao.model.parameters import parameter_groups, parameter_table
from weitiao.model.tuning import attach_tuning, count_parameters
from weitiao.model.weights import list_models, resolve_weights

__all__ = [
    "LIBRARIES_BYTES",
    "CheckpointFacts",
    "attach_tuning",
    "check_memory",
    "count_parameters",
    "find_folder",
    "generation_settings",
    "hub_id",
    "list_models",
    "load_base",
    "load_checkpoint",
    "load_network",
    "load_processor",
    "memory_bytes",
    "outline",
    "parameter_bytes",
    "parameter_groups",
    "parameter_table",
    "pick_device",
    "pick_dtype",
    "read_facts",
    "resolve_weights",
    "restore_weights",
    "save_checkpoint",
    "weights_hash",
]
