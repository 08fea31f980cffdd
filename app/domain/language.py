"""Reads which language a text is written in, and whether an answer is in the language it should be in.

By script first, by diacritics and common words second: good enough to tell English, Vietnamese and Chinese apart and to
name a dozen more. Deliberately no statistics and no data files. Called by the planner's hints and by the roles that
write for the user.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


UNKNOWN = "und"
"""BCP 47's code for an undetermined language; nothing is checked then."""

NAMES = {
    "en": "English",
    "vi": "Vietnamese",
    "zh": "Chinese",
    "ja": "Japanese",
    "ko": "Korean",
    "ru": "Russian",
    "ar": "Arabic",
    "he": "Hebrew",
    "th": "Thai",
    "hi": "Hindi",
    "el": "Greek",
    "fr": "French",
    "de": "German",
    "es": "Spanish",
    "pt": "Portuguese",
    "it": "Italian",
}

LETTERS_MIN = 12
"""Below this many letters an answer is too short to be held against a language."""
SCRIPT_SHARE_MIN = 0.3
"""Share of its script an answer needs: names, code and loan words take the rest."""
VIETNAMESE_SHARE_MIN = 0.04
"""Vietnamese prose has diacritics on a quarter of its letters; French about 4 %, English none."""
FOREIGN_SHARE_MAX = 0.3

_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("zh", re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
)
_SCRIPT_OF = dict(_SCRIPTS)
_VIETNAMESE = re.compile(r"[ăâđêôơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]", re.IGNORECASE)
_VIETNAMESE_WORDS = _words(
    "va cua cho la mot nhung cac khong duoc trong voi hay viet ke hoach ngay gia dinh nhu the nao"
)
_LATIN_WORDS = {
    "en": _words("the and of to a in for with that write make list is are please using then what how one"),
    "fr": _words("le la les et des pour une dans est du un que avec sur écris écrire faire quoi"),
    "de": _words("der die das und ein eine für mit ist zu von den schreibe auf nicht wie was"),
    "es": _words("el los las y una para con en del que por es escribe cómo qué haz"),
    "pt": _words("o os as e uma para com em do da que por é escreva como não"),
    "it": _words("il lo gli e una per con di del che è scrivi come non sono"),
}
_NAMES_A_LANGUAGE = re.compile(
    r"\b(?:translat\w+|english|french|german|spanish|italian|portuguese|chinese|mandarin|japanese|korean|vietnamese|"
    r"russian|arabic|thai|hindi|greek|latin|bilingual)\b|dịch sang|bản dịch|tiếng (?:anh|pháp|trung|nhật|hàn|đức|việt)|"
    r"翻译|翻譯|英文|英语|中文|法语|法文|日语|日文|越南语|越南文|韩语|德语",
    re.IGNORECASE,
)


def detect_language(text: str) -> str:
    """Return the language code of ``text``; ``UNKNOWN`` where nothing speaks for any.

    A script decides where it makes up a fifth of the letters; kana make a text Japanese, however few.
    """
    letters = _letters(text)
    if not letters:
        return UNKNOWN
    if len(_SCRIPT_OF["ja"].findall(letters)) * 20 >= len(letters):
        return "ja"
    for code, script in _SCRIPTS[1:]:
        if len(script.findall(letters)) * 5 >= len(letters):
            return code
    if _share(_VIETNAMESE, letters) >= VIETNAMESE_SHARE_MIN * 1.5:
        return "vi"
    words = re.findall(r"[^\W\d_]+", text.casefold())
    scores = {code: sum(word in common for word in words) for code, common in _LATIN_WORDS.items()}
    plain = sum(word in _VIETNAMESE_WORDS for word in words)
    if plain >= 3 and plain > max(scores.values()):
        return "vi"  # Vietnamese typed without diacritics
    best = max(scores, key=lambda code: scores[code])
    if scores[best] >= 2 or (scores[best] and not letters.isascii()):
        return best
    # One short word says little: "do it" is no Portuguese.
    return "en" if letters.isascii() else UNKNOWN


def language_name(code: str) -> str:
    """Return the English name to be used in a prompt."""
    return NAMES.get(code, "the language of the request")


def names_a_language(*texts: str) -> bool:
    """Tell whether the work is about languages, so that its answer may be in another than the request's."""
    return any(_NAMES_A_LANGUAGE.search(text) for text in texts)


def language_problem(answer: str, language: str) -> str | None:
    """Say what is wrong with the language of ``answer``, or return None.

    Only what script and diacritics show is ever held against an answer; code blocks and short texts never are.
    """
    letters = _letters(re.sub(r"```.*?(?:```|\Z)", " ", answer, flags=re.DOTALL))
    if len(letters) < LETTERS_MIN and not (language in _SCRIPT_OF and len(letters) >= LETTERS_MIN // 2):
        return None
    if language in _SCRIPT_OF:
        scripts = [_SCRIPT_OF[language]] + ([_SCRIPT_OF["zh"]] if language == "ja" else [])
        wrong = sum(_share(script, letters) for script in scripts) < SCRIPT_SHARE_MIN
    elif language == "vi":
        wrong = _share(_VIETNAMESE, letters) < VIETNAMESE_SHARE_MIN
    elif language in _LATIN_WORDS:
        foreign = max(_share(script, letters) for _code, script in _SCRIPTS)
        wrong = foreign > FOREIGN_SHARE_MAX or (
            language != "fr" and _share(_VIETNAMESE, letters) > VIETNAMESE_SHARE_MIN * 2
        )
    else:
        return None
    return f"it is not written in {language_name(language)}" if wrong else None


def sentences(text: str) -> list[str]:
    """Return the sentences of ``text`` in order, list markers kept, blanks dropped; any script."""
    pieces = re.split(r"(?<=[.!?])\s+|(?<=[。!?])\s*|\n+", text)
    return [piece.strip() for piece in pieces if re.search(r"\w", piece)]


def normalised(text: str) -> str:
    """Return ``text`` as it is compared: one form of letters, quotes, dashes and spaces, without markup."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = re.sub(r"[*_`#>\"'“”‘’«»„]", "", folded)
    folded = re.sub(r"[‐‑‒–—―]", "-", folded)
    return " ".join(folded.split())


def words_of(text: str) -> list[str]:
    """Return the words of ``text``, case folded; each Chinese character is a word."""
    return re.findall(
        r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+", text.casefold()
    )


def word_count(texts: Iterable[str]) -> int:
    """Return the number of words over ``texts``."""
    return sum(len(words_of(text)) for text in texts)


def _letters(text: str) -> str:
    return "".join(letter for letter in text if letter.isalpha() or unicodedata.category(letter) in ("Mn", "Mc"))


def _share(script: re.Pattern[str], letters: str) -> float:
    return len(script.findall(letters)) / len(letters) if letters else 0.0
