"""Trains the other projects' way, in the venv of one of them: ``python peer_worker.py SETTINGS.json``. Knows nothing of weitiao.

SETTINGS: peer, rows (a file of ``messages``), base (a folder), batch, rows_per_step, steps, dtype, tuning, learning_rate, dropout, cut,
recompute, packing, folder, out; weitiao's also thin, fast, optim. Writes to ``out`` a JSON object: the time at which each step ended, its
loss, and the peak memory.
"""

import functools
import importlib.machinery
import json
import resource
import sys
import time
import types
from pathlib import Path

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SETTINGS = json.loads(Path(sys.argv[1]).read_text()) if len(sys.argv) > 1 else {}
ENDED = []
"""Seconds since the epoch, at the start of training and after each step."""
LOSSES = []


def write_result():
    import torch
    import transformers

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "threads": torch.get_num_threads()}
    Path(SETTINGS["out"]).write_text(json.dumps({"ended": ENDED, "losses": LOSSES, "peak_memory_bytes": peak, "versions": versions}))


def watch():
    """Note the end of each step of any Trainer in this process."""
    import transformers

    class Watch(transformers.TrainerCallback):
        def on_train_begin(self, *_, **__):
            ENDED.append(time.time())

        def on_step_end(self, *_, **__):
            ENDED.append(time.time())

        def on_log(self, *_, logs=None, **__):
            if logs and "loss" in logs:
                LOSSES.append(float(logs["loss"]))

    before = transformers.Trainer.__init__

    @functools.wraps(before)  # ms-swift looks at its arguments
    def with_watch(self, *args, **kwargs):
        before(self, *args, **kwargs)
        self.add_callback(Watch())

    transformers.Trainer.__init__ = with_watch


def arguments():
    """What all of them call the same, as transformers' names."""
    return {
        "per_device_train_batch_size": SETTINGS["batch"],
        "gradient_accumulation_steps": SETTINGS["rows_per_step"] // SETTINGS["batch"],
        "max_steps": SETTINGS["steps"],
        "learning_rate": SETTINGS["learning_rate"],
        "lr_scheduler_type": "linear",
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": SETTINGS["dtype"] == "bfloat16",
        "use_cpu": True,
        "report_to": "none",
        "seed": 42,
        "disable_tqdm": True,
    }


def messages():
    return [json.loads(line)["messages"] for line in Path(SETTINGS["rows"]).read_text(encoding="utf-8").split("\n") if line]


def plain():
    """The usual script: every row padded to the longest of its batch, logits for every token."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(SETTINGS["base"])
    network = AutoModelForCausalLM.from_pretrained(SETTINGS["base"], dtype=getattr(torch, SETTINGS["dtype"]))

    def encode(row):
        if len(row) == 1:  # a document: all of it is learnt, and where it ends
            ids = (tokenizer(row[0]["content"])["input_ids"] + tokenizer.convert_tokens_to_ids(["<|endoftext|>"]))[: SETTINGS["cut"]]
            return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids}
        prompt = tokenizer.apply_chat_template(row[:-1], add_generation_prompt=True, tokenize=True, return_dict=False)
        answer = tokenizer(row[-1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        ids = (prompt + answer)[: SETTINGS["cut"]]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ([-100] * len(prompt) + answer)[: SETTINGS["cut"]]}

    if SETTINGS["tuning"] == "lora":
        if SETTINGS["recompute"]:
            network.enable_input_require_grads()
        config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=SETTINGS["dropout"], target_modules=MODULES)
        network = get_peft_model(network, config)
    options = TrainingArguments(
        SETTINGS["folder"], gradient_checkpointing=SETTINGS["recompute"], train_sampling_strategy="sequential", **arguments()
    )
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    Trainer(network, options, train_dataset=[encode(row) for row in messages()], data_collator=collator).train()


def trl():
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in messages()])
    options = SFTConfig(
        SETTINGS["folder"],
        max_length=SETTINGS["cut"],
        completion_only_loss=True,
        packing=SETTINGS["packing"],
        gradient_checkpointing=SETTINGS["recompute"],
        train_sampling_strategy="sequential",
        model_init_kwargs={"dtype": getattr(torch, SETTINGS["dtype"])},
        **arguments(),
    )
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=SETTINGS["dropout"], target_modules=MODULES)
    SFTTrainer(SETTINGS["base"], args=options, train_dataset=rows, peft_config=lora if SETTINGS["tuning"] == "lora" else None).train()


def llamafactory():
    # It imports torchaudio for every model; peers.py takes it out of the venv, since it does not load beside a CPU torch.
    stand_in = types.ModuleType("torchaudio")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = stand_in
    from llamafactory.train.tuner import run_exp

    folder = Path(SETTINGS["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.json").write_text(json.dumps([{"messages": row} for row in messages()], ensure_ascii=False), encoding="utf-8")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    about = {"rows": {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}}
    (folder / "dataset_info.json").write_text(json.dumps(about))
    base = folder / "base"
    base.mkdir(exist_ok=True)
    for file in Path(SETTINGS["base"]).iterdir():
        if file.name != "config.json" and not (base / file.name).exists():
            (base / file.name).symlink_to(file.resolve())
    config = json.loads((Path(SETTINGS["base"]) / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": SETTINGS["dtype"]}))  # it computes in what stands there
    run_exp(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": str(base),
            "dataset": "rows",
            "dataset_dir": str(folder),
            "template": "qwen",
            "finetuning_type": SETTINGS["tuning"],
            "lora_rank": 8,
            "lora_alpha": 32,
            "lora_dropout": SETTINGS["dropout"],
            "lora_target": ",".join(MODULES),
            "cutoff_len": SETTINGS["cut"],
            "disable_shuffling": True,
            "disable_gradient_checkpointing": not SETTINGS["recompute"],
            "neat_packing": SETTINGS["packing"],
            "flash_attn": "sdpa",
            "preprocessing_num_workers": 1,
            "dataloader_num_workers": 0,
            "output_dir": str(folder / "out"),
            "overwrite_output_dir": True,
            "plot_loss": False,
            **arguments(),
        }
    )


def swift():
    try:
        from swift import sft_main
    except ImportError:
        from swift.llm import sft_main

    named = {
        "model": SETTINGS["base"],
        "model_type": "qwen2",
        "template": "qwen2_5",
        "tuner_type": SETTINGS["tuning"],
        "lora_rank": 8,
        "lora_alpha": 32,
        "lora_dropout": SETTINGS["dropout"],
        "dataset": SETTINGS["rows"],
        "split_dataset_ratio": 0,
        "max_length": SETTINGS["cut"],
        "torch_dtype": SETTINGS["dtype"],
        "attn_impl": "sdpa",
        "gradient_checkpointing": SETTINGS["recompute"],
        "dataset_shuffle": False,
        "train_dataloader_shuffle": False,
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
        "output_dir": SETTINGS["folder"],
        "load_from_cache_file": False,
        **arguments(),
    }
    flags = [part for name, value in named.items() for part in (f"--{name}", str(value).lower() if isinstance(value, bool) else str(value))]
    sft_main([*flags, "--target_modules", *MODULES] if SETTINGS["tuning"] == "lora" else flags)


if __name__ == "__main__":
    watch()
    {"plain": plain, "trl": trl, "llamafactory": llamafactory, "swift": swift}[SETTINGS["peer"]]()
    write_result()
