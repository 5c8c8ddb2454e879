"""The ten benchmarks' data: what is asked, what breaks an item, what is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.evaluation.benchmark_data import NAMES, make, outcomes, save_json, save_lines, save_table
from vl3ref.errors import InputError
from vl3ref.evaluation.benchmark import Item
from vl3ref.evaluation.benchmarks import BENCHMARKS, SUBMISSIONS
from vl3ref.inputs.images import load_image
from vl3ref.inputs.videos import load_video

# ---------------------------------------------------------------------------------------------------------------- items


def test_the_ten_by_name() -> None:
    assert [*BENCHMARKS] == [*NAMES] and [name for name in NAMES if not BENCHMARKS[name].video] == [*NAMES[:5]]
    assert {name: benchmark.overall for name, benchmark in BENCHMARKS.items() if benchmark.overall == "macro"} == {
        "chartqa": "macro"
    }


LETTER = "Answer with the option's letter from the given choices directly and only give the best option."

PROMPTS = {
    "chartqa": (0, ["What is the value of the red bar?\nAnswer the question using a single word or phrase."]),
    "docvqa": (0, ["What is written in line 0?\nAnswer the question with a single word or phrase."]),
    "mathvista": (
        1,
        [
            "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
            "Question: What is shown in picture 2?\nChoices:\n(A) Yes\n(B) No"
        ],
    ),
    "mmmu-pro": (
        7,
        [
            "<image 1>:",
            " What is shown in figure 3? Compare it with <image 1>:",
            ".\n(A):<image 2>:",
            "\n(B):<image 3>:",
            "\n(C):yellow 2\n(D):yellow 3\n(E):yellow 4\n(F):yellow 5\n(G):yellow 6\n(H):yellow 7\n(I):yellow 8\n"
            "(J):yellow 9\nAnswer with the option letter from the given choices directly.",
        ],
    ),
    "realworldqa": (0, ["How many cars are there?\nPlease answer directly with a single word or number."]),
    "videomme": (
        1,
        [
            "This video's subtitles are listed below:\nA square appears.\nIt moves, says 0.\n"
            "Select the best answer to the following multiple-choice question based on the video. Respond with only "
            "the letter (A, B, C, or D) of the correct option.\nWhat does the red square do, 0?\n"
            "A. It moves to the left.\nB. It moves to the right.\nC. It turns.\nD. It stays.\n"
            f"{LETTER} The best answer is:"
        ],
    ),
    "perceptiontest": (
        0,
        [
            "Question: What does the square do, 0?\nOptions:\n(A) It moves to the left.\n(B) It moves to the right.\n"
            f"(C) It turns.\n{LETTER}"
        ],
    ),
    "mlvu": (
        0,
        [
            "Question: What does the square do, 0?\nOptions:\n(A) It moves to the left\n(B) It moves to the right\n"
            f"(C) It turns\n(D) It stays\n{LETTER}"
        ],
    ),
    "tempcompass": (3, ["Question: Describe the action.\nInformation A: {'action': 'moving'}\nInformation B: {}\n"
                        "Please answer with the caption directly."]),
    "nextqa": (
        0,
        [
            "Question: what does the square do 0\nOptions:\n(A) moves to the left\n(B) moves to the right\n(C) turns\n"
            f"(D) stays\n(E) jumps, then falls\n{LETTER}"
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_is_asked(name: str, all_items: dict[str, list[Item]]) -> None:
    index, texts = PROMPTS[name]
    content = all_items[name][index].content or []
    assert [part["text"] for part in content if part["type"] == "text"] == texts
    if name != "mmmu-pro":
        assert [part["type"] for part in content] == ["video" if BENCHMARKS[name].video else "image", "text"]


@pytest.mark.parametrize("name", NAMES)
def test_every_item_can_be_asked_and_is_the_same_in_every_run(
    name: str, folders: dict[str, Path], all_items: dict[str, list[Item]]
) -> None:
    items = all_items[name]
    assert 11 <= len(items) <= 24 and len({one.id for one in items}) == len(items)
    again = BENCHMARKS[name].items(folders[name])
    assert [(one.id, one.media, one.answer) for one in again] == [(one.id, one.media, one.answer) for one in items]
    assert {one.subset for one in items} == {*BENCHMARKS[name].paper}
    for one in items:
        assert one.content and one.kind and one.media and not one.trouble
        assert not one.options or one.answer is None or one.answer in "ABCDEFGHIJ"[: len(one.options)]
    for part in items[0].content or ():
        if part["type"] != "text":
            assert len(load_image(part["image"]) if part["type"] == "image" else load_video(part["video"])[0]) > 1


def test_chartqa_questions_of_the_same_id_overwrite_each_other(folders: dict[str, Path], tmp_path: Path) -> None:
    """In the authors' evaluation alone."""
    root = make("chartqa", tmp_path)
    file = root / "test_human_renamed.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["question_id"] = "augmented-2"
    save_lines(file, rows)
    asked = {one.id: one for one in BENCHMARKS["chartqa"].items(root)}["augmented 3"]
    assert outcomes("chartqa", asked, "12%") == ("skipped", "right")


