"""The layout of packed rows: positions, blocks, masks; and the two ways to compute attention."""

from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lasttoken.model import attention
from lasttoken.model.attention import Scores, Visible, attend, bucket_mask, fused_from, packed_attention, prefix_mask
from lasttoken.model.layout import Layout, filler_of, lay_out, length_buckets, visibility

TREE = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)  # node 1 under node 0, node 2 beside them


def states(tokens: int, heads: int, seed: int = 0, width: int = 4) -> Tensor:
    return torch.randn(1, heads, tokens, width, generator=torch.Generator().manual_seed(seed))


def packed(q: Tensor, k: Tensor, v: Tensor, layout: Layout, module: nn.Module | None = None, **more: Any) -> Tensor:
    """Attention (1, T, heads, d) by the layout, with numbers in its filler that would show if anyone saw them."""
    parts = [
        torch.cat([x, torch.full_like(x[:, :, :1], 1e3).expand(-1, -1, layout.filler, -1)], dim=2) for x in (q, k, v)
    ]
    out, weights = packed_attention(module or nn.Identity(), *parts, None, layout=layout, **more)
    assert weights is None
    assert out.shape[1] == q.shape[2] + layout.filler
    return out[:, : q.shape[2]]


def reference(q: Tensor, k: Tensor, v: Tensor, seen: np.ndarray) -> Tensor:
    """Attention (1, T, heads, d) under a mask (T, T) over the whole packed row."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1).double() for x in (k, v))
    scores = (q.double() @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~torch.from_numpy(seen), -torch.inf).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).float()


def test_positions_restart_and_ends_are_last_tokens() -> None:
    layout = lay_out([3, 1, 2])
    assert layout.prefix == 0
    assert layout.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert layout.ends.tolist() == [2, 3, 5]


def test_positions_go_on_from_the_prefix_and_in_a_tree_by_depth() -> None:
    layout = lay_out([5, 2], prefix=2, trees=[TREE, None])
    #                                     prefix  text  tree     text
    assert layout.positions.tolist() == [0, 1, 2, 3, 4, 5, 4, 2, 3]
    assert layout.ends.tolist() == [3, 8]


def test_a_prefix_without_texts() -> None:
    layout = lay_out([], prefix=3)
    assert layout.positions.tolist() == [0, 1, 2]
    assert layout.buckets == ()
    q = states(3, 2)
    out = packed(q, q, q, layout)
    torch.testing.assert_close(out, reference(q, q, q, np.tril(np.ones((3, 3), dtype=bool))))


def test_rows_and_blocks_come_in_few_sizes_on_a_cpu() -> None:
    rng = np.random.default_rng(0)
    layouts = [lay_out(rng.integers(20, 120, 8).tolist()) for _ in range(200)]
    assert len({len(x.positions) for x in layouts}) > 100
    assert len({len(x.positions) + x.filler for x in layouts}) < 12
    assert {bucket.positions.shape[1] % 16 for x in layouts for bucket in x.buckets} == {0}
    assert all(0 <= x.filler < 64 and len(x.order) == len(x.positions) + x.filler for x in layouts)
    assert filler_of(17, "cpu") == 15  # a short row is not run at three times its length
    assert filler_of(999, "cuda") == 0


def test_the_filler_has_no_gradient() -> None:
    layout = lay_out([30, 20], prefix=3)
    parts = [states(53 + layout.filler, 2, i).requires_grad_() for i in range(3)]
    packed_attention(nn.Identity(), *parts, None, layout=layout)[0][:, :53].square().sum().backward()
    assert layout.filler == 11
    for part in parts:
        assert part.grad is not None
        assert part.grad[:, :, 53:].abs().max() == 0
        assert (part.grad[:, :, :53].abs().amax(dim=(0, 1, 3)) > 0).sum() >= 50


def test_similar_lengths_share_a_block() -> None:
    groups = length_buckets(np.array([10, 100, 11, 21, 22, 110]))
    assert [group.tolist() for group in groups] == [[0, 2, 3], [4], [1, 5]]  # 1.3 * 10 + 8 = 21
    assert length_buckets(np.array([], dtype=np.int64)) == []


def test_visibility_of_causal_texts_is_one_triangle() -> None:
    assert visibility([2, 3], [None, None], True, 3).tolist() == [
        [[True, False, False], [True, True, False], [True, True, True]]
    ]


def test_visibility_of_both_ways_hides_padding_keys() -> None:
    found = visibility([1, 2], [None, None], False, 2)
    assert found[0].tolist() == [[True, False], [True, False]]
    assert found[1].tolist() == [[True, True], [True, True]]


def test_visibility_of_a_tree() -> None:
    assert visibility([4], [TREE], True, 4)[0].astype(int).tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 0, 0, 1],
    ]


def test_a_window_counts_the_prefix_and_the_depth_in_a_tree() -> None:
    layout = lay_out([4], prefix=2, trees=[TREE])
    mask = bucket_mask(layout, 0, 2)[0, 0, :4, :6].int()  # the rest is padding
    # positions: prefix 0 1, text 2, tree 3 4 3; each sees itself and the one before
    assert mask.tolist() == [
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 1, 0, 0, 1],
    ]
    assert prefix_mask(layout, 1)[0, 0].int().tolist() == [[1, 0], [0, 1]]
    assert prefix_mask(layout, None)[0, 0].int().tolist() == [[1, 0], [1, 1]]


def test_masks_are_made_once() -> None:
    layout = lay_out([3, 4])
    assert bucket_mask(layout, 0, None) is bucket_mask(layout, 0, None)
    assert bucket_mask(layout, 0, 2) is not bucket_mask(layout, 0, None)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_packed_attention_against_a_mask_over_the_whole_row(causal: bool, key_heads: int) -> None:
    lengths = [3, 30, 1, 12, 4]
    q, k, v = states(50, 4, 1), states(50, key_heads, 2), states(50, key_heads, 3)
    owner = np.repeat(np.arange(5), lengths)
    seen = owner[:, None] == owner[None, :]
    seen = np.tril(seen) if causal else seen
    out = packed(q, k, v, lay_out(lengths, causal=causal))
    torch.testing.assert_close(out, reference(q, k, v, seen), rtol=1e-5, atol=1e-6)  # float32 against float64


def test_packed_attention_with_prefix_and_trees() -> None:
    q, k, v = states(10, 2, 1), states(10, 2, 2), states(10, 2, 3)
    layout = lay_out([5, 3], prefix=2, trees=[TREE, None])
    seen = np.zeros((10, 10), dtype=bool)
    seen[:2, :2] = np.tril(np.ones((2, 2)))
    seen[2:, :2] = True
    seen[2:7, 2:7] = np.tril(np.ones((5, 5)))
    seen[4:7, 4:7] = TREE
    seen[7:, 7:] = np.tril(np.ones((3, 3)))
    out = packed(q, k, v, layout)
    torch.testing.assert_close(out, reference(q, k, v, seen), rtol=1e-5, atol=1e-6)  # float32 against float64


def test_gradients_are_those_of_the_whole_row() -> None:
    lengths = [3, 30, 1, 12]
    seen = np.tril(np.equal.outer(*[np.repeat(np.arange(4), lengths)] * 2))
    weight = states(46, 2, 9).transpose(1, 2)
    grads = []
    for by_layout in (True, False):
        parts = [states(46, 2, i).requires_grad_() for i in range(3)]
        out = packed(*parts, lay_out(lengths)) if by_layout else reference(*parts, seen)
        (out * weight).sum().backward()
        grads.append([part.grad for part in parts])
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)  # float32 against float64


@pytest.mark.parametrize("key_heads", [2, 1])
def test_both_ways_to_compute_it_agree(monkeypatch: pytest.MonkeyPatch, key_heads: int) -> None:
    q, k, v = states(12, 2, 0), states(12, key_heads, 1), states(12, key_heads, 2)
    mask = torch.tril(torch.ones(12, 12, dtype=torch.bool))[None, None]
    products = attend(q, k, v, Visible(mask, True), Scores(0.5))
    monkeypatch.setattr(attention, "FUSED_FROM", 1)
    for plain in (True, False):  # by the kernel's own causal mask, and by ours
        fused = attend(q, k, v, Visible(mask, plain), Scores(0.5))
        torch.testing.assert_close(fused, products, rtol=1e-5, atol=1e-6)  # order of sums


@pytest.mark.parametrize(
    ("tiles", "gradients", "dtype", "prefix", "keys"),
    [
        (True, False, torch.bfloat16, 0, 0),
        (True, False, torch.bfloat16, 9, attention.TILED_FROM),
        (True, True, torch.bfloat16, 0, attention.FUSED_FROM),
        (True, False, torch.float32, 0, attention.FUSED_FROM),
        (False, False, torch.bfloat16, 0, attention.FUSED_FROM),
    ],
)
def test_the_fused_kernel_comes_early_where_tiles_are_multiplied_and_nothing_is_learned(
    monkeypatch: pytest.MonkeyPatch, tiles: bool, gradients: bool, dtype: torch.dtype, prefix: int, keys: int
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    with torch.set_grad_enabled(gradients):
        assert fused_from(dtype, prefix) == keys


def test_a_sink_takes_its_share_of_every_query() -> None:
    """As in gpt-oss: one more score in the softmax, that of attending to nothing."""
    q, k, v, sink = states(6, 2, 0), states(6, 2, 1), states(6, 2, 2), torch.tensor([0.5, -1.0])
    scores = (q[0] @ k[0].transpose(1, 2) * q.shape[-1] ** -0.5).masked_fill(~torch.tril(torch.ones(6, 6)).bool(), -1e9)
    weights = torch.cat([scores, sink[:, None, None].expand(-1, 6, 1)], dim=-1).softmax(dim=-1)[..., :6]
    out = packed(q, k, v, lay_out([6]), s_aux=sink)
    torch.testing.assert_close(out[0].transpose(0, 1)[:, :6], weights @ v[0], rtol=1e-5, atol=1e-6)  # order of sums


def test_key_heads_are_repeated_where_no_kernel_shares_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else torch falls back to a kernel that keeps all L * L scores (float32, and GPUs older than Ampere)."""
    seen: list[tuple[int, bool]] = []

    def fused(q: Tensor, k: Tensor, *rest: Any, enable_gqa: bool, **more: Any) -> Tensor:
        seen.append((k.shape[1], enable_gqa))
        return q

    monkeypatch.setattr(attention, "FUSED_FROM", 1)
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", fused)
    q, k = states(6, 4, 0), states(6, 2, 1)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    for shares, plain in ((True, True), (False, True), (True, False)):
        monkeypatch.setattr(attention, "shares_heads", lambda q, shares=shares: shares)
        attend(q, k, k, Visible(mask, plain), Scores(0.5))
    assert seen == [(2, True), (4, False), (4, False)]


def test_which_devices_share_key_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCard(NamedTuple):
        dtype: torch.dtype
        device: torch.device = torch.device("cuda")

    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    for capability, wanted in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert attention.shares_heads(cast("Any", OnCard(torch.bfloat16))) == wanted
        assert not attention.shares_heads(cast("Any", OnCard(torch.float32)))
    assert attention.shares_heads(torch.zeros(1))


def test_dropout_only_in_training() -> None:
    q = states(5, 2)
    layout, module = lay_out([5]), nn.Identity()
    plain = packed(q, q, q, layout, module.eval())
    assert torch.equal(packed(q, q, q, layout, module.eval(), dropout=0.9), plain)
    torch.manual_seed(0)
    dropped = packed(q, q, q, layout, module.train(), dropout=0.9)
    assert not torch.equal(dropped, plain)


def test_without_a_layout_it_refuses() -> None:
    q = states(5, 2)
    with pytest.raises(RuntimeError, match=r"^Identity did not hand on the layout: packed texts would see each other$"):
        packed_attention(nn.Identity(), q, q, q, None)
