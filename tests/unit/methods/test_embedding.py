"""What is told of a loaded model before it is trained."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from lasttoken.config.methods import Embedding
from lasttoken.methods.embedding import advice


@pytest.mark.parametrize(
    ("model", "chat", "told"),
    [
        ("org/Llama-Instruct", True, True),
        ("/data/databases/Llama-Instruct", True, True),  # "base" in the path is not in the name
        ("org/Llama-Base", True, False),  # some base models carry a template
        ("org/Llama", False, False),
    ],
)
def test_a_chat_checkpoint_gets_a_line_of_advice(model: str, chat: bool, told: bool) -> None:
    tokenizer = SimpleNamespace(chat_template="{{ messages }}" if chat else None)
    said = advice(Embedding(model=model), cast("Any", SimpleNamespace(tokenizer=tokenizer, notes=[])))
    assert bool(said) == told
    if told:
        assert said[0].startswith(f"{model} looks like a chat or instruct checkpoint; base checkpoints gave better")
