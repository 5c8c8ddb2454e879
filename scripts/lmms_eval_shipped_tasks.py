"""lmms-eval's own tasks of the ten benchmarks, unchanged, on small files in their data's formats, answered by vl3-tiny.

    .venv-lmms/bin/python -m scripts.lmms_eval_shipped_tasks [--model FOLDER]       (after `make lmms-env`)

A task names its data on the hub, "lmms-lab-encoder/ChartQA"; lmms-eval runs here in a folder that has such a folder.
The questions are about the small world. What is shown is that every item is prepared, asked and scored: vl3-tiny knows
no letters of options, and its scores say nothing. Writes docs/results/lmms_eval.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset, Image

from scripts.small_world_files import questions, write_clip, write_picture

PAGE = Path(__file__).parents[1] / "docs" / "results" / "lmms_eval.md"
ITEMS, SEED, LETTERS = 6, 21, "ABCDEFGHIJ"
ANSWERS = ("red", "blue", "green", "up", "left", "2", "3")
"""Wrong options to choose from."""

SCORED = (
    *("chartqa", "docvqa_val", "mmmu_pro_standard", "realworldqa", "videomme", "videomme_w_subtitle"),
    *("perceptiontest_val_mc", "mlvu_dev", "mlvu_test", "nextqa_mc_test"),
)
JUDGED = (
    *("mathvista_testmini_cot", "mathvista_testmini_solution", "mathvista_testmini_format"),
    *("tempcompass_multi_choice", "tempcompass_yes_no", "tempcompass_caption_matching", "tempcompass_captioning"),
)
"""Tasks that ask GPT: all answers (mathvista, captions), or those that no rule reads. Only answers are made here."""

UNSCORED = ("perceptiontest_test_mc",)
"""Its answers are hidden: they are written for the test's server."""

Row = dict[str, Any]


