"""The arithmetic of the GPU's steps: kernels by group, differences of gradients, in what pass memory ran out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lasttoken.config.settings import Training


@pytest.fixture(autouse=True)
def bench(scripts_of: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    scripts_of("speed")
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "bench"))


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "products"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x1_tn_align8>", "products"),
        ("void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>(float*, unsigned char*)", "de-quantising"),
        ("void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, cutlass::bfloat16_t>>", "attention"),
        ("fmha_cutlassF_f32_aligned_64x64_rf_sm80", "attention"),
        ("void kOptimizerStatic8bit2StateBlockwise<float, 0, 256, 1>", "optimiser"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimiser"),
        ("Memcpy HtoD (Pageable -> Device)", "copies to and from the host"),
        ("Memcpy DtoD (Device -> Device)", "elementwise, norms and sums"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::MulFunctor<c10::BFloat16>>",
            "elementwise, norms and sums",
        ),
    ],
)
def test_kernels_are_of_one_group(kernel: str, group: str) -> None:
    from gpu_steps.profile import group_of

    assert group_of(kernel) == group


def test_what_no_kernel_takes_is_the_hosts() -> None:
    from gpu_steps.profile import Profile

    profile = Profile(torch.device("cpu"), updates=2)
    profile.wall = 0.1
    profile.kernels = {"gemm": (4, 0.06), "kDequantizeBlockwise": (2, 0.01), "add": (6, 0.01)}
    found = profile.figures()
    assert found["milliseconds of an update"] == 50.0
    groups = {"products": 30.0, "de-quantising": 5.0, "elementwise, norms and sums": 5.0, "host, the card waits": 10.0}
    assert {name: found[name] for name in groups} == pytest.approx(groups)
    assert found["busy share"] == pytest.approx(0.8)
    assert found["launches"] == 6.0
    assert list(found["largest"]) == ["gemm", "kDequantizeBlockwise", "add"]


def test_differences_are_relative() -> None:
    from gpu_steps.correct import apart

    wanted = 2.0, [torch.tensor([3.0, 4.0]), torch.tensor([12.0])]
    found = apart((2.2, [torch.tensor([3.0, 4.0]), torch.tensor([12.0 + 1.3])]), wanted)
    assert found == pytest.approx({"loss": 0.1, "gradients": 0.1, "worst gradient": 1.3 / 12})  # |(3, 4, 12)| = 13


def test_the_pass_in_which_memory_ran_out() -> None:
    from gpu_steps.correct import stage_of

    full, again = "out of memory: a micro-batch now holds 4096 tokens; the update is done again", "backward begins"
    assert stage_of(["training: 32 rows", full, again, again]) == "forward"
    assert stage_of(["training: 32 rows", again, full, again, again]) == "backward"
    assert stage_of(["training: 32 rows", again]) == "none"


def test_settings_of_training_change_alone() -> None:
    from gpu_steps.trainee import with_training

    from lasttoken.config.methods import Embedding

    config = with_training(Embedding(model="tiny", train=Training(batch=4)), optimizer="adamw", compile=True)
    assert (config.train.batch, config.train.optimizer, config.train.compile) == (4, "adamw", True)
