"""Scores of answers, and how an answer is read from a model's words: no judge, no chance.

Where a published score exists, this is its formula; `docs/evaluation_benchmarks.md` says which benchmark uses what.
"""

import re
import string
import unicodedata
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path

from vl3ref.errors import InputError
from vl3ref.files import read_bytes

# --------------------------------------------------------------------------------------------------------------- texts


def levenshtein(a: str, b: str) -> int:
    """How many characters have to be put in, taken out or exchanged to make one text of the other."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            before, row[j] = row[j], min(before + (left != right), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def anls(response: str, answers: Iterable[str], cut: float = 0.5) -> float:
    """Average normalised Levenshtein similarity of one response to the nearest answer, 0 to 1.

    Case, and how much space lies between words, make no difference.

    Args:
        cut: a score below it is 0. DocVQA's server cuts at 0.5; the authors' evaluation does not cut (0).
    """
    distances = [1.0]
    for answer in answers:
        length = max(len(answer.upper()), len(response.upper()))
        between = levenshtein(*(" ".join(text.lower().split()) for text in (answer, response)))
        distances.append(between / length if length else 0.0)
    score = 1 - min(distances)
    return score if score >= cut else 0.0


def relaxed(response: str, answer: str, forgiving: bool = False) -> bool | None:
    """ChartQA's relaxed accuracy: a number may miss by 5 %.

    Args:
        forgiving: a hundred times and a hundredth of the number are right too, as in the authors' evaluation.

    Returns:
        None where numbers do not decide, because one of the two is none or the answer is 0: texts are compared.
    """
    given, right = _number(response), _number(answer)
    if given is None or not right:
        return None
    pairs = [(given, right)] + ([(given, right / 100), (given / 100, right)] if forgiving else [])
    return any(target != 0 and abs(value - target) / abs(target) <= 0.05 for value, target in pairs)


def relaxed_accuracy(response: str, answer: str) -> bool:
    """`relaxed`, and for texts the same letters but for their case."""
    decided = relaxed(response, answer)
    return response.lower() == answer.lower() if decided is None else decided


def _number(text: str) -> float | None:
    """A percentage is a hundredth of its number."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def normalised(text: str) -> str:
    """Lower case, single spaces, without punctuation around it and without an article in front."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?\"'`*()[]")
    return re.sub(r"^(a|an|the) (?=.)", "", text)


def exact_match(response: str, answer: str) -> bool:
    """Equal once both are normalised. A text of punctuation alone equals itself only."""
    return (normalised(response) or response) == (normalised(answer) or answer)


def number_in(text: str) -> float | None:
    """The number that a text gives: the one after its last "answer is", "answer:" or "=", or else the only one in it.

    A currency sign, a percent sign and commas between thousands make no difference.
    """
    found = re.match(r"(?is).*(?:answer(?: is|:)|=)\s*(?:[$€£*({]|\\boxed|about)*\s*(" + _NUMBER + ")", text)
    numbers = [found[1]] if found else re.findall(_NUMBER, text)
    values = {float(number.replace(",", "")) for number in numbers}
    return values.pop() if len(values) == 1 else None


_NUMBER = r"(?<![\w.])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,300}|(?=\.[0-9]))(?:\.[0-9]+)?(?!\w|\.[0-9])"


# ------------------------------------------------------------------------------------------------------------- choices


def read_choice(response: str, options: Sequence[str], labels: Sequence[str] = string.ascii_uppercase) -> int | None:
    """The option that a response names: its number from 0; None if it names none, or more than one.

    The first of these that finds an option decides, unless it finds two different ones:

    1. a label at the beginning ("B", "b", "(B)", "B.", "B: red", "**B**"), after "answer is", "answer:", "option" or
       "choice", or in \\boxed{}; or an option's text as the whole response or after one of these;
    2. labels in brackets anywhere: "... which makes it (B)";
    3. options whose whole text stands in the response, but not inside a longer option's text that does.

    A capital letter that begins a sentence is no label: "A man runs" names nothing, nor does "Because".
    """
    labels = [*labels][: len(options)]
    response = unicodedata.normalize("NFKC", response).strip().replace("*", "")
    if not labels or not response:
        return None
    stated = {place for text in _statements(response) for place in _stated(text, options, labels)}
    bracketed = {labels.index(label) for label in re.findall(rf"[(\[]({_any(labels)})[)\]]", response)}
    found = next(filter(None, (stated, bracketed, _contained(response, options))), set())
    return found.pop() if len(found) == 1 else None


def _statements(response: str) -> list[str]:
    """Where an answer can begin."""
    said = r"(?i)\banswer(?:\s+is|\s*:)[\s:]*|\b(?:option|choice)\s*:?\s+(?:is\s*:?\s+)?|\\boxed\s*(?=\{)"
    return [response, *(response[match.end() :] for match in re.finditer(said, response))]


def _stated(text: str, options: Sequence[str], labels: Sequence[str]) -> set[int]:
    """Options that a text names at its beginning, by label or by being it."""
    text = re.sub(r"(?i)^(?:option|choice|sentence|caption)\s+", "", text)
    label = _any(labels)
    alone = re.match(rf"(?ai)[\s\"'`]*[(\[{{]?({label})[)\]}}.:,;!?\"'`]*\s*(?:\n|$)", text)
    other = rf"\s*(?:or\b|and\b|[/&,])\s*[(\[]?({label})(?!\w)"
    mark = rf"[).:](?!\w\.)|(?=[,;\"'`](?:\W|$))|\s*[-–—]\s|(?={other}|\s+is\s+(?:the\s+)?(?:correct|right|best))"
    begun = re.match(
        rf"[\s\"'`]*(?:[(\[{{]({label})[)\]}}](?!\s+(?:is|was|can|cannot|seems)\b)|({label})(?:{mark}))", text
    )
    found = set[int]()
    if match := alone or begun:
        named = next(filter(None, match.groups()))
        found.add(labels.index(named if named in labels else named.upper()))
        text = text[match.end() :]
        if match := re.match(other, text):
            found.add(labels.index(match[1]))
    said = normalised(text)
    return found | {place for place, option in enumerate(options) if said and normalised(option) == said}


def _contained(response: str, options: Sequence[str]) -> set[int]:
    """Options whose text stands in the response as whole words; of two that overlap, the longer one."""
    response, found = normalised(response), set[int]()
    for place, option in sorted(enumerate(options), key=lambda pair: -len(normalised(pair[1]))):
        words = rf"(?<![\w.-]){re.escape(normalised(option))}(?!\w|\.\w)"
        if normalised(option) and re.search(words, response):
            found.add(place)
            response = re.sub(words, "\0", response)
    return found


def _any(labels: Sequence[str]) -> str:
    return "|".join(map(re.escape, labels))


# ----------------------------------------------------------------------------------------------------------- subtitles

Subtitle = tuple[int, int, str]
"""First and last millisecond, and the text, lines of which are joined by spaces."""

CLOCK = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})[.,](\d{1,3})")


def read_srt(path: Path) -> list[Subtitle]:
    """Subtitles of a SubRip file, in its order, as pysubs2 reads them.

    A line with two times begins a subtitle, so numbers and blank lines may be missing. Italics, bold and underlines
    become `{\\i1}` and so on, other tags go.

    Raises:
        InputError: the file cannot be read, is no UTF-8, or has no subtitle in it.
    """
    try:
        text = read_bytes(path, InputError, most=20_000_000).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    cues: list[tuple[int, int, list[str]]] = []
    for line in StringIO(text, newline=None):
        times = [_milliseconds(*match) for match in CLOCK.findall(line)]
        if len(times) == 2:
            cues.append((times[0], times[1], []))
        elif cues:
            cues[-1][2].append(line)
    if not cues:
        raise InputError(f"{path} has no subtitle in it: no line with two times like 00:01:02,345")
    return [(start, end, _spoken(text)) for start, end, text in cues]


def _milliseconds(hours: str, minutes: str, seconds: str, rest: str) -> int:
    return (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 1000 + int(rest.ljust(3, "0"))


def _spoken(lines: Sequence[str]) -> str:
    number = re.compile(r"\s*\d+\s*")  # the next one's
    if len(lines) > 1 and number.fullmatch(lines[-1]) and not any(line.strip() for line in lines[:-1]):
        return ""
    text = re.sub(r"\n+ *\d+ *$", "", "".join(lines).strip())
    text = re.sub(r"< *(/?) *([isub]) *>", lambda tag: f"{{\\{tag[2]}{'01'[not tag[1]]}}}", text)
    return re.sub(r"< */? *[a-zA-Z][^>]*>", "", text).replace("\n", " ").replace("\\N", " ")


def subtitles_at(subtitles: Sequence[Subtitle], seconds: Iterable[float]) -> list[str]:
    """For each second, what the first subtitle shown then says, if anything. What is shown for long is repeated."""
    shown = (next((text for a, b, text in subtitles if a < second * 1000 < b), "") for second in seconds)
    return [text for text in shown if text.strip()]
