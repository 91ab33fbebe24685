"""Loading: where models are found, and the sentences for those that cannot be used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, Gemma3nTextConfig, LlamaConfig

from lasttoken.errors import ModelError
from lasttoken.model import load as loading
from lasttoken.model.attention import NAME
from lasttoken.model.backbone import Backbone
from lasttoken.model.load import TINY, VocabularyHead, fingerprint, keep_blocks, load, load_config, locate, quantisation
from lasttoken.model.verify import close

CPU = torch.device("cpu")


def test_locate() -> None:
    assert locate("org/name") == "org/name"
    assert Path(locate("tiny")).name == "tiny"


def test_a_model_is_loaded_frozen_in_evaluation_mode_with_packed_attention(
    load_shared: Callable[..., Backbone],
) -> None:
    backbone = load_shared("llama")
    assert (backbone.width, backbone.window, backbone.causal, backbone.offset) == (64, 256, True, 0)
    assert not backbone.whole.training
    assert not any(p.requires_grad for p in backbone.whole.parameters())
    assert backbone.whole.config._attn_implementation == NAME
    assert backbone.vocabulary is None
    assert backbone.compute == torch.float32


def test_an_encoder_is_found_out_by_what_it_does(load_shared: Callable[..., Backbone]) -> None:
    assert not load_shared("bert", kind="any").causal
    assert load_shared("llama", kind="any").causal
    roberta = load_shared("roberta", kind="encoder")
    assert (roberta.offset, roberta.window) == (2, 256)  # positions begin behind the padding id


def test_compute_can_be_narrower_than_the_weights(folder: Callable[..., Path]) -> None:
    backbone = load(str(folder("llama")), kind="decoder", device=CPU, precision="bfloat16", weights=torch.float32)
    assert {p.dtype for p in backbone.whole.parameters()} == {torch.float32}
    with backbone.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_a_model_that_does_not_exist() -> None:
    with pytest.raises(
        ModelError,
        match=r"^model 'no-such/model' not found: searched the folder \./no-such/model, the cache .*HF_HUB_OFFLINE is set",
    ):
        load("no-such/model", kind="decoder", device=CPU)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model that transformers can read"):
        load_config(str(tmp_path))


def test_a_model_that_brings_code(folder: Callable[..., Path], tmp_path: Path) -> None:
    place = tmp_path / "own-code"
    shutil.copytree(folder("llama"), place)
    values = json.loads((place / "config.json").read_text())
    values |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (place / "config.json").write_text(json.dumps(values))
    with pytest.raises(
        ModelError, match=r"brings its own code, which is not run unless you set trust_remote_code = true$"
    ):
        load_config(str(place))


def test_nf4_needs_more_than_mps(folder: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"4-bit NF4 needs CUDA or a CPU, not MPS; use --quantize none$"):
        load(str(folder("llama")), kind="decoder", device=torch.device("mps"), quantize="nf4")


def test_the_vocabulary_head_knows_soft_cap_and_scale() -> None:
    class Model(nn.Module):
        def __init__(self, **values: float):
            super().__init__()
            self.out = nn.Linear(2, 1, bias=False)
            nn.init.ones_(self.out.weight)
            self.config = type("Config", (), {"get_text_config": lambda self: type("Text", (), values)()})()

        def get_output_embeddings(self) -> nn.Linear:
            return self.out

    x = torch.tensor([[2.0, 4.0]])
    assert VocabularyHead(Model())(x).item() == 6.0
    assert VocabularyHead(Model(logit_scale=0.5))(x).item() == 3.0
    assert VocabularyHead(Model(logits_scaling=4.0))(x).item() == 1.5
    assert VocabularyHead(Model(final_logit_softcapping=2.0))(x).item() == pytest.approx(
        2 * 0.9950548, rel=1e-6
    )  # 2 tanh 3


def test_close_is_relative_and_wider_for_bfloat16() -> None:
    b = torch.full((4,), 100.0)
    assert close(b * 1.0005, b)
    assert not close(b * 1.01, b)
    assert close((b * 1.01).bfloat16(), b)


def test_fingerprint_is_of_names_sizes_and_content(folder: Callable[..., Path], tmp_path: Path) -> None:
    place = tmp_path / "copy"
    shutil.copytree(folder("llama"), place)
    before = fingerprint(str(place))
    assert before == fingerprint(str(folder("llama")))
    (place / "notes.txt").write_text("of no weight")
    assert fingerprint(str(place)) == before
    data = bytearray((place / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (place / "model.safetensors").write_bytes(data)
    assert fingerprint(str(place)) != before
    assert fingerprint("org/name") is None


def test_how_much_of_a_model_is_in_4_bits_is_told(load_shared: Callable[..., Backbone]) -> None:
    assert quantisation(load_shared("llama", quantize="nf4")) == "14 of 14 linear layers in 4-bit NF4"
    with pytest.raises(ModelError, match="none of its 14 linear layers took 4-bit NF4; use --quantize none"):
        quantisation(load_shared("llama"))


def test_the_embedded_model_fits_the_wheel_and_bitsandbytes() -> None:
    files = {path.name: path.stat().st_size for path in TINY.iterdir() if path.is_file()}
    assert sum(files.values()) <= 20 * 10**6
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files.keys()
    model = load("tiny", kind="decoder", device=CPU)
    inside = {layer.in_features for layer in model.module.modules() if isinstance(layer, nn.Linear)}
    assert all(size % 64 == 0 for size in inside), inside
    assert load_config("tiny").vocab_size == len(model.tokenizer)


def test_blocks_are_left_out_only_where_that_changes_none_of_the_others() -> None:
    """ALBERT runs one block so often as it has layers; the upper blocks of Gemma 3n take keys from lower ones, counted from the top."""
    kept = {}
    for config in (
        LlamaConfig(num_hidden_layers=4),
        AlbertConfig(num_hidden_layers=4),
        Gemma3nTextConfig(num_hidden_layers=20),
    ):
        keep_blocks(config, 2)
        kept[config.model_type] = config.num_hidden_layers
    assert kept == {"llama": 2, "albert": 4, "gemma3n_text": 20}


def test_a_checkpoint_goes_straight_to_the_card(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through host memory it would take the size of the whole model there; cuDNN would plan for each new length."""
    given: dict[str, Any] = {}
    switched: list[bool] = []

    def from_pretrained(place: str, **options: Any) -> None:
        given.update(options)
        raise OSError("no card here")

    monkeypatch.setattr(loading.AutoModel, "from_pretrained", from_pretrained)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", switched.append)
    for device in (CPU, torch.device("cuda", 1)):
        given.clear()
        with pytest.raises(ModelError):
            load(str(folder("llama")), kind="decoder", device=device, precision="bfloat16")
        assert given.get("device_map") == (None if device.type == "cpu" else {"": device})
    assert switched == [False]
