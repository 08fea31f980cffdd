"""Matches regular expressions in time linear in the text, whatever the pattern.

Patterns come from a model's plan and may be hostile; Python's backtracking ``re`` can take hours on thirty characters.
This simulates the automaton instead (Thompson, 1968). It knows literals, ``.``, classes, ``\\d \\w \\s`` and their
opposites, ``\\b``, groups, ``|``, ``* + ? {m,n}`` (lazy forms too: for a search they are equal), ``^ $ \\A \\Z`` and a
leading ``(?i)``/``(?m)``/``(?s)``. No back-references and no look-around: those are refused when compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

PATTERN_CHARS_MAX = 200
STATES_MAX = 600
REPEAT_MAX = 100
TEXT_CHARS_MAX = 10_000
"""Only so much of a text is searched: a second or two at the very worst, milliseconds as a rule."""
DEPTH_MAX = 20

_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": str.isdigit,
    "D": lambda letter: not letter.isdigit(),
    "w": lambda letter: letter.isalnum() or letter == "_",
    "W": lambda letter: not (letter.isalnum() or letter == "_"),
    "s": str.isspace,
    "S": lambda letter: not letter.isspace(),
}
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_FLAGS = re.compile(r"\(\?([ims]+)\)")


@dataclass(slots=True, eq=False)
class _State:
    """One state: takes a letter to ``out``, or splits to several without taking any."""

    takes: Callable[[str], bool] | None = None
    anchor: str = ""
    """An empty match that must hold here: ^ $ A Z b B."""
    out: list[_State] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Fragment:
    start: _State
    ends: list[_State]


class SafePattern:
    """A compiled pattern."""

    def __init__(self, start: _State, end: _State, *, ignore_case: bool, multiline: bool) -> None:
        self._start = start
        self._end = end
        self._ignore_case = ignore_case
        self._multiline = multiline

    def search(self, text: str) -> bool:
        """Tell whether the pattern matches anywhere in the first ``TEXT_CHARS_MAX`` characters of ``text``."""
        text = text[:TEXT_CHARS_MAX]
        if self._ignore_case:
            text = text.lower()
        active: set[_State] = set()
        for position in range(len(text) + 1):
            active = self._closure(active | {self._start}, text, position)
            if self._end in active:
                return True
            if position < len(text):
                letter = text[position]
                active = {state.out[0] for state in active if state.takes is not None and state.takes(letter)}
        return False

    def _closure(self, states: set[_State], text: str, position: int) -> set[_State]:
        found: set[_State] = set()
        waiting = list(states)
        while waiting:
            state = waiting.pop()
            if state in found:
                continue
            found.add(state)
            if state.takes is None and (not state.anchor or self._holds(state.anchor, text, position)):
                waiting.extend(state.out)
        return found

    def _holds(self, anchor: str, text: str, position: int) -> bool:
        before, after = text[position - 1 : position] if position else "", text[position : position + 1]
        if anchor == "^":
            return position == 0 or (self._multiline and before == "\n")
        if anchor == "$":
            return position == len(text) or text[position:] == "\n" or (self._multiline and after == "\n")
        if anchor in "AZ":
            return position == (0 if anchor == "A" else len(text))
        boundary = _is_word(before) != _is_word(after)
        return boundary if anchor == "b" else not boundary


def compile_safe(pattern: str) -> SafePattern:
    """Compile ``pattern``.

    Raises:
        ValueError: it is too long, malformed, or needs back-references or look-around.
    """
    if len(pattern) > PATTERN_CHARS_MAX:
        raise ValueError(f"it has {len(pattern)} characters; at most {PATTERN_CHARS_MAX} are allowed")
    flags = ""
    leading = _FLAGS.match(pattern)
    if leading:
        flags, pattern = leading.group(1), pattern[leading.end() :]
    parser = _Parser(pattern, dot_all="s" in flags, ignore_case="i" in flags)
    fragment = parser.parse()
    end = _State()
    for state in fragment.ends:
        state.out.append(end)
    return SafePattern(fragment.start, end, ignore_case="i" in flags, multiline="m" in flags)


class _Parser:
    """Recursive descent over the pattern; builds the automaton as it goes."""

    def __init__(self, pattern: str, *, dot_all: bool, ignore_case: bool) -> None:
        self._pattern = pattern
        self._at = 0
        self._dot_all = dot_all
        self._states = 0
        self._ignore_case = ignore_case

    def parse(self) -> _Fragment:
        fragment = self._either(0)
        if self._at < len(self._pattern):
            raise ValueError("it closes a bracket that was never opened")
        return fragment

    def _either(self, depth: int) -> _Fragment:
        if depth > DEPTH_MAX:
            raise ValueError("its groups are nested too deeply")
        branches = [self._sequence(depth)]
        while self._take("|"):
            branches.append(self._sequence(depth))
        if len(branches) == 1:
            return branches[0]
        split = self._state()
        split.out.extend(branch.start for branch in branches)
        return _Fragment(split, [end for branch in branches for end in branch.ends])

    def _sequence(self, depth: int) -> _Fragment:
        first = self._state()
        whole = _Fragment(first, [first])
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            whole = _joined(whole, self._repeated(depth))
        return whole

    def _repeated(self, depth: int) -> _Fragment:
        start = self._at
        piece = self._atom(depth)
        after = self._at
        least, most = self._quantifier()
        if (least, most) == (1, 1):
            return piece
        if most is not None and (most > REPEAT_MAX or least > most):
            raise ValueError(f"a repetition may be at most {REPEAT_MAX} times, and not backwards")
        end = self._at
        copies = [self._again(start, after, depth) for _ in range(least if most is None else most)]
        self._at = end
        return self._chain(copies, least, most, lambda: self._again(start, after, depth), end)

    def _chain(
        self, copies: list[_Fragment], least: int, most: int | None, fresh: Callable[[], _Fragment], end: int
    ) -> _Fragment:
        first = self._state()
        whole = _Fragment(first, [first])
        skips: list[_State] = []
        for number, copy in enumerate(copies):
            if number >= least:
                gate = self._state()
                whole = _joined(whole, _Fragment(gate, [gate]))
                skips.append(gate)
            whole = _joined(whole, copy)
        if most is None:
            loop, body = self._state(), fresh()
            self._at = end
            whole = _joined(whole, _Fragment(loop, [loop]))
            loop.out.append(body.start)
            for state in body.ends:
                state.out.append(loop)
            # The way on is one more exit of the loop, beside its body.
            way_on = self._state()
            loop.out.append(way_on)
            return _Fragment(whole.start, [way_on])
        return _Fragment(whole.start, whole.ends + skips)

    def _again(self, start: int, after: int, depth: int) -> _Fragment:
        """Build another copy of the atom that stands between ``start`` and ``after``."""
        self._at = start
        piece = self._atom(depth)
        assert self._at == after
        return piece

    def _quantifier(self) -> tuple[int, int | None]:
        least: int = 1
        most: int | None = 1
        if self._take("*"):
            least, most = 0, None
        elif self._take("+"):
            least, most = 1, None
        elif self._take("?"):
            least, most = 0, 1
        else:
            found = re.compile(r"\{(\d{1,3})?(,)?(\d{1,3})?\}").match(self._pattern, self._at)
            if found is None or not (found.group(1) or found.group(3)):
                return 1, 1
            self._at = found.end()
            least = int(found.group(1) or 0)
            most = int(found.group(3)) if found.group(3) else None
            if found.group(2) is None:
                most = least
            if least > REPEAT_MAX:
                raise ValueError(f"a repetition may be at most {REPEAT_MAX} times")
        if self._take("?"):  # lazy: for the question "does it match anywhere" there is no difference
            return least, most
        if self._at < len(self._pattern) and self._pattern[self._at] in "*+":
            raise ValueError("it repeats a repetition")
        return least, most

    def _atom(self, depth: int) -> _Fragment:
        letter = self._next()
        if letter == "(":
            return self._group(depth)
        if letter == "[":
            return self._taking(self._character_class())
        if letter == ".":
            return self._taking((lambda _letter: True) if self._dot_all else (lambda found: found != "\n"))
        if letter in "^$":
            return self._anchored(letter)
        if letter == "\\":
            return self._escape()
        if letter in "*+?":
            raise ValueError(f"nothing stands before {letter!r}")
        return self._literal(letter)

    def _group(self, depth: int) -> _Fragment:
        if self._take("?") and not self._take(":"):
            named = re.compile(r"P<\w+>").match(self._pattern, self._at)
            if named is None:
                raise ValueError("look-around and special groups are not supported")
            self._at = named.end()
        inner = self._either(depth + 1)
        if not self._take(")"):
            raise ValueError("a group is not closed")
        return inner

    def _escape(self) -> _Fragment:
        letter = self._next()
        if letter in _CLASSES:
            return self._taking(_CLASSES[letter])
        if letter in "AZbB":
            return self._anchored(letter)
        if letter.isdigit():
            raise ValueError("back-references are not supported")
        return self._literal(self._unescaped(letter))

    def _unescaped(self, letter: str) -> str:
        if letter in "xu":
            digits = self._pattern[self._at : self._at + (2 if letter == "x" else 4)]
            if not re.fullmatch(r"[0-9a-fA-F]{2}|[0-9a-fA-F]{4}", digits):
                raise ValueError(f"\\{letter} needs hexadecimal digits")
            self._at += len(digits)
            return chr(int(digits, 16))
        if letter.isalpha() and letter not in _ESCAPED:
            raise ValueError(f"\\{letter} is not supported")
        return _ESCAPED.get(letter, letter)

    def _character_class(self) -> Callable[[str], bool]:
        opposite = self._take("^")
        tests: list[Callable[[str], bool]] = []
        first = True
        while first or self._peek() != "]":
            first = False
            letter = self._next()
            if letter == "\\":
                letter = self._next()
                if letter in _CLASSES:
                    tests.append(_CLASSES[letter])
                    continue
                letter = self._unescaped(letter)
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                self._next()
                last = self._next()
                last = self._unescaped(self._next()) if last == "\\" else last
                tests.append(self._between(letter, last))
            else:
                tests.append(self._equal(letter))
        self._next()
        return lambda found: any(test(found) for test in tests) != opposite

    def _between(self, first: str, last: str) -> Callable[[str], bool]:
        if last < first:
            raise ValueError(f"the range {first}-{last} runs backwards")
        if self._ignore_case:
            return lambda found: first <= found <= last or first <= found.upper() <= last
        return lambda found: first <= found <= last

    def _equal(self, letter: str) -> Callable[[str], bool]:
        wanted = letter.lower() if self._ignore_case else letter
        return lambda found: found == wanted

    def _literal(self, letter: str) -> _Fragment:
        return self._taking(self._equal(letter))

    def _taking(self, takes: Callable[[str], bool]) -> _Fragment:
        state, behind = self._state(), self._state()
        state.takes = takes
        state.out.append(behind)
        return _Fragment(state, [behind])

    def _anchored(self, anchor: str) -> _Fragment:
        state = self._state()
        state.anchor = anchor
        return _Fragment(state, [state])

    def _state(self) -> _State:
        self._states += 1
        if self._states > STATES_MAX:
            raise ValueError("it is too large")
        return _State()

    def _take(self, letter: str) -> bool:
        if self._peek() == letter:
            self._at += 1
            return True
        return False

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        letter = self._peek()
        if not letter:
            raise ValueError("it ends in the middle")
        self._at += 1
        return letter


def _joined(first: _Fragment, second: _Fragment) -> _Fragment:
    for state in first.ends:
        state.out.append(second.start)
    return _Fragment(first.start, second.ends)


def _is_word(letter: str) -> bool:
    return bool(letter) and _CLASSES["w"](letter)