def test_mathvista_asks_what_query_json_says_or_the_datas_own_query(tmp_path: Path) -> None:
    root = make("mathvista", tmp_path)
    queries = json.loads((root / "query.json").read_text())
    save_json(root / "query.json", queries | {"1": "Solve it."})

    def first() -> Any:
        return next(BENCHMARKS["mathvista"].items(root)).content

    assert first()[-1]["text"] == "Solve it."
    (root / "query.json").unlink()
    assert first()[-1]["text"] == queries["1"]


# -------------------------------------------------------------------------------------------- items with contradictions


def test_mlvu_takes_the_letter_before_where_an_answer_is_no_candidate(tmp_path: Path) -> None:
    root = make("mlvu", tmp_path)
    rows = [
        {"video": "1_plotQA_1.mp4", "question": "Q", "candidates": ["x", "y"], "answer": a} for a in ("z", "y", "z")
    ]
    save_json(root / "json/1_plotQA.json", rows)
    save_json(root / "json/7_topic_reasoning.json", rows)
    found = {one.id: one for one in BENCHMARKS["mlvu"].items(root)}
    assert outcomes("mlvu", found["1_plotQA 2"], "B") == ("right", "broken")
    assert outcomes("mlvu", found["7_topic_reasoning 0"], "B") == ("broken", "broken")  # there is none before
    assert "'z' is none of its options" in found["1_plotQA 2"].trouble and found["1_plotQA 2"].content


def test_nextqa_options_that_pandas_takes_for_nothing_shift_the_letters(tmp_path: Path) -> None:
    root = make("nextqa", tmp_path)
    head, *_ = (root / "test.csv").read_text().splitlines()
    rows = ["4010069381,6,56,56,q,2,0,CH,x,None,y,z,w", "4010069381,6,56,56,q,1,0,TN,x,,y,z,NA"]
    (root / "test.csv").write_text("\n".join([head, *rows]))
    first, second = BENCHMARKS["nextqa"].items(root)
    assert (first.options, first.answer, first.more["truth"], first.kind) == (["x", "y", "z", "w"], "B", "C", "Causal")
    assert [outcomes("nextqa", first, letter) for letter in "BC"] == [("wrong", "right"), ("right", "wrong")]
    assert second.options == ["x", "y", "z"] and outcomes("nextqa", second, "B") == ("right", "broken")


@pytest.mark.parametrize("name", NAMES[:3] + NAMES[5:])
def test_a_missing_file_breaks_its_items_alone(name: str, tmp_path: Path) -> None:
    """It is never the file of the question before."""
    root = make(name, tmp_path)
    before = list(BENCHMARKS[name].items(root))
    Path(before[-1].media).unlink()
    after = list(BENCHMARKS[name].items(root))
    assert [one.id for one in after] == [one.id for one in before]
    for one, other in zip(after, before, strict=True):
        if other.media == before[-1].media:
            assert one.content is None and "does not exist" in one.trouble and Path(other.media).stem in one.trouble
        else:
            assert one == other
    assert sum(one.content is None for one in after) < len(after)


def test_damaged_subtitles_break_the_questions_that_need_them(tmp_path: Path) -> None:
    root = make("videomme", tmp_path)
    (root / "subtitles/fFjv93ACGo1.srt").write_text("nothing")
    broken = [one for one in BENCHMARKS["videomme"].items(root) if one.trouble]
    assert [one.id for one in broken] == [f"002-{n} subtitles" for n in (1, 2, 3)]
    assert all(one.content is None and "has no subtitle in it" in one.trouble for one in broken)


def test_without_a_subtitles_file_their_place_is_empty(all_items: dict[str, list[Item]]) -> None:
    content = {one.id: one for one in all_items["videomme"]}["004-1 subtitles"].content or []
    assert content[1]["text"].startswith("This video's subtitles are listed below:\n\nSelect the best")


