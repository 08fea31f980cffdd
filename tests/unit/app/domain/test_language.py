"""Languages are told apart where code can, and nothing is held against an answer where it cannot."""

from __future__ import annotations

import pytest

from app.domain.clarity import unclear_sign
from app.domain.language import detect_language, language_problem, names_a_language, normalised, sentences, words_of
from app.domain.prose import json_text, loops, without_cut_end, without_repeats

VIETNAMESE = "Gia đình đi dạo quanh hồ Hoàn Kiếm, thăm đền Ngọc Sơn và ăn phở ở phố cổ."
CHINESE = "第一天全家人在湖边散步,然后参观寺庙,晚上吃面条。"
ENGLISH = "On the first day the family walks around the lake and eats noodles in the old town."
FRENCH = "Le premier jour, la famille fait le tour du lac, puis elle déjeune à l'ombre près de la forêt."


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (ENGLISH, "en"),
        (VIETNAMESE, "vi"),
        ("Lap ke hoach cho gia dinh trong mot ngay", "vi"),
        (CHINESE, "zh"),
        ("写一份 Python 和 Rust 的简短指南 for beginners", "zh"),
        ("プログラム言語を三つ紹介して", "ja"),
        ("서울 여행 계획을 세워 줘", "ko"),
        ("Составь план поездки", "ru"),
        (FRENCH, "fr"),
        ("Schreibe einen Plan für eine Reise mit der Familie", "de"),
        ("do it", "en"),
        ("12345", "und"),
        ("", "und"),
    ],
)
def test_language_is_detected(text: str, code: str) -> None:
    """By script, by diacritics, by common words."""
    assert detect_language(text) == code


@pytest.mark.parametrize(
    ("answer", "language", "wrong"),
    [
        (ENGLISH, "en", False),
        (VIETNAMESE, "en", True),
        (CHINESE, "en", True),
        (FRENCH, "en", False),
        (VIETNAMESE, "vi", False),
        (ENGLISH, "vi", True),
        (FRENCH, "vi", True),
        (CHINESE, "zh", False),
        (ENGLISH, "zh", True),
        (f"{CHINESE} Python, Rust, Go, JavaScript", "zh", False),
        ("OK", "zh", False),
        ("```\nfor day in range(3): print(day, 'walk around the lake')\n```", "zh", False),
        (ENGLISH, "und", False),
    ],
)
def test_answer_in_the_wrong_language_is_seen(answer: str, language: str, wrong: bool) -> None:
    """Names, code and short answers are never held against a text."""
    assert (language_problem(answer, language) is not None) is wrong


@pytest.mark.parametrize("text", ["Translate it to French", "Dịch sang tiếng Anh", "把它翻译成英文"])
def test_work_about_languages_is_seen(text: str) -> None:
    """Its answer may be in another language than the request."""
    assert names_a_language(text)
    assert not names_a_language(ENGLISH, VIETNAMESE)


def test_sentences_and_words_of_any_script() -> None:
    """Full stops of both kinds end a sentence; each Chinese character is a word."""
    assert sentences("A one. B two!\n- three\n\n好的。再见。") == ["A one.", "B two!", "- three", "好的。", "再见。"]
    assert words_of("Đi 2 ngày, 好") == ["đi", "2", "ngày", "好"]
    assert normalised("“Paper *cups*”  –  A") == "paper cups - a"


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("do it", "strong"),
        ("please help me with this", "strong"),
        ("làm đi", "strong"),
        ("帮我做一下", "strong"),
        ("???", "strong"),
        ("Write about [topic]", "weak"),
        ("Write a poem about ...", "weak"),
        ("translate this", "strong"),
        ("Summarise it, please", "strong"),
        ("翻译这个", "strong"),
        ("Summarise this report", "weak"),
        ("Translate this sentence: the cat sleeps on it", "none"),
        ("Poem", "weak"),
        ("Translate 'good morning' to French", "none"),
        ("Write a poem about cats", "none"),
        ("Review the file [1] and see [the docs](http://x)", "none"),
        ("写一首关于猫的诗", "none"),
    ],
)
def test_signs_of_an_unclear_request(text: str, sign: str) -> None:
    """A question needs a reason that can be seen."""
    assert unclear_sign(text) == sign


def test_text_that_goes_round_in_circles_is_seen() -> None:
    """The usual defect of a very small model."""
    assert loops("Sell less of the food. " * 8)
    assert not loops(ENGLISH)
    assert not loops("")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One is done. Two is do", "One is done."),
        ("One is done. Two costs 3.5", "One is done."),
        ("第一句。第二句没", "第一句。"),
        ("never finished at all", "never finished at all"),
        ("1. Milk is first.\n2.", "1. Milk is first."),
    ],
)
def test_cut_end_is_dropped(text: str, kept: str) -> None:
    """Half a sentence helps nobody; a text without any end stays as it is."""
    assert without_cut_end(text) == kept


def test_repeats_and_json_in_prose() -> None:
    """Said once is enough; text that is no JSON stays as it is."""
    assert without_repeats("A b. C d. A b.") == "A b. C d."
    assert json_text("no json here") == ("no json here", False)
    assert json_text("so: [1, 2]")[0] == "[\n  1,\n  2\n]"
