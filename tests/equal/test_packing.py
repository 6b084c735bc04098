"""Packed rows, the shared prefix and every fast path give the loss and gradients of plain rows, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from weitiao.encode.steps import common_prefix, pack
from weitiao.model.load import load_network
from weitiao.model.tuning import attach_tuning
from weitiao.recipe.sections import FullTuning, LoraTuning
from weitiao.seams import IGNORED, EncodedRow, LoadedModel
from weitiao.train.blocks import _NormMlp, _NormProject
from weitiao.train.fast import fast_layers, has_answers_only_layer
from weitiao.train.head import chunked_head_loss
from weitiao.train.linear import _Linear, add_product, draw_kept
from weitiao.train.segments import micro_batch, segment_attention, segmented

ON_CPU = ["answer_logits", "shared_prefix", "last_layer", "lora_linear", "fused_attention", "fused_mlp"]
PREFIX = [5, 9, 17, 33, 65, 129, 257, 300, 11, 23]
TOLERANCE = 2e-5
"""Largest difference of a gradient relative to the largest gradient of its tensor, float32."""


def rows(n: int = 5, prefix: list[int] | None = None) -> list[EncodedRow]:
    made = []
    for i in range(n):
        generator = torch.Generator().manual_seed(i)
        body = torch.randint(1, 700, (7 + 4 * i,), generator=generator).tolist()
        ids = [*(PREFIX if prefix is None else prefix), *body]
        answer = 3 + i
        made.append(EncodedRow(ids, [IGNORED] * (len(ids) - answer) + ids[-answer:], (len(ids),)))
    return made


@pytest.fixture(params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tiny_qwen2: Path, tiny_qwen3: Path) -> Path:
    return tiny_qwen2 if request.param == "qwen2" else tiny_qwen3


@pytest.fixture(params=["lora", "full"])
def network(request: pytest.FixtureRequest, folder: Path) -> Any:
    base, processor = load_network(folder, torch.float32, torch.device("cpu"))
    section = LoraTuning(r=4, lora_dropout=0.0) if request.param == "lora" else FullTuning()
    tuned = attach_tuning(LoadedModel(base, processor, folder, "tiny", torch.float32), section).network
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return tuned.train()


def gradients(network: Any) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None}
    network.zero_grad()
    return found


def plain(network: Any, batch: list[EncodedRow]) -> tuple[float, dict[str, torch.Tensor]]:
    """The library's own forward on each row alone, logits for every token."""
    total = 0.0
    for row in batch:
        logits = network(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        loss = cross_entropy(logits, torch.tensor(row.labels[1:]), ignore_index=IGNORED, reduction="sum")
        loss.backward()
        total += loss.item()
    return total, gradients(network)


def packed(
    network: Any, batch: list[EncodedRow], names: frozenset[str], dtype: torch.dtype = torch.float32, *, recompute: bool = False
) -> tuple[float, dict[str, torch.Tensor]]:
    causal = network.get_base_model() if hasattr(network, "peft_config") else network
    total = 0.0
    with segmented(network), fast_layers(network, names, recompute=recompute):
        for row in batch:
            laid = micro_batch(row, torch.device("cpu"), dtype, answers_only=has_answers_only_layer(causal))
            wanted = slice(None) if "last_layer" in names else laid.sources
            inputs = {"input_ids": laid.input_ids, "position_ids": laid.position_ids, "segments": laid.segments, "use_cache": False}
            if "answer_logits" in names:
                hidden = causal.get_decoder()(**inputs).last_hidden_state[0, wanted]
                loss = chunked_head_loss(hidden, causal.get_output_embeddings().weight, laid.targets)
            else:
                loss = cross_entropy(network(**inputs).logits[0, wanted], laid.targets, reduction="sum")
            loss.backward()
            total += loss.item()
    return total, gradients(network)


def assert_equal(got: tuple[float, dict[str, torch.Tensor]], wanted: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert got[0] == pytest.approx(wanted[0], rel=1e-5)
    assert got[1].keys() == wanted[1].keys()
    assert wanted[1]
    for name, gradient in wanted[1].items():
        scale = gradient.abs().max().item()
        assert (got[1][name] - gradient).abs().max().item() <= TOLERANCE * scale + 1e-7, name


@pytest.mark.parametrize(
    "names",
    [[], ["answer_logits"], ["lora_linear"], ["fused_attention"], ["fused_mlp"], ["last_layer"], ["last_layer", "answer_logits"], ON_CPU],
    ids=lambda names: "+".join(names) or "none",
)
def test_packed_rows_equal_single_rows(network: Any, names: list[str]) -> None:
    batch = rows()
    assert_equal(packed(network, pack(batch, 64), frozenset(names)), plain(network, batch))


@pytest.mark.parametrize("padding", [None, PREFIX[3]])
def test_a_tied_embeddings_gradient_is_taken_up_by_the_heads(network: Any, padding: int | None) -> None:
    """Over several micro-batches of one step; a padding token's vector gets what it gets as the head alone."""
    embedding, batch = network.get_input_embeddings(), rows()
    embedding.padding_idx = padding
    if hasattr(network, "peft_config"):
        pytest.skip("an adapter leaves the embedding as it is")
    assert embedding.weight is network.get_output_embeddings().weight
    names = frozenset({"answer_logits"})
    joined = pack(batch, 40)
    assert len(joined) > 1
    with fast_layers(network, names):
        assert "forward" in vars(embedding)
    assert "forward" not in vars(embedding)
    got, wanted = packed(network, joined, names), plain(network, batch)
    assert_equal(got, wanted)
    (name,) = (name for name, parameter in network.named_parameters() if parameter is embedding.weight)
    assert got[1][name][PREFIX[2]].abs().sum() > 0


@pytest.mark.parametrize("names", [[], ON_CPU], ids=["none", "all"])
def test_shared_prefix_equals_single_rows(network: Any, names: list[str]) -> None:
    batch = rows()
    joined = pack(batch, 64, common_prefix(batch))
    assert sum(len(row.input_ids) for row in joined) <= sum(len(row.input_ids) for row in batch) - 3 * len(PREFIX)
    assert_equal(packed(network, joined, frozenset(names)), plain(network, batch))


def test_documents_are_packed_without_predicting_the_next_document(network: Any) -> None:
    batch = [EncodedRow(row.input_ids, list(row.input_ids), row.segment_lengths) for row in rows(3, prefix=[])]
    assert_equal(packed(network, pack(batch, 64), frozenset(ON_CPU)), plain(network, batch))


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_the_mlp_in_chunks_is_the_mlp(network: Any, monkeypatch: pytest.MonkeyPatch, recompute: bool) -> None:
    monkeypatch.setattr("weitiao.train.blocks.CHUNK_TOKENS", 13)
    monkeypatch.setattr("weitiao.train.blocks.TRAINED_CHUNK_TOKENS", 17)
    batch = rows()
    assert_equal(packed(network, pack(batch, 64), frozenset({"fused_mlp"}), recompute=recompute), plain(network, batch))


@pytest.mark.parametrize("at_once", [1, 100, 10_000], ids=["a row", "some rows", "all"])
def test_gradients_in_16_bits_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Each product is rounded once; what comes of two of them is not rounded again, in whatever pieces it is widened."""
    monkeypatch.setattr("weitiao.train.linear.BLOCK_ELEMENTS", at_once)
    draws = torch.Generator().manual_seed(0)
    lefts, rights = ([torch.randn(tokens, n, generator=draws).bfloat16() for tokens in (31, 40)] for n in (70, 24))
    first = add_product(None, lefts[0].t(), rights[0])
    second = add_product(first, lefts[1].t(), rights[1])
    assert second is first
    products = [(left.t() @ right).float() for left, right in zip(lefts, rights, strict=True)]
    exact = [left.double().t() @ right.double() for left, right in zip(lefts, rights, strict=True)]
    torch.testing.assert_close(second, products[0] + products[1], rtol=1e-2, atol=1e-2)
    error = (second.double() - sum(exact)).abs()
    assert (error <= sum(product.abs() for product in exact) * 2**-8 + 1e-5).all()
    assert second.dtype == torch.float32
    assert not torch.equal(second, second.bfloat16().float())


@pytest.mark.parametrize("at_once", [1, 2100], ids=["one", "some"])
def test_the_head_is_chunked_when_logits_are_many(network: Any, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr("weitiao.train.head.HEAD_CHUNK_ELEMENTS", 5000)
    monkeypatch.setattr("weitiao.train.head.BLOCK_ELEMENTS", at_once)
    batch = rows()
    assert_equal(packed(network, pack(batch, 64), frozenset({"answer_logits"})), plain(network, batch))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_heads_loss_is_computed_in_float32(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are rounded where the arithmetic is; from there on nothing is, however large they are."""
    monkeypatch.setattr("weitiao.train.head.BLOCK_ELEMENTS", 7 * 1000)
    draws = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 64, generator=draws).mul_(2).to(dtype) for n in (19, 1000))
    targets = torch.randint(1000, (19,), generator=draws)
    mine, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    loss = chunked_head_loss(mine, weight, targets)
    wanted = cross_entropy(torch.nn.functional.linear(theirs, weight).float(), targets, reduction="sum")
    (loss / 19).backward()
    (wanted / 19).backward()
    assert wanted > 100
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert mine.grad is not None
    assert theirs.grad is not None
    assert (mine.grad - theirs.grad).abs().max() <= (1e-5 if dtype == torch.float32 else 1e-2) * theirs.grad.abs().max()


