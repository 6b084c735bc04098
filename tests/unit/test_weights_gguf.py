"""A GGUF file becomes an ordinary folder: one embedding, no padding words, every stop id; the bundled models are as published."""

import json

import numpy as np
import pytest
from tests.tiny import build_tiny

from weitiao.errors import ModelError
from weitiao.model.weights import resolve_weights


def write_gguf(model, path, *, head):
    """Write the tiny Qwen2 model in ``model`` as GGUF; ``head``: None, or "same" or "other" for an output matrix of its own."""
    import gguf
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    config = json.loads((model / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(model)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)

    added = dict(tokenizer.added_tokens_decoder)
    tokens, types = [], []
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    for index in range(config["vocab_size"]):
        tokens.append(by_id.get(index, f"[PAD{index}]"))
        types.append(5 if index not in by_id else 1 if index not in added else 3 if added[index].special else 4)
    merges = json.loads((model / "tokenizer.json").read_text())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_bos_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    weights = load_file(model / "model.safetensors")
    for name, weight in weights.items():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if name == "model.embed_tokens.weight" and head is not None:
            quantised = gguf.quantize(weight.astype(np.float32), gguf.GGMLQuantizationType.Q5_0)
            writer.add_tensor(target, quantised, raw_dtype=gguf.GGMLQuantizationType.Q5_0)
        else:
            writer.add_tensor(target, weight.astype(np.float32))
    if head is not None:
        output = weights["model.embed_tokens.weight"].astype(np.float32)
        output = output if head == "same" else output[::-1].copy()
        quantised = gguf.quantize(output, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("output.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny("qwen2", tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WEITIAO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("cache")
def test_a_gguf_file_becomes_a_folder_once(tiny, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = write_gguf(tiny, tmp_path / "tiny.gguf", head=None)
    folder = resolve_weights(str(file))
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_weights(str(file)) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made

    before, after = AutoTokenizer.from_pretrained(tiny), AutoTokenizer.from_pretrained(folder)
    assert after.get_vocab() == before.get_vocab()
    assert after.chat_template == before.chat_template
    text = "<|im_start|>user\n电梯停了3天，cafe\u0301！  ok<|im_end|>"
    assert after(text).input_ids == before(text).input_ids
    first, second = (AutoModelForCausalLM.from_pretrained(place, dtype="float32").state_dict() for place in (tiny, folder))
    for name, weight in first.items():
        assert (weight.bfloat16().float() == second[name]).all(), name


@pytest.mark.usefixtures("cache")
def test_a_files_header_is_parsed_once(tiny, tmp_path, monkeypatch):
    import gguf

    parsed = []

    class Reader(gguf.GGUFReader):
        def __init__(self, path, mode="r"):
            parsed.append(str(path))
            super().__init__(path, mode)

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    file = write_gguf(tiny, tmp_path / "tiny.gguf", head=None)
    resolve_weights(str(file))
    assert parsed == [str(file)]
    assert gguf.GGUFReader is Reader


@pytest.mark.usefixtures("cache")
def test_constants_tokens_and_stop_ids_are_settled(tiny, tmp_path):
    folder = resolve_weights(str(write_gguf(tiny, tmp_path / "tiny.gguf", head=None)))
    config = json.loads((folder / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-6
    assert config["rope_parameters"]["rope_theta"] == 1_000_000.0
    assert config["dtype"] == "bfloat16"
    assert "[PAD" not in (folder / "tokenizer.json").read_text("utf-8")
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == json.loads((tiny / "generation_config.json").read_text())["eos_token_id"]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert (settings["eos_token"], settings["model_max_length"]) == ("<|im_end|>", 2048)
    assert "local_files_only" not in settings


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("head", "tied"), [("same", True), ("other", False)])
def test_a_matrix_stored_twice_is_one_again_in_its_better_quality(tiny, tmp_path, head, tied):
    from gguf import GGMLQuantizationType, dequantize, quantize
    from safetensors.torch import load_file

    folder = resolve_weights(str(write_gguf(tiny, tmp_path / "tiny.gguf", head=head)))
    weights = load_file(folder / "model.safetensors")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in weights) is not tied
    original = load_file(tiny / "model.safetensors")["model.embed_tokens.weight"].float().numpy()
    kind = GGMLQuantizationType.Q8_0 if tied else GGMLQuantizationType.Q5_0
    expected = dequantize(quantize(original, kind), kind)
    assert np.allclose(weights["model.embed_tokens.weight"].float().numpy(), expected, rtol=2**-8)


def test_a_damaged_file_is_a_sentence(cache, tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ModelError, match="this GGUF file cannot be read"):
        resolve_weights(str(tmp_path / "broken.gguf"))
    assert not [place for place in (cache / "gguf").iterdir() if place.is_dir() and not place.name.endswith(".partial")]


# ---- the real ones ----------------------------------------------------------------------------------------------------


def answer(folder, question, max_new_tokens=16):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        tokens = network.generate(**prompt, do_sample=False, max_new_tokens=max_new_tokens)
    return tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :])


@pytest.mark.real
def test_the_bundled_qwen_is_the_published_one():
    from transformers import AutoConfig, AutoTokenizer

    from weitiao.model.folder import count_stored

    folder = resolve_weights("bundled:qwen2.5-coder-0.5b-instruct")
    config = AutoConfig.from_pretrained(folder)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (896, 24, 14, 2)
    assert (config.intermediate_size, config.vocab_size, config.max_position_embeddings) == (4864, 151936, 32768)
    assert (config.rope_parameters["rope_theta"], config.rms_norm_eps, config.tie_word_embeddings) == (1e6, 1e-6, True)
    assert (config.bos_token_id, config.eos_token_id, config.use_sliding_window) == (151643, 151645, False)
    assert count_stored(folder) == (494_032_768, (folder / "model.safetensors").stat().st_size)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [151645, 151643]

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (len(tokenizer), tokenizer.eos_token, tokenizer.pad_token) == (151665, "<|im_end|>", "<|endoftext|>")
    assert tokenizer("<|im_start|>user\n啊<|im_end|>\n<|endoftext|>").input_ids == [151644, 872, 198, 103924, 151645, 198, 151643]
    for text in ("你好，世界！ 12345 It's  ok\n\n x", "龙琳，宁夏回族自治区璐市城东林街g座 955491", "def f(x):\n    return x ** 2"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.real
@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the capital of France? Answer with one word.", "Paris<|im_end|>"),
        ("中国的首都是哪里？只回答城市名。", "北京<|im_end|>"),
        ("Which Python keyword defines a function? Answer with one word.", "def<|im_end|>"),
    ],
    ids=["English", "Chinese", "code"],
)
def test_the_bundled_qwen_answers_known_questions(question, expected):
    assert answer(resolve_weights("bundled:qwen2.5-coder-0.5b-instruct"), question) == expected


@pytest.mark.real
def test_the_bundled_smollm_is_the_published_one():
    from transformers import AutoTokenizer

    from weitiao.model.folder import count_stored

    folder = resolve_weights("bundled:smollm2-135m-instruct")
    assert count_stored(folder)[0] == 134_515_008
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("  1 2").input_ids == [256, 33, 216, 34]  # digits stand alone, so that the blanks before them stay together
    assert answer(folder, "What is the capital of France? Answer with one word.") == "The capital of France is Paris.<|im_end|>"
