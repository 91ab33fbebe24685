"""The pieces of a prompt, and the sentences for templates and verbalizers that cannot work."""

import numpy as np
import pytest
from tiny import make_tokenizer

from lasttoken.errors import ConfigError
from lasttoken.labels import LabelSpace
from lasttoken.text.prompt import make_prompt, opening_ids

SINGLE = LabelSpace(("music", "sport"))
MULTI = LabelSpace(("music", "sport", "trade"), multi=True)
PLAIN = make_tokenizer()
CHAT = make_tokenizer(chat=True)


def words(ids: object) -> str:
    return PLAIN.decode(np.asarray(ids, dtype=int).tolist())


def test_the_pieces_of_a_single_label_prompt() -> None:
    prompt = make_prompt(PLAIN, SINGLE)
    assert words(prompt.header) == "<s>Classify the text into one of these labels: music; sport\n\nText:\n"
    assert words(prompt.footer) == "\n\nLabel:"
    assert [words(answer) for answer in prompt.answers] == [" music</s>", " sport</s>"]
    assert prompt.texts == [" music", " sport"]
    assert prompt.questions == []
    assert prompt.answer_path(1) == (prompt.footer, prompt.answers[1])


def test_the_pieces_of_a_multi_label_prompt() -> None:
    prompt = make_prompt(PLAIN, MULTI)
    assert words(prompt.header).startswith("<s>Decide which of these labels apply to the text: music; sport; trade\n")
    assert [words(question) for question in prompt.questions] == [
        f"\n\nDoes the label {name} apply?" for name in MULTI.names
    ]
    assert (words(prompt.yes), words(prompt.no), words(prompt.none)) == (" yes</s>", " no</s>", " none</s>")
    assert prompt.question_path(2, True) == (prompt.questions[2], prompt.yes)
    assert prompt.question_path(0, False) == (prompt.questions[0], prompt.no)
    footer, answer = prompt.set_path([0, 2], PLAIN)
    assert (words(footer), words(answer)) == ("\n\nLabels:", " music, trade</s>")
    assert prompt.set_path([], PLAIN) == (prompt.footer, prompt.none)


def test_a_chat_template_surrounds_it_and_answers_begin_without_a_space() -> None:
    prompt = make_prompt(CHAT, SINGLE)
    assert words(prompt.header).startswith("[user]Classify")
    assert words(prompt.footer) == "\n\nLabel:[/][assistant]"
    assert prompt.texts == ["music", "sport"]
    asked = make_prompt(CHAT, MULTI)
    assert words(asked.questions[0]) == "\n\nDoes the label music apply?[/][assistant]"
    assert words(asked.set_path([1, 2], CHAT)[1]) == "sport, trade</s>"
    assert words(make_prompt(CHAT, SINGLE, chat=False).footer) == "\n\nLabel:"


def test_a_template_and_a_verbalizer_of_ones_own() -> None:
    prompt = make_prompt(PLAIN, SINGLE, template="{text}\n{labels}? ", verbalizer={"sport": "ball games"})
    assert words(prompt.header) == "<s>"
    assert words(prompt.footer) == "\nmusic; ball games? "
    assert prompt.texts == [" music", " ball games"]


def test_label_names_in_braces_are_left_alone() -> None:
    prompt = make_prompt(PLAIN, LabelSpace(("{x}", "100%")))
    assert "labels: {x}; 100%\n" in words(prompt.header)


@pytest.mark.parametrize("template", ["no place for it", "{text} twice {text}"])
def test_a_template_needs_the_text_once(template: str) -> None:
    with pytest.raises(ConfigError, match=r"^prompt: needs \{text\} exactly once, got "):
        make_prompt(PLAIN, SINGLE, template=template)


def test_numbers_answer_for_labels_that_the_prompt_names() -> None:
    prompt = make_prompt(PLAIN, SINGLE, verbalizer="numbers")
    assert prompt.texts == [f" {i + 1}" for i in range(len(SINGLE))]
    assert words(prompt.header) == "<s>Classify the text into one of these labels: 1: music; 2: sport\n\nText:\n"
    assert words(make_prompt(PLAIN, MULTI, verbalizer="numbers").questions[1]) == "\n\nDoes the label 2: sport apply?"
    assert not make_prompt(PLAIN, SINGLE, verbalizer="numbers", room=3).listed


def test_every_problem_of_a_verbalizer_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        make_prompt(PLAIN, MULTI, verbalizer={"musik": "x", "sport": " ", "trade": "music"})
    assert caught.value.problems == [
        "verbalizer: 1 unknown label(s) 'musik'; known are 'music', 'sport', 'trade'; did you mean 'music' for 'musik'?",
        "verbalizer: the answer of 'sport' is empty",
        "verbalizer: several labels answer 'music'",
    ]


def test_what_stands_before_any_text() -> None:
    assert opening_ids(make_tokenizer()) == [0]
    assert opening_ids(make_tokenizer(bos=False)) == []
    assert opening_ids(make_tokenizer(encoder=True)) == [0]


def test_a_label_that_names_the_text_place_is_no_place_for_the_text() -> None:
    prompt = make_prompt(PLAIN, LabelSpace(("{text}", "other")))
    assert "{text}; other" in words(prompt.header)


@pytest.mark.parametrize("multi", [False, True])
def test_labels_too_many_for_their_room_are_not_listed(multi: bool) -> None:
    tokenizer, labels = make_tokenizer(), LabelSpace(("music", "sport", "trade"), multi)
    whole = make_prompt(tokenizer, labels, room=100)
    short = make_prompt(tokenizer, labels, room=2)
    assert (whole.listed, short.listed) == (True, False)
    assert "music; sport; trade" in tokenizer.decode(whole.header)
    assert "music" not in tokenizer.decode(short.header)
    assert short.answers == whole.answers
    assert make_prompt(tokenizer, labels, template="{labels}: {text}", room=2).listed