@pytest.mark.parametrize("prefix", [0, 20], ids=["alone", "behind a prefix"])
@pytest.mark.parametrize("is_autocast", [False, True])
def test_short_segments_attend_in_float32(monkeypatch: pytest.MonkeyPatch, prefix: int, is_autocast: bool) -> None:
    """On a CPU, whatever the arithmetic: as near to exact attention as 16 bits can say, forward and backward; beyond the limit narrow."""
    row = EncodedRow([1] * (prefix + 50), [IGNORED] * (prefix + 30) + [1] * 20, (30, 20), prefix)
    draws = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, prefix + 50, heads, 16, generator=draws).bfloat16().transpose(1, 2) for heads in (4, 2, 2)]
    grad = torch.randn(1, prefix + 50, 4, 16, generator=draws).bfloat16()

    def attended(dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.dtype]:
        batch = micro_batch(row, torch.device("cpu"), dtype)
        taken = [part.to(dtype).detach().requires_grad_() for part in inputs]
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast and dtype == torch.bfloat16):
            out, _none = segment_attention(None, *taken, None, scaling=0.25, segments=batch.segments)
        assert out.dtype == dtype
        out.backward(grad.to(dtype))
        return [out, *(part.grad for part in taken if part.grad is not None)], batch.segments.dtype

    exact, _ = attended(torch.float64)
    wide, used = attended(torch.bfloat16)
    monkeypatch.setattr("weitiao.train.segments.WIDE_TOKENS", 10)
    narrow, used_then = attended(torch.bfloat16)
    assert (used, used_then) == (torch.float32, torch.bfloat16)
    for best, near, far in zip(exact, wide, narrow, strict=True):
        error = (near.double() - best).abs()
        assert (error <= best.abs() * 2**-8 + 1e-6).all(), "one rounding, at the end"
        assert error.mean() < (far.double() - best).abs().mean()


