"""The ladder's tokenizer: lossless, digit by digit, and the quick encoder is the tokenizer."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from envs.ladder.batches import encoder, tokenizer
from envs.ladder.vocabulary import ASSISTANT, END, SIZE, SPECIAL, USER, build
from envs.tasks import generate

ascii_texts = st.text(st.characters(min_codepoint=9, max_codepoint=126), max_size=60)


def test_it_is_the_same_every_time_and_fits() -> None:
    tasks = generate(1, 300)
    assert build(tasks).to_str() == build(tasks).to_str()
    assert tokenizer().get_vocab_size() <= SIZE


def test_special_tokens_come_first() -> None:
    assert [tokenizer().token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))


@given(text=st.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    ids = tokenizer().encode(text.replace("<|", "<"), add_special_tokens=False).ids
    assert tokenizer().decode(ids) == text.replace("<|", "<")


@given(text=ascii_texts)
@settings(max_examples=300)
def test_the_quick_encoder_agrees_with_the_tokenizer(text: str) -> None:
    plain = text.replace("<|", "<")
    assert encoder().text(plain) == tokenizer().encode(plain, add_special_tokens=False).ids


def test_prompts_and_answers_are_framed_as_the_chat_template_does() -> None:
    for task in generate(2, 200, "test"):
        whole = f"{USER}{task.prompt}{END}{ASSISTANT}{task.worked}{END}"
        assert encoder().prompt(task.prompt) + encoder().answer(task.worked) == tokenizer().encode(whole).ids


def test_numbers_are_read_digit_by_digit_and_made_up_words_letter_by_letter() -> None:
    assert tokenizer().encode("2047").tokens == ["2", "0", "4", "7"]
    assert tokenizer().encode("'gorvelma'").tokens[1:-1] == list("gorvelma")


def test_words_of_the_suite_are_one_token() -> None:
    for word in (" Thursday", " kilometres", " alphabetical", " Xavier", " greater"):
        assert len(tokenizer().encode(word).ids) == 1