def test_pictures_that_are_none_in_a_table_break_their_items(tmp_path: Path) -> None:
    for name, key in (("mmmu-pro", "image_2"), ("realworldqa", "image")):
        root = make(name, tmp_path)
        path = next(root.glob("*/test-00001*"))
        table = pq.read_table(path)
        rows = table.to_pylist()
        rows[1][key], rows[2]["image" if key == "image" else "image_1"]["bytes"] = None, b"no picture"
        save_table(path, rows, table.schema)
        troubles = [one.trouble for one in BENCHMARKS[name].items(root) if one.trouble]
        assert troubles == [
            f"{path.name} row 2 has no {key}",
            f"{path.name} row 3: {key.replace('2', '1')} cannot be read as a picture: UnidentifiedImageError",
        ]


# ------------------------------------------------------------------------------------------------------- hidden answers


def test_hidden_answers_are_skipped_and_handed_in(tmp_path: Path) -> None:
    root = make("docvqa", tmp_path)
    (root / "val.jsonl").rename(root / "test.jsonl")
    items = list(BENCHMARKS["docvqa"].items(root))
    assert {one.kind for one in items} == {"test"} and outcomes("docvqa", items[0], "x") == ("skipped", "skipped")
    handed_in = SUBMISSIONS["docvqa"](items, {one.id: f"words {one.id}" for one in items})
    assert len(handed_in) == 12 and handed_in[0] == {"questionId": 49153, "answer": "words 49153"}


def test_perceptiontest_is_handed_in_by_videos(all_items: dict[str, list[Item]]) -> None:
    items = all_items["perceptiontest"]
    words = {one.id: ("(B)", "it turns", "C", "Answer: A")[index % 4] for index, one in enumerate(items)}
    official, strict = (SUBMISSIONS["perceptiontest"](items, words, protocol) for protocol in ("official", "strict"))
    assert [entry["id"] for entry in official["video_100"]] == [0, 2, 3]  # "it turns" ends the authors' run
    assert strict["video_102"] == [
        {"id": 0, "answer_id": 1, "answer": "It moves to the right."},
        {"id": 1, "answer_id": 2, "answer": "It turns."},
        {"id": 2, "answer_id": 2, "answer": "It turns."},
        {"id": 3, "answer_id": 0, "answer": "It moves to the left."},
    ]


def test_perceptiontest_entries_with_answers_are_scored(tmp_path: Path) -> None:
    root = make("perceptiontest", tmp_path)
    data = json.loads((root / "mc_question_test.json").read_text())
    data["video_100"]["mc_question"][0]["answer_id"] = 1
    save_json(root / "mc_question_test.json", data)
    assert outcomes("perceptiontest", next(BENCHMARKS["perceptiontest"].items(root)), "B") == ("right", "right")


# --------------------------------------------------------------------------------------------------------- damaged data


def in_json(key: str, *path: Any, value: Any = None) -> Callable[[Path], None]:
    """Change, or with None take out, one value of a JSON file or of a line of JSON lines."""

    def damage(file: Path) -> None:
        by_lines = file.suffix == ".jsonl"
        text = file.read_text()
        data = [json.loads(line) for line in text.splitlines()] if by_lines else json.loads(text)
        place = data
        for step in path:
            place = place[step]
        if value is None:
            del place[key]
        else:
            place[key] = value
        save_lines(file, data) if by_lines else save_json(file, data)

    return damage


def in_table(row: int, key: str, value: Any) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        rows = pq.read_table(file).to_pylist()
        rows[row][key] = value
        save_table(file, rows)

    return damage


def text(content: str) -> Callable[[Path], None]:
    return lambda file: file.write_text(content) and None


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