def test_a_row_never_sees_its_neighbours(network: Any) -> None:
    """Changing one row of a pack leaves the losses of the others as they were, to the last bit."""
    batch = rows()
    other = EncodedRow([7, *batch[0].input_ids[1:]], batch[0].labels, batch[0].segment_lengths)
    with segmented(network), torch.no_grad():
        first, second = (network(**_inputs(pack([row, *batch[1:]], 200)[0])).logits[0] for row in (batch[0], other))
    n_last = len(batch[0].input_ids)
    assert torch.equal(first[:-n_last], second[:-n_last])
    assert not torch.equal(first[-n_last:], second[-n_last:])


def _inputs(row: EncodedRow) -> dict[str, Any]:
    laid = micro_batch(row, torch.device("cpu"), torch.float32)
    return {"input_ids": laid.input_ids, "position_ids": laid.position_ids, "segments": laid.segments, "use_cache": False}


def test_lora_linear_is_the_layers_own_arithmetic(network: Any) -> None:
    layer = next((module for name, module in network.named_modules() if name.endswith("down_proj") and hasattr(module, "lora_A")), None)
    if layer is None:
        pytest.skip("full tuning has no adapter")
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    wanted = layer(x)
    with fast_layers(network, frozenset({"lora_linear"})):
        assert torch.allclose(layer(x), wanted, atol=1e-5)
        assert "forward" in vars(layer)
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("p", [0.0, 0.3], ids=["no dropout", "dropout"])
def test_lora_linear_gradients_follow_its_forward(p: float) -> None:
    """Finite differences, with the same dropped positions in every call."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (2, 3, 6), "weight": (5, 6), "bias": (5,), "a": (2, 6), "b": (5, 2)}
    tensors = {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in shapes.items()}
    for name in ("x", "a", "b"):
        tensors[name].requires_grad_(True)

    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return _Linear.apply(inputs[0], 4.0, p, *inputs[1:])

    assert torch.autograd.gradcheck(forward, tuple(tensors.values()))


def doubles(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("p", [0.0, 0.3], ids=["no dropout", "dropout"])
def test_norm_and_projections_follow_their_forward(p: float) -> None:
    shapes = [(2, 3, 6), (6,), (5, 6), (5,), (2, 6), (5, 2), (4, 6), (4,), (3, 6), (4, 3)]

    def forward(x: torch.Tensor, norm: torch.Tensor, *tensors: torch.Tensor) -> Any:
        torch.manual_seed(1)
        return _NormProject.apply(x, norm, 1e-6, torch.float64, ((4.0, p), (2.0, p)), *tensors)

    assert torch.autograd.gradcheck(forward, tuple(doubles(*shapes)))


@pytest.mark.parametrize("p", [0.0, 0.3], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_norm_and_mlp_follow_their_forward(p: float, recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weitiao.train.blocks.CHUNK_TOKENS", 4)
    shapes = [(2, 3, 6), (6,), (5, 6), (5,), (2, 6), (5, 2), (5, 6), (5,), (2, 6), (5, 2), (6, 5), (6,), (2, 5), (6, 2)]

    def forward(x: torch.Tensor, norm: torch.Tensor, *tensors: torch.Tensor) -> Any:
        torch.manual_seed(1)
        return _NormMlp.apply(x, norm, 1e-6, torch.float64, recompute, ((4.0, p), (2.0, p), (3.0, p)), *tensors)

    assert torch.autograd.gradcheck(forward, tuple(doubles(*shapes)))


def test_dropout_zeroes_and_rescales_what_the_adapter_sees() -> None:
    torch.manual_seed(0)
    ones, eye = torch.ones(20_000, 1), torch.ones(1, 1)
    out = _Linear.apply(ones, 1.0, 0.25, torch.zeros(1, 1), None, eye, eye)
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)


def test_dropout_draws_on_other_devices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's GPUs have no 64 random bits at once; here their branch draws on the CPU."""
    draw = torch.rand
    monkeypatch.setattr(torch, "rand", lambda shape, device: draw(shape) if device.type == "mps" else pytest.fail("another device"))
    torch.manual_seed(0)
    mask = draw_kept(torch.Size((400, 500)), 0.3, torch.device("mps"))
    assert mask is not None
    assert (mask.dtype, mask.shape) == (torch.bool, (400, 500))
    for lane in range(4):
        assert mask.view(-1)[lane::4].float().mean().item() == pytest.approx(0.7, abs=0.01)


