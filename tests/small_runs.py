"""Training runs of a very small model: in this process, in one that is killed, and under torchrun."""

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vl3ref
from vl3ref.checkpoints import saving
from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.inputs.processor import Processor
from vl3ref.model.initialise import random_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.training import checkpoints, run_log, trainer
from vl3ref.training.distributed import Processes, started
from vl3ref.training.run import train_stage
from vl3ref.training.run_log import COLUMNS, RunLog, read_log
from vl3ref.training.samples import AnnotationError
from vl3ref.training.stages import TINY, Stage
from vl3ref.training.trainer import Plan

VISION = VisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
LANGUAGE = LanguageConfig(
    vocab_size=1024,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rope_theta=1e6,
    tie_word_embeddings=True,
)
STAGE = TINY[2]
"""All parts are trained, DiffFP is on, images and videos are merged by 2."""


@lru_cache
def processor() -> Processor:
    return vl3ref.load_processor("vl3-tiny")


def small_model(seed: int = 0, **language: Any) -> VideoLLaMA3:
    """Sixty thousand parameters, the biases among them not zero."""
    image, special = processor().config.image_token_id, processor().tokenizer.special
    end, stop = special("<|im_end|>"), special("<|endoftext|>")
    language = {"bos_token_id": stop, "eos_token_ids": (end, stop), **language}
    config = ModelConfig(VISION, replace(LANGUAGE, **language), image_token_id=image, video_token_id=image)
    model = random_model(config, seed, spread=0.1)
    model.vision_encoder.chunk_patches = 200  # most batches take several
    return model


WORDS = [
    "red",
    "green",
    "blue",
    "small",
    "large",
    "round",
    "left",
    "right",
    "above",
    "below",
    "moves",
    "stays",
    "turns",
]


class Mixed:
    """Samples of noise, as the letters of `kinds` say: something to see (s: an image, or a clip in which half of every
    frame stands still), text alone (t), a greeting (g), or broken (b)."""

    def __init__(self, kinds: str) -> None:
        self.kinds = kinds

    def __len__(self) -> int:
        return len(self.kinds)

    def conversation(self, index: int) -> list[dict[str, Any]]:
        kind, rng = self.kinds[index], np.random.default_rng(index)
        if kind == "b":
            raise AnnotationError("it is broken")

        def words(most: int) -> str:
            return " ".join(WORDS[int(i)] for i in rng.integers(len(WORDS), size=rng.integers(2, most)))

        if kind == "g":
            asked: list[dict[str, Any]] = [{"type": "text", "text": "Hello."}]
        elif kind == "t":
            asked = [{"type": "text", "text": words(60)}]
        else:
            count = 1 if index % 3 == 0 else int(rng.integers(2, 6))
            height, width = (56 * int(i) for i in rng.integers(2, 4, size=2))
            frames = rng.integers(0, 256, (count, height, width, 3), np.uint8)
            frames[:, : height // 2] = frames[0, : height // 2]
            shown = ("image", frames[0]) if index % 3 == 0 else ("video", frames)
            asked = [{"type": shown[0], shown[0]: shown[1]}, {"type": "text", "text": words(9)}]
        turns = (asked, words(5) if kind == "g" else words(20))
        more = ([{"type": "text", "text": words(9)}], words(9)) if kind in "st" else ()
        roles = ("user", "assistant") * 2
        return [{"role": role, "content": content} for role, content in zip(roles, (*turns, *more), strict=False)]

    def name(self, index: int) -> str:
        return f"sample {index}"


@dataclass(frozen=True)
class Run:
    """A run over the samples of `kinds`, in their order, once.

    Attributes:
        change: "module:function".
        kill: a moment of `MOMENTS` and the step at which it comes.
        late: seconds by which the first process makes its log later than the others.
    """

    folder: Path
    kinds: str
    stage: Stage = STAGE
    batch: int = 4
    pack_tokens: int = 600
    save_every: int = 2
    keep: int = 2
    workers: int = 0
    bfloat16: bool = False
    gradient_checkpointing: bool = False
    resume: bool = True
    change: str | None = None
    kill: tuple[str, int] | None = None
    late: float = 0.0

    @property
    def plan(self) -> Plan:
        return Plan(
            len(self.kinds) // self.batch,
            batch_size=self.batch,
            pack_tokens=self.pack_tokens,
            shuffle=False,
            save_every=self.save_every,
            keep=self.keep,
            workers=self.workers,
            bfloat16=self.bfloat16,
            gradient_checkpointing=self.gradient_checkpointing,
        )

    def train(self, model: VideoLLaMA3 | None = None, processes: Processes | None = None) -> VideoLLaMA3:
        """Train a model (a small one, always the same, if none is given)."""
        model = small_model() if model is None else model
        change = None
        if self.change is not None:
            module, _, name = self.change.partition(":")
            change = getattr(importlib.import_module(module), name)
            torch.manual_seed(0)
            change(model)
        samples, given = Mixed(self.kinds), {"change": change, "resume": self.resume, "processes": processes}
        train_stage(model, processor(), samples, self.stage, self.plan, self.folder, **given)
        return model

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "folder": str(self.folder), "stage": TINY.index(self.stage)}


