"""VideoMME: four options about videos of up to an hour. Every question is asked without and with subtitles."""

import re
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vl3ref.errors import InputError
from vl3ref.evaluation.benchmark import OFFICIAL, Benchmark, Item, Judge, Verdict, right_if
from vl3ref.evaluation.choices import LETTERS, contradiction, strict_choice
from vl3ref.evaluation.data import about, checked, table_rows, video_file
from vl3ref.evaluation.metrics import read_srt, subtitles_at
from vl3ref.inputs.videos import open_video

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def items(root: Path) -> Iterator[Item]:
    spoken: dict[Path, str | InputError] = {}
    for row in table_rows(root / "test-00000-of-00001.parquet"):
        name, listed, answer = row.text("videoID"), row.texts("options"), row.text("answer")
        video = video_file(root / "videos", name)
        if video not in spoken:
            spoken = {video: _subtitles(root / "subtitles" / f"{name}.srt", video)}
        said = spoken[video]
        prompt = _prompt(row.text("question"), listed)
        fields: dict[str, Any] = {
            "options": [re.sub(r"^[A-D][.)]\s*", "", option) for option in listed],
            "kind": row.text("task_type"),
            "more": {"listed": listed},
            "trouble": contradiction(answer, listed),
        }
        yield about("video", video, prompt, answer, id=row.text("question_id"), subset="without subtitles", **fields)
        fields |= {"id": f"{row.text('question_id')} subtitles", "subset": "with subtitles"}
        if isinstance(said, InputError):
            yield Item(media=str(video), content=None, answer=answer, **{**fields, "trouble": str(said)})
        else:
            prompt = f"This video's subtitles are listed below:\n{said}\n{prompt}"
            yield about("video", video, prompt, answer, **fields)


def _prompt(question: str, options: Sequence[str]) -> str:
    return "\n".join(
        [
            "Select the best answer to the following multiple-choice question based on the video. Respond with only "
            "the letter (A, B, C, or D) of the correct option.",
            question,
            *options,
            "Answer with the option's letter from the given choices directly and only give the best option. "
            "The best answer is:",
        ]
    )


def _subtitles(path: Path, video: Path) -> str | InputError:
    """What is said while the frames are shown, repeats kept; nothing if there is no file."""
    try:
        if not path.exists():
            return ""
        subtitles = read_srt(path)
        return "\n".join(
            subtitles_at(subtitles, open_video(video, OFFICIAL["fps"], OFFICIAL["max_frames"]).timestamps.tolist())
        )
    except InputError as error:
        return error


def official(item: Item, response: str, judge: Judge | None) -> Verdict:
    """The first capital A to D of whatever word; where there is none, an option's text, less its last character."""
    texts = [re.search(r"[A-D]\. (.*).", option) for option in item.more["listed"]]
    if not all(texts):  # the authors' run ends here
        return Verdict("broken")
    response = response.replace("answer", "").replace("Answer", "")
    if found := re.search(r"[A-D]", response):
        return right_if(found[0] == item.answer, found[0])
    for letter, text in zip(LETTERS, texts, strict=False):
        option = text[1].strip().strip(".") if text else ""
        word = WORDS[int(option)] if option in [*string.digits] else option
        if option.lower() in response.lower() or word.lower() in response.lower():
            return right_if(letter == item.answer, letter)
    return Verdict("unparsed")


BENCHMARK = Benchmark(
    "videomme",
    "VideoMME",
    checked(items),
    official,
    strict_choice,
    "micro",
    {"without subtitles": (59.6, 66.2), "with subtitles": (63.4, 70.3)},
    video=True,
)
