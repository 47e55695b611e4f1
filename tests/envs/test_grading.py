"""The grader forgives form and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.families import AnswerKind
from envs.grading import Expected, is_right

NUMBER = Expected("1250", AnswerKind.NUMBER)
METRES = Expected("2.5", AnswerKind.NUMBER, unit="m")
ORDER = Expected("3, 14, 159", AnswerKind.SEQUENCE)
NAMES = Expected("Ada, Ben, Zoe", AnswerKind.SEQUENCE)
WORD = Expected("tarnep", AnswerKind.WORD)
DATE = Expected("2024-03-05", AnswerKind.DATE)
PERSON = Expected("Ben", AnswerKind.CHOICE, options=("Ada", "Ben", "Zoe"))
TRUTH = Expected("true", AnswerKind.CHOICE, options=("true", "false"))

RIGHT = [
    (NUMBER, "1250"),
    (NUMBER, "1,250."),
    (NUMBER, "1 250"),
    (NUMBER, "The answer is 1250.0"),
    (NUMBER, "the ANSWER is: **1,250** apples"),
    (NUMBER, "1000 + 250 = 1250"),
    (NUMBER, "5 * 250 = 1250\nAnswer: 1250"),
    (NUMBER, "She has 1250 apples."),
    (NUMBER, "So \\boxed{1250}"),
    (NUMBER, "#### 1250"),
    (NUMBER, "The answer is 1250, because 5 * 250 = 1250."),
    (NUMBER, "First 3, then 7.\nAnswer:\n1250"),
    (Expected("-3", AnswerKind.NUMBER), "The answer is −3."),
    (Expected("4", AnswerKind.NUMBER), "There are four."),
    (METRES, "2.5 m"),
    (METRES, "2.50 meters"),
    (METRES, "The answer is 2.5"),
    (ORDER, "[3, 14, 159]"),
    (ORDER, "The sorted list is 3 14 159."),
    (ORDER, "3\n14\n159"),
    (ORDER, "1. 3\n2. 14\n3. 159"),
    (ORDER, "Answer: 3 < 14 < 159"),
    (NAMES, "ada, ben and zoe"),
    (NAMES, "Sorted: Ada, Ben, Zoe. "),
    (WORD, "Tarnep"),
    (WORD, "The answer is 'tarnep'."),
    (WORD, "It becomes t-a-r-n-e-p"),
    (WORD, "The resulting word is tarnep!"),
    (DATE, "5 March 2024"),
    (DATE, "The answer is March 5th, 2024."),
    (DATE, "2024-03-05"),
    (DATE, "30 days after 4 February 2024 is 5 Mar 2024"),
    (PERSON, "ben"),
    (PERSON, "The answer is Ben."),
    (PERSON, "Ben is the tallest."),
    (PERSON, "The answer is Ben, who is taller than Ada."),
    (PERSON, "Ada > Zoe.\nAnswer: Ben"),
    (TRUTH, "True."),
    (TRUTH, "Yes"),
    (TRUTH, "The answer is true"),
]
WRONG = [
    (NUMBER, ""),
    (NUMBER, "125"),
    (NUMBER, "12500"),
    (NUMBER, "The answer is 1250 or 1251."),
    (NUMBER, "The answer is not 1250."),
    (NUMBER, "1250 is close, but the answer is 1251."),
    (NUMBER, "It isn't 1250"),
    (NUMBER, "Answer: 1, 2, 1250"),
    (NUMBER, "1.250"),
    (NUMBER, "I do not know."),
    (METRES, "2.5 km"),
    (METRES, "The answer is 2.5 centimetres"),
    (METRES, "25 m"),
    (ORDER, "14, 3, 159"),
    (ORDER, "3, 14"),
    (ORDER, "3, 14, 15, 159"),
    (NAMES, "Ada, Zoe, Ben"),
    (WORD, "tarnpe"),
    (WORD, "tarnep or tarnpe"),
    (WORD, "The answer is not tarnep"),
    (DATE, "6 March 2024"),
    (DATE, "5 March 2023"),
    (DATE, "The answer is 5 March 2024 or 6 March 2024"),
    (DATE, "31 February 2024"),
    (PERSON, "Ada"),
    (PERSON, "Ada or Ben"),
    (PERSON, "Ada, Ben, Zoe"),
    (PERSON, "The answer is not Ben"),
    (PERSON, "Benjamin"),
    (PERSON, "Ben is taller than Ada, which gives Ben > Ada."),
    (TRUTH, "False"),
    (TRUTH, "no"),
    (TRUTH, "true or false"),
]


@pytest.mark.parametrize(("expected", "text"), RIGHT)
def test_harmless_form_is_forgiven(expected: Expected, text: str) -> None:
    assert is_right(expected, text)


@pytest.mark.parametrize(("expected", "text"), WRONG)
def test_wrong_hedged_and_negated_answers_are_not_accepted(expected: Expected, text: str) -> None:
    assert not is_right(expected, text)


_PIECES = (
    "The answer is",
    "=",
    "12",
    "-3.5",
    "1,000",
    "1 2",
    ":",
    "\n",
    "**",
    "not",
    "twelve",
    "km",
    "\\boxed{4}",
    "$",
    ".",
)
EXPECTED = [NUMBER, METRES, ORDER, NAMES, WORD, DATE, PERSON, TRUTH]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(_PIECES) | st.text(max_size=12), max_size=12), st.sampled_from(EXPECTED))
def test_no_text_of_a_model_breaks_the_grader(pieces: list[str], expected: Expected) -> None:
    """Real models write anything; whatever it is, it is right or wrong."""
    assert is_right(expected, " ".join(pieces)) in (True, False)


def test_a_statement_that_ends_in_an_equals_sign_says_nothing() -> None:
    assert is_right(NUMBER, "The answer is 1000 + 250 =") is False