def rows(folder: Path, first: int = 1) -> list[dict[str, str]]:
    """The log from a step on, without what the clock says."""
    return [
        {name: row[name] for name in COLUMNS if name != "seconds"}
        for row in read_log(folder / "log.csv")
        if int(row["step"]) >= first
    ]


def column(folder: Path, name: str, first: int = 1) -> torch.Tensor:
    return torch.tensor([float(row[name]) for row in rows(folder, first)], dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- killing

Replace = Callable[[Any, str, Any], None]
"""`setattr`, or pytest's, which can be undone."""


def arm(moment: str, step: int, die: Callable[[], None], put: Replace = setattr) -> None:
    """Have a run die at a moment of a step."""
    write, done = RunLog.write, [0]

    def counted(self: RunLog, number: int, figures: Any) -> None:
        write(self, number, figures)
        done[0] = number

    put(RunLog, "write", counted)
    owner, name, wrap = MOMENTS[moment]
    begun = 1 if moment == "its gradients are there" else 0

    def die_if_due() -> None:
        if done[0] + begun >= step:
            die()

    put(owner, name, wrap(getattr(owner, name), die_if_due))


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Killed(BaseException):
    """What stands for `kill -9` where the process has to live on."""


def raise_killed() -> None:
    raise Killed


def before(function: Any, die_if_due: Callable[[], None]) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        die_if_due()
        return function(*args, **kwargs)

    return wrapped


def after(function: Any, die_if_due: Callable[[], None]) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        die_if_due()
        return result

    return wrapped


def half(save: Any, die_if_due: Callable[[], None]) -> Any:
    def wrapped(content: Any, path: Path) -> None:
        save(content, path)
        size = path.stat().st_size
        os.truncate(path, size // 2)
        die_if_due()
        save(content, path)

    return wrapped


def visible(wrap: Any) -> Any:
    """`os.rename`, where it gives a checkpoint its name."""

    def then(rename: Any, die_if_due: Callable[[], None]) -> Any:
        armed = wrap(rename, die_if_due)
        return lambda old, new: (armed if Path(new).name.startswith("checkpoint-") else rename)(old, new)

    return then


def half_way(remove: Any, die_if_due: Callable[[], None]) -> Any:
    """`shutil.rmtree`, of a whole checkpoint."""

    def wrapped(folder: Path, *args: Any, **kwargs: Any) -> None:
        if (Path(folder) / "trainer.pt").exists():
            (Path(folder) / "model.safetensors").unlink()
            die_if_due()
        remove(folder, *args, **kwargs)

    return wrapped


MOMENTS: dict[str, tuple[Any, str, Any]] = {
    "its line is in the log": (RunLog, "write", after),
    "its gradients are there": (trainer, "clip_gradients", before),
    "the weights are being written": (saving, "_write_shards", before),
    "the weights are written": (checkpoints.model_folders, "write_model", after),
    "half of the trainer's state is written": (checkpoints.torch, "save", half),
    "the checkpoint is about to get its name": (checkpoints.os, "rename", visible(before)),
    "the checkpoint has its name": (checkpoints.os, "rename", visible(after)),
    "an old checkpoint is being removed": (checkpoints.shutil, "rmtree", half_way),
    "the log is being taken over": (run_log.csv.DictWriter, "writerows", before),
}


# -------------------------------------------------------------------------------------------- processes of their own


def main(runs: list[dict[str, Any]]) -> None:
    """One run after another: in a process that is killed, or in each of torchrun's."""
    torch.set_num_threads(1)  # the same bits in every process
    enter = RunLog.__enter__
    with started(torch.device("cpu")) as processes:
        for settings in runs:
            run = Run(**{**settings, "folder": Path(settings["folder"]), "stage": TINY[settings["stage"]]})

            def late(log: RunLog, seconds: float = run.late) -> RunLog:
                time.sleep(seconds if processes.first else 0.0)
                return enter(log)

            RunLog.__enter__ = late  # type: ignore[method-assign]
            if run.kill is not None:
                arm(*run.kill, die=kill_this_process)
            run.train(processes=processes)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