HEAD = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
PARQUET = "test-00000-of-00001.parquet"
DAMAGED: list[tuple[str, str, Callable[[Path], Any], str]] = [
    *((name, file, Path.unlink, f"{Path(file).name}.* does not exist") for name, file in [
        ("chartqa", "test_human_renamed.jsonl"),
        ("docvqa", "val.jsonl"),
        ("mathvista", "testmini.json"),
        ("videomme", PARQUET),
        ("perceptiontest", "mc_question_test.json"),
        ("mlvu", "json/4_count.json"),
        ("tempcompass", f"captioning/{PARQUET}"),
        ("nextqa", "test.csv"),
        ("nextqa", "map_vid_vidorID.json"),
    ]),
    ("chartqa", "test_augmented_renamed.jsonl", text("{}\n"), 'augmented_renamed.jsonl line 1 has no "question_id"'),
    ("chartqa", "test_augmented_renamed.jsonl", text("{\n"), "augmented_renamed.jsonl line 1 cannot be read as JSON"),
    ("chartqa", "test_human_renamed.jsonl", text(""), "test_human_renamed.jsonl holds no samples"),
    ("docvqa", "val.jsonl", in_json("image", 2), 'val.jsonl line 3 has no "image"'),
    ("docvqa", "val.jsonl", in_json("answer", 2, value=[]), 'line 3: "answer" should be a list of texts, not \\[\\]'),
    ("docvqa", "val.jsonl", in_json("answer", 2, value=[None]), 'line 3: "answer" should be text, not None'),
    ("docvqa", "val.jsonl", in_json("question_id", 2, value=49153), "two questions have the id '49153'"),
    ("mathvista", "testmini.json", in_json("choices", "2"), "testmini.json, entry '2' has no \"choices\""),
    ("mathvista", "testmini.json", in_json("2", value=[1]), "entry '2' should be an object"),
    ("mathvista", "testmini.json", in_json("precision", "2", value=-1.5), '"precision" should be a number of'),
    ("mathvista", "testmini.json", text("{}"), "holds no questions"),
    ("mathvista", "testmini.json", text("[]"), "testmini.json should hold a JSON object, not a list"),
    ("mathvista", "query.json", in_json("5"), 'query.json has no "5"'),
    ("mmmu-pro", "standard", lambda folder: folder.rename(folder.with_name("vision")), "has no test-.*parquet"),
    ("mmmu-pro", "standard/test-00001-of-00002.parquet", in_table(1, "options", "os.system('x')"),
     "test-00001-of-00002.parquet row 2: \"options\" should be a list, not"),
    ("mmmu-pro", "standard/test-00001-of-00002.parquet", in_table(1, "options", "'B'"), "should be a list of texts"),
    ("realworldqa", "data/test-00000-of-00002.parquet", cut, "test-00000-of-00002.parquet cannot be read as parquet"),
    ("realworldqa", "data/test-00000-of-00002.parquet", text("x"), "cannot be read as parquet after row 0"),
    ("videomme", PARQUET, in_table(3, "options", []), 'row 4: "options" should be a list of texts, not \\[\\]'),
    ("videomme", PARQUET, in_table(3, "question", None), f'{PARQUET} row 4: "question" should be text, not None'),
    ("videomme", PARQUET, in_table(3, "question_id", "001-1"), "two questions have the id '001-1'"),
    ("perceptiontest", "mc_question_test.json", in_json("metadata", "video_101"), "'video_101' has no \"metadata\""),
    ("perceptiontest", "mc_question_test.json", in_json("mc_question", "video_101", value=1), "should be a list"),
    ("perceptiontest", "mc_question_test.json", in_json("options", "video_101", "mc_question", 1, value=["x"]),
     "entry 'video_101', question 2 should have 3 \"options\""),
    ("perceptiontest", "mc_question_test.json", in_json("answer_id", "video_101", "mc_question", 1, value=3), "0, 1"),
    ("mlvu", "json/5_order.json", in_json("candidates", 1), '5_order.json entry 2 has no "candidates"'),
    ("mlvu", "json/5_order.json", in_json("candidates", 1, value="AB"), 'entry 2: "candidates" should be a list'),
    ("mlvu", "json/5_order.json", text("{}"), "5_order.json should be a list"),
    ("tempcompass", f"yes_no/{PARQUET}", in_table(1, "answer", None), f'{PARQUET} row 2: "answer" should be text'),
    ("nextqa", "test.csv", text(HEAD + "1,2\n"), "test.csv row 1 has more or fewer fields"),
    ("nextqa", "test.csv", text(HEAD), "holds no questions"),
    ("nextqa", "test.csv", text("video,a0\n1,2\n"), 'test.csv row 1 has no "a1"'),
    ("nextqa", "test.csv", text(f"{HEAD}4010069381,1,1,1,q,7,0,CH,a,b,c,d,e\n"), 'row 1: "answer" should be 0 to 4'),
    ("nextqa", "test.csv", text(f"{HEAD}4010069381,1,1,1,q,1,0,XX,a,b,c,d,e\n"), 'row 1: "type" should be one of DC'),
    ("nextqa", "test.csv", text(f"{HEAD}77,1,1,1,q,1,0,CH,a,b,c,d,e\n"), 'map_vid_vidorID.json has no "77"'),
    ("nextqa", "test.csv", text(f'{HEAD}"77,1\n'), "test.csv cannot be read as CSV"),
    ("nextqa", "test.csv", lambda file: file.write_bytes(b"\xff\xfe"), "test.csv cannot be read as CSV"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "damage", "said"), DAMAGED)
def test_damaged_data_is_named(name: str, file: str, damage: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    root = make(name, tmp_path)
    damage(root / file)
    with pytest.raises(InputError, match=said) as raised:
        list(BENCHMARKS[name].items(root))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_without_pyarrow(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"read by pyarrow, which is not installed: pip install 'vl3ref\[eval\]'"):
        next(BENCHMARKS["videomme"].items(folders["videomme"]))