class Data:
    """A folder that lmms-eval runs in: data sets by their hub names, and its HF_HOME with the videos."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "hf_home"
        self.pictures, self.clips = ([*questions(kind, ITEMS, SEED)] for kind in ("image", "video"))

    def picture(self, number: int) -> str:
        return str(write_picture(self.folder / "pictures" / f"{number}.png", self.pictures[number][0]))

    def clip(self, name: str, number: int) -> None:
        write_clip(self.home / name, self.clips[number][0])

    def save(self, hub_name: str, config: str, split: str, rows: Sequence[Row], images: Sequence[str] = ()) -> None:
        """One configuration of a data set, as parquet, with the description that `datasets` looks for."""
        folder = self.folder / hub_name
        data = folder / (config or "data")
        data.mkdir(parents=True, exist_ok=True)
        table = Dataset.from_list(list(rows))
        for name in images:
            table = table.cast_column(name, Image())
        table.to_parquet(data / f"{split}.parquet")
        described = folder / "README.md"
        head = described.read_text("utf-8").removesuffix("---\n") if described.exists() else "---\nconfigs:\n"
        files = f'  data_files:\n  - split: {split}\n    path: "{data.name}/{split}.parquet"\n'
        name = f'- config_name: "{config or "default"}"\n{files}'
        described.write_text(f"{head}{name}---\n", "utf-8")


def options_of(answer: str, number: int, count: int) -> tuple[list[str], int]:
    """Texts to choose from, and the place of the right one."""
    wrong = [text for text in ANSWERS if text != answer][: count - 1]
    place = number % count
    return [*wrong[:place], answer, *wrong[place:]], place


def images(data: Data) -> None:
    numbered = [(number, question, answer) for number, (_, question, answer) in enumerate(data.pictures)]
    rows: list[Row] = [{"image": data.picture(n), "question": q, "answer": a} for n, q, a in numbered]
    kinds = ("human_test", "augmented_test")
    charts = [{**row, "type": kinds[n % 2]} for n, row in enumerate(rows)]
    data.save("lmms-lab-encoder/ChartQA", "", "test", charts, ["image"])
    documents = [
        {"image": row["image"], "question": row["question"], "answers": [row["answer"]], "questionId": str(n)}
        for n, row in enumerate(rows)
    ]
    data.save("lmms-lab-encoder/DocVQA", "DocVQA", "validation", documents, ["image"])
    data.save("lmms-lab-encoder/RealWorldQA", "", "test", rows, ["image"])

    problems, exams = [], []
    for n, question, answer in numbered:
        texts, place = options_of(answer, n, 4)
        about = ("split", "language", "source", "category", "task", "context", "grade")
        problem = {
            "pid": str(n + 1),
            "question": question,
            "image": f"images/{n}.png",
            "decoded_image": data.picture(n),
        }
        problem |= {"choices": texts, "unit": "", "precision": 0.0, "answer": answer, "question_type": "multi_choice"}
        problem |= {"answer_type": "text", "metadata": {**dict.fromkeys(about, "x"), "skills": ["x"]}}
        problems.append({**problem, "query": f"Question: {question}"})
        ten, place = options_of(answer, n, 7)
        exam = {"id": f"test_{n}", "question": f"<image 1> {question}", "options": str(ten), "answer": LETTERS[place]}
        exam |= {"subject": "Art", "explanation": "", "image_1": data.picture(n)}
        exams.append(exam | {f"image_{k}": data.picture(0) if n == 1 and k == 2 else None for k in range(2, 8)})
    exams[1]["question"] = f"Beside <image 2>: {exams[1]['question']}"
    data.save("AI4Math/MathVista", "", "testmini", problems, ["decoded_image"])
    data.save("MMMU/MMMU_Pro", "standard (10 options)", "test", exams, [f"image_{k}" for k in range(1, 8)])


def videos(data: Data) -> None:
    films, tests, longs, examined, nexts = [], [], [], [], []
    types = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA")
    for n, (_, question, answer) in enumerate(data.clips):
        texts, place = options_of(answer, n, 4)
        lettered = [f"{LETTERS[k]}. {text}" for k, text in enumerate(texts)]
        film = {"videoID": f"film{n}", "question_id": f"{n:03}-1", "question": question, "options": lettered}
        film |= {"answer": LETTERS[place], "duration": ("short", "medium", "long")[n % 3], "domain": "Knowledge"}
        films.append({**film, "sub_category": "Geography", "task_type": "Counting Problem"})
        data.clip(f"videomme/data/film{n}.mp4", n)
        if n % 2:
            words = (
                f'1\n00:00:00,000 --> 00:00:02,000\n<font color="white" size=".72c">Look at the {answer}.</font>\n\n'
            )
            path = data.home / "videomme" / "subtitle" / f"film{n}.srt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(words, "utf-8")
        three, third = options_of(answer, n, 3)
        test = {"video_name": f"video_{n}", "question": question, "question_id": n, "options": three}
        tests.append(
            {**test, "answer_id": str(third), "area": "physics", "reasoning": "descriptive", "tag": ["motion"]}
        )
        asked = "\n".join([question, *(f"({LETTERS[k]}) {text}" for k, text in enumerate(texts))])
        long = {"video_name": f"long{n}.mp4", "question": asked, "answer": LETTERS[place], "task_type": types[n]}
        longs.append(long)
        examined.append({**long, "task_type": types[n].replace("needle", "needleQA").replace("plotQA", "sportsQA")})
        five, fifth = options_of(answer, n, 5)
        nexts.append({"video": n, "question": question, "answer": fifth, "qid": n, "type": "CW"})
        nexts[-1] |= {f"a{k}": text for k, text in enumerate(five)}
        places = [f"{name}/videos/video_{n}.mp4" for name in ("perceptiontest_val", "perceptiontest")]
        for name in [*places, f"mlvu/long{n}.mp4", f"mlvu_test/long{n}.mp4", f"nextqa/NExTVideo/{n}.mp4"]:
            data.clip(name, n)
    data.save("lmms-eval/Video-MME", "", "test", films)
    data.save("lmms-eval/PerceptionTest_Val", "mc_question_val", "validation", tests)
    hidden = [{key: value for key, value in row.items() if key != "answer_id"} for row in tests]
    data.save("lmms-eval/PerceptionTest", "mc_question", "test", hidden)
    data.save("sy1998/MLVU_dev", "", "test", longs)
    data.save("sy1998/MLVU_Test", "", "test", examined)
    data.save("lmms-eval/NExTQA", "MC", "test", nexts)
    tempcompass(data)


def tempcompass(data: Data) -> None:
    dims = ("action", "direction", "speed", "order", "attribute_change")
    rows: dict[str, list[Row]] = {"multi-choice": [], "yes_no": [], "caption_matching": [], "captioning": []}
    for n, (_, question, answer) in enumerate(data.clips):
        texts, place = options_of(answer, n, 3)
        lettered = [f"{LETTERS[k]}. {text}" for k, text in enumerate(texts)]
        about = {"video_id": f"clip{n}", "dim": dims[n % len(dims)]}
        choice = {"question": "\n".join([question, *lettered]), "answer": lettered[place]}
        rows["multi-choice"].append(about | choice)
        rows["yes_no"].append(about | {"question": f"{question} Is it {answer}?", "answer": "yes"})
        sentences = [f"Caption {LETTERS[k]}: It is {text}." for k, text in enumerate(texts)]
        match = {"question": "\n".join(["Which caption matches the video?", *sentences]), "answer": sentences[place]}
        rows["caption_matching"].append(about | match)
        caption = {"question": f"Describe the video.\n{question}", "answer": answer}
        rows["captioning"].append(about | caption | {f"mc_{key}": value for key, value in choice.items()})
        data.clip(f"tempcompass/videos/clip{n}.mp4", n)
    for name, own in rows.items():
        data.save("lmms-eval/TempCompass", name, "test", own)


def run(data: Data, model: str, tasks: Sequence[str], *arguments: str) -> tuple[str, dict[str, list[Row]], Row]:
    """The command, each task's logged samples, and what lmms-eval made of them."""
    out = Path(tempfile.mkdtemp(dir=data.folder))
    command = ["-m", "lmms_eval", "--model", "vl3ref", "--model_args", f"pretrained={model},max_new_tokens=64"]
    command += ["--tasks", ",".join(tasks), "--batch_size", "4", "--device", "cpu", "--log_samples", *arguments]
    offline = {"HF_HOME": str(data.home), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_TOKEN": "none"}
    offline["OPENAI_API_KEY"] = "none"  # mathvista's tasks cannot be loaded without one
    place = {"PYTHONPATH": "", "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(data.home)}
    done = subprocess.run(
        [sys.executable, *command, "--output_path", str(out)],
        cwd=data.folder,
        env={**os.environ, **offline, **place},
        text=True,
        capture_output=True,
    )
    if done.returncode or not [*out.rglob("*_results.json")]:
        sys.exit(f"lmms-eval failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    samples = {}
    for task in tasks:
        [path] = out.rglob(f"*_samples_{task}.jsonl")
        samples[task] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    [results] = out.rglob("*_results.json")
    shown = " ".join(["python", *command]).replace(model, Path(model).name)
    return shown, samples, json.loads(results.read_text("utf-8"))["results"]


def metrics(result: Row) -> str:
    """The figures of a task, as lmms-eval names them."""
    values = {key: value for key, value in result.items() if key.endswith(",none") and "stderr" not in key}
    shown = [f"{key.partition(',')[0]} {value:.3g}" for key, value in values.items() if isinstance(value, int | float)]
    return ", ".join(shown)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--model", default="vl3-tiny", help="a folder or a name, as vl3ref.load takes it")
    model = arguments.parse_args().model
    model = str(Path(model).resolve()) if os.path.isdir(model) else model
    lines, commands = [], []
    with tempfile.TemporaryDirectory() as folder:
        data = Data(Path(folder))
        makers: tuple[Callable[[Data], None], ...] = (images, videos)
        for make in makers:
            make(data)
        for tasks, more, note in (
            (SCORED, (), ""),
            (JUDGED, ("--predict_only", "--gen_kwargs", "max_new_tokens=64"), "needs a judge: answers only"),
            (UNSCORED, ("--predict_only",), "hidden answers: answers only"),
        ):
            command, samples, results = run(data, model, tasks, *more)
            commands.append(command)
            for task in tasks:
                answers = [str(sample["filtered_resps"]).strip() for sample in samples[task]]
                counts = [sample["token_counts"][0]["output_tokens"] for sample in samples[task]]
                empty = sum(not answer for answer in answers)
                at_once = sum(not answer and count == 1 for answer, count in zip(answers, counts, strict=True))
                assert empty == at_once, f"{task}: an answer of {counts} tokens is empty"
                example = next(answer for answer in answers if answer).replace("\n", " ").replace("|", "/")[:40]
                score = note or metrics(results[task])
                lines.append(f"| `{task}` | {len(answers)} | {len(answers) - empty} | {empty} | {score} | {example} |")
                print(lines[-1], flush=True)
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("lmms-eval", "torch", "torchvision", "transformers", "datasets")
    )
    text = TEXT.format(versions=versions, commands="\n".join(commands), table="\n".join(lines), model=Path(model).name)
    PAGE.write_text(text, "utf-8")


TEXT = """# The ten benchmarks' tasks of lmms-eval

The tasks that lmms-eval ships, unchanged, run from end to end with `{model}`: every item is read, prepared, answered in
batches of four, and scored. The data are stand-ins in the formats of the hub's sets: a few drawn pictures and clips,
the videos and subtitles under `HF_HOME`, where the tasks look for them.

**The figures say nothing about a model.** vl3-tiny knows the small world and a few hundred words; it has never seen the
letter of an option, and cannot be expected to score. Scores wait for the released weights and the real data.

{versions}.
Written by `.venv-lmms/bin/python -m scripts.lmms_eval_shipped_tasks`, which runs, offline:

```
{commands}
```

| task | items | answered | ended at once | metric | an answer |
|---|---:|---:|---:|---|---|
{table}

*Ended at once*: the model's first token was the end of its turn, which is an answer, too.

Needing a judge: MathVista asks GPT to extract answers; TempCompass asks it to judge captions, and what the rules of its
other three tasks cannot read. `--predict_only` makes their answers; to have them scored, leave it out and set
`OPENAI_API_KEY` (without any value MathVista's tasks cannot even be loaded).
"""

if __name__ == "__main__":
    main()
