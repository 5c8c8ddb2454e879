"""A dozen questions for each benchmark, in its data's real format, about pictures and clips drawn here.

    folder = make("videomme", tmp_path)     # what `vl3ref eval videomme --data` takes

The same files in every run; everything is there and whole. Tests of broken data break it themselves.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from tests.media import write_video
from vl3ref.evaluation.benchmark import Item, Judge
from vl3ref.evaluation.benchmarks import BENCHMARKS

COLOURS = ("red", "green", "blue", "yellow")
LETTERS = "ABCDEFGHIJ"


def make(name: str, folder: Path) -> Path:
    """Write a benchmark's files below a folder.

    Args:
        name: as on the command line; one of `NAMES`.

    Returns:
        The benchmark's data folder, `folder/name`.
    """
    root = folder / name
    root.mkdir(parents=True)
    MAKERS[name](root)
    return root


# ------------------------------------------------------------------------------------------------------ pictures, clips


def picture(number: int, words: str = "") -> Image.Image:
    """A square of one colour on grey, 84 x 56, with something written on it."""
    image = Image.new("RGB", (84, 56), "grey")
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 10, 40, 40), fill=COLOURS[number % len(COLOURS)])
    draw.text((44, 20), words or str(number), fill="white")
    return image


def save_picture(path: Path, number: int, words: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, words).save(path)
    return path


def embedded(number: int) -> dict[str, Any]:
    """A picture as it lies in a parquet file."""
    data = BytesIO()
    picture(number).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": f"{number}.png"}


def save_clip(path: Path, number: int, seconds: int = 3) -> Path:
    """A square that moves to the right, 56 x 56, two frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = []
    for step in range(2 * seconds):
        image = Image.new("RGB", (56, 56), "grey")
        ImageDraw.Draw(image).rectangle((4 * step, 20, 4 * step + 16, 36), fill=COLOURS[number % len(COLOURS)])
        frames.append(np.asarray(image))
    return write_video(path, frames, [step / 2 for step in range(2 * seconds)])


def save_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), "utf-8")


def save_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def save_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema), path)


# --------------------------------------------------------------------------------------------------------------- images


def chartqa(root: Path) -> None:
    answers = {
        "augmented": ["14", "0.57", "12%", "2014", "Blue", "0"],
        "human": ["3", "Yes", "1.5", "[77, 77]", "Iran"],
    }
    for split, right in answers.items():
        rows = [
            {
                "question_id": f"{split}-{number}",
                "image": f"png/{split}_{number // 2}.png",
                "question": f"What is the value of the {COLOURS[number % 4]} bar?",
                "answer": answer,
            }
            for number, answer in enumerate(right)
        ]
        for number in range(0, len(rows), 2):
            save_picture(root / f"png/{split}_{number // 2}.png", number)
        save_lines(root / f"test_{split}_renamed.jsonl", rows)


def docvqa(root: Path) -> None:
    answers = [
        ["ITC Limited", "itc limited"],
        ["$ 975.00"],
        ["University of California", "University of California, San Diego"],
        ["0.28"],
        ["Paul"],
        ["August 20, 1992"],
        ["24"],
        ["R. J. Reynolds"],
        ["yes"],
        ["No. 5", "5"],
        ["1/8/93"],
        ["TRRF Vice President"],
    ]
    for page in range(4):
        save_picture(root / f"documents/page_{page}.png", page, "ITC Ltd")
    save_lines(
        root / "val.jsonl",
        [
            {
                "question_id": 49153 + number,
                "image": f"documents/page_{number // 3}.png",
                "question": f"What is written in line {number}?",
                "answer": answer,
            }
            for number, answer in enumerate(answers)
        ],
    )


def mathvista(root: Path) -> None:
    kinds: list[tuple[str, str, str, Any, list[str] | None]] = [
        ("multi_choice", "text", "145°", None, ["135°", "140°", "145°", "150°"]),
        ("multi_choice", "text", "No", None, ["Yes", "No"]),
        ("multi_choice", "text", "8/11", None, ["3/11", "8/11", "6/11", "3/5"]),
        ("free_form", "integer", "14", None, None),
        ("free_form", "integer", "4", None, None),
        ("free_form", "float", "1.2", 1.0, None),
        ("free_form", "float", "0.21", 2.0, None),
        ("free_form", "list", "[2007, 2008]", None, None),
    ]
    data: dict[str, Any] = {}
    for number, (form, of_type, answer, precision, choices) in enumerate(kinds + kinds[:4], start=1):
        save_picture(root / f"images/{number}.jpg", number)
        asked = f"Question: What is shown in picture {number}?"
        hint = "Hint: Please answer the question and provide the final value at the end."
        if choices:
            hint = (
                "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end."
            )
            asked += "\nChoices:" + "".join(f"\n({LETTERS[i]}) {choice}" for i, choice in enumerate(choices))
        data[str(number)] = {
            "pid": str(number),
            "question": f"What is shown in picture {number}?",
            "image": f"images/{number}.jpg",
            "choices": choices,
            "unit": None,
            "precision": precision,
            "answer": answer,
            "question_type": form,
            "answer_type": of_type,
            "metadata": {"category": "math-targeted-vqa", "split": "testmini", "task": "geometry problem solving"},
            "query": f"{hint}\n{asked}",
        }
    save_json(root / "testmini.json", data)
    save_json(root / "query.json", {pid: row["query"] for pid, row in data.items()})