def test_pack_loses_no_token_and_keeps_the_limit() -> None:
    batch = rows(20, prefix=[])
    joined = pack(batch, 90)
    assert max(len(row.input_ids) for row in joined) <= 90
    assert sorted(length for row in joined for length in row.segment_lengths) == sorted(len(row.input_ids) for row in batch)
    assert sorted(token for row in joined for token in row.input_ids) == sorted(token for row in batch for token in row.input_ids)


def test_pack_fits_best_first() -> None:
    made = [EncodedRow([1] * n, [1] * n, (n,)) for n in (5, 2, 3)]
    assert [row.segment_lengths for row in pack(made, 5)] == [(5,), (3, 2)]


def test_prefix_stops_before_the_token_that_predicts_an_answer() -> None:
    made = [EncodedRow([1, 2, 3, 4, end], [IGNORED, IGNORED, IGNORED, 4, end], (5,)) for end in (7, 8)]
    assert common_prefix(made) == 2


def test_sixteen_bit_arithmetic_with_float32_masters_is_close_to_float32(folder: Path) -> None:
    """Weights in bfloat16, adapters in float32, arithmetic in bfloat16: the gradients point where those of float32 do."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        base, processor = load_network(folder, dtype, torch.device("cpu"))
        network = attach_tuning(LoadedModel(base, processor, folder, "tiny", dtype), LoraTuning(r=4, lora_dropout=0.0)).network.train()
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            batch = rows()
            found.append(packed(network, pack(batch, 64, common_prefix(batch)), frozenset(ON_CPU), dtype))
        assert {parameter.dtype for parameter in network.parameters() if parameter.requires_grad} == {torch.float32}
    (loss, wanted), (loss_16, got) = found
    assert loss_16 == pytest.approx(loss, rel=0.02)
    for name, gradient in wanted.items():
        assert torch.cosine_similarity(gradient.flatten(), got[name].flatten(), dim=0) > 0.98, name