def mmmu_pro(root: Path) -> None:
    rows = []
    for number in range(12):
        options = [f"{COLOURS[number % 4]} {index}" for index in range(4 if number % 3 else 10)]
        question = f"<image 1> What is shown in figure {number}?"
        pictures: dict[str, Any] = {f"image_{index}": None for index in range(1, 8)}
        pictures["image_1"] = embedded(number)
        if number % 4 == 3:  # pictures among the options, and one that is asked about twice
            options[:2] = ["<image 2>", "<image 3>"]
            question += " Compare it with <image 1>."
            pictures |= {"image_2": embedded(number + 1), "image_3": embedded(number + 2)}
        rows.append(
            {
                "id": f"test_{('History', 'Math', 'Art')[number % 3]}_{number}",
                "question": question,
                "options": repr(options),
                "explanation": "?",
                **pictures,
                "img_type": "['Diagrams']",
                "answer": LETTERS[number % len(options)],
                "topic_difficulty": "Medium",
                "subject": ("History", "Math", "Art")[number % 3],
            }
        )
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [(key, image if key.startswith("image_") else pa.string()) for key in rows[0]]
    for part in range(2):
        save_table(root / f"standard/test-0000{part}-of-00002.parquet", rows[part::2], pa.schema(fields))


def realworldqa(root: Path) -> None:
    rows = []
    for number in range(12):
        if number % 3:
            question = f"Which way does the {COLOURS[number % 4]} car go?\n\nA. Left\nB. Straight\nC. Right\n"
            question += "Please answer directly with only the letter of the correct option and nothing else."
            answer = "ABC"[number % 3]
        else:
            question = "How many cars are there?\nPlease answer directly with a single word or number."
            answer = str(number) if number % 2 else "Yes"
        rows.append({"image": embedded(number), "question": question, "answer": answer})
    for part in range(2):
        save_table(root / f"data/test-0000{part}-of-00002.parquet", rows[part * 6 : part * 6 + 6])


# --------------------------------------------------------------------------------------------------------------- videos

ACTIONS = ("moves to the left", "moves to the right", "turns", "stays")


def srt(lines: Sequence[tuple[float, float, str]]) -> str:
    def clock(seconds: float) -> str:
        whole = int(seconds)
        return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{round(seconds % 1 * 1000):03}"

    return "\n".join(
        f"{number}\n{clock(start)} --> {clock(end)}\n{text}\n" for number, (start, end, text) in enumerate(lines, 1)
    )


def videomme(root: Path) -> None:
    """Four clips with three questions each, which are asked twice. One clip has no subtitles."""
    rows = []
    for video in range(4):
        name = f"fFjv93ACGo{video}"
        save_clip(root / f"videos/{name}.{('mp4', 'mkv', 'mp4', 'avi')[video]}", video)
        if video < 3:
            (root / "subtitles").mkdir(exist_ok=True)
            spoken = [
                (-0.0, 1.2, "A square appears."),
                (1.2, 1.8, "Never seen."),
                (1.9, 3.5, f"It moves,\nsays {video}."),
            ]
            (root / f"subtitles/{name}.srt").write_text(srt(spoken), "utf-8")
        for number in range(3):
            rows.append(
                {
                    "video_id": f"{video + 1:03}",
                    "duration": ("short", "medium", "long")[number],
                    "domain": "Knowledge",
                    "sub_category": "Humanity & History",
                    "url": f"https://www.youtube.com/watch?v={name}",
                    "videoID": name,
                    "question_id": f"{video + 1:03}-{number + 1}",
                    "task_type": ("Counting Problem", "Object Reasoning", "OCR Problems")[number],
                    "question": f"What does the {COLOURS[video]} square do, {number}?",
                    "options": [f"{letter}. It {action}." for letter, action in zip("ABCD", ACTIONS, strict=True)],
                    "answer": LETTERS[(video + number) % 4],
                }
            )
    save_table(root / "test-00000-of-00001.parquet", rows)


def perceptiontest(root: Path) -> None:
    """Three clips with four questions each, whose answers are hidden."""
    data = {}
    for video in range(3):
        name = f"video_{video + 100}"
        save_clip(root / f"videos/{name}.mp4", video)
        data[name] = {
            "metadata": {"split": "test", "video_id": name, "frame_rate": 2.0, "num_frames": 6, "resolution": [56, 56]},
            "object_tracking": [],
            "mc_question": [
                {
                    "id": number,
                    "question": f"What does the square do, {number}?",
                    "options": [f"It {action}." for action in ACTIONS[:3]],
                    "area": "physics",
                    "reasoning": "descriptive",
                    "tag": ["motion"],
                }
                for number in range(4)
            ],
        }
    save_json(root / "mc_question_test.json", data)


MLVU_FILES = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")


def mlvu(root: Path) -> None:
    """Two questions of each type, about one clip; one of them has six candidates."""
    for number, name in enumerate(MLVU_FILES):
        save_clip(root / f"video/{name}/{name}_1.mp4", number)
        rows = []
        for index in range(2):
            candidates = [f"It {action}" for action in ACTIONS] + (["It grows", "It shrinks"] if number == 5 else [])
            if name == "4_count":
                candidates = ["1", "3", "2", "10"]
            rows.append(
                {
                    "video": f"{name}_1.mp4",
                    "duration": 3.0,
                    "question": f"What does the square do, {index}?",
                    "candidates": candidates,
                    "answer": candidates[(number + index) % len(candidates)],
                    "question_type": name[2:],
                }
            )
        save_json(root / f"json/{name}.json", rows)


def tempcompass(root: Path) -> None:
    """Three clips; of each format one question about each."""
    dims = ("action", "direction", "speed", "order", "attribute_change")
    for video in range(3):
        save_clip(root / f"videos/{1021488277 + video}.mp4", video)
    facts = ("A. The square moves\nB. The square turns", "Information A: {'action': 'moving'}\nInformation B: {}")
    forms: dict[str, list[tuple[str, str]]] = {
        "yes_no": [("Is the square moving?", "yes"), ("Is the square turning?", "no"), ("Is it red?", "yes")],
        "captioning": [(f"Describe the action.\n{facts[1]}\nGenerated Caption:", "A. The square moves.")] * 3,
        "caption_matching": [
            (
                f"Which fits better?\n{label} {first}: It moves.\n{label} {second}: It turns.",
                f"{label} {first}: It moves.",
            )
            for label, first, second in (("Option", "1", "2"), ("Sentence", "A", "B"), ("Caption", "A", "B"))
        ],
        "multi-choice": [
            (f"What happens?\n{facts[0]}", "A. The square moves"),
            (f"What happens?\n{facts[0]}", "B. The square turns"),
            (f"What happens?\n{facts[0]}", "A. The square moves"),
        ],
    }
    for number, (form, asked) in enumerate(forms.items()):
        rows = [
            {
                "video_id": str(1021488277 + video),
                "question": question,
                "answer": answer,
                "dim": dims[(number + video) % len(dims)],
            }
            for video, (question, answer) in enumerate(asked)
        ]
        save_table(root / form / "test-00000-of-00001.parquet", rows)


def nextqa(root: Path) -> None:
    """Four clips with three questions each."""
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
    lines, places = [], {}
    for video in range(4):
        name = str(4010069381 + video)
        places[name] = f"116{video}/{name}"
        save_clip(root / f"NExTVideo/{places[name]}.mp4", video)
        for number in range(3):
            kind = ("DC", "DL", "DO", "CH", "CW", "TC", "TP", "TN")[(3 * video + number) % 8]
            options = ",".join([*ACTIONS, '"jumps, then falls"'])
            asked = f"what does the square do {number}"
            lines.append(f"{name},6,56,56,{asked},{(video + number) % 5},{number},{kind},{options}\n")
    (root / "test.csv").write_text(header + "".join(lines), "utf-8")
    save_json(root / "map_vid_vidorID.json", places)


MAKERS: dict[str, Callable[[Path], None]] = {
    "chartqa": chartqa,
    "docvqa": docvqa,
    "mathvista": mathvista,
    "mmmu-pro": mmmu_pro,
    "realworldqa": realworldqa,
    "videomme": videomme,
    "perceptiontest": perceptiontest,
    "mlvu": mlvu,
    "tempcompass": tempcompass,
    "nextqa": nextqa,
}
NAMES = tuple(MAKERS)


def judge_that_says(reply: str) -> Judge:
    return lambda prompt: reply


def outcomes(name: str, item: Item, response: str, judge: Judge | None = None) -> tuple[str, str]:
    """What becomes of an item by the official rules and by the strict ones."""
    benchmark = BENCHMARKS[name]
    return benchmark.official(item, response, judge).outcome, benchmark.strict(item, response).outcome
