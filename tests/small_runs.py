"""Training runs of a very small model, in this process, in ones that are killed, and under torchrun."""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import vl3ref
from vl3ref.checkpoints import saving
from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.inputs.processor import Processor
from vl3ref.model.initialise import random_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.training import run_log, run_state, stage_run, trainer
from vl3ref.training.distributed import Processes, started
from vl3ref.training.run_log import COLUMNS, RunLog, read_log
from vl3ref.training.samples import AnnotationError
from vl3ref.training.stages import TINY, Stage
from vl3ref.training.tinyworld import PICTURES, TinyWorld
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
    bos_token_id=522,
    eos_token_ids=(524, 522),
)
WORLD = {**PICTURES, "clip": 9}
STAGE = TINY[2]
"""All parts trained, DiffFP on, pictures and videos merged by 2."""


@lru_cache
def processor() -> Processor:
    return vl3ref.load_processor("vl3-tiny")


def small_config(**language: Any) -> ModelConfig:
    image = processor().config.image_token_id
    return ModelConfig(VISION, replace(LANGUAGE, **language), image_token_id=image, video_token_id=image)


def small_model(seed: int = 0, **language: Any) -> VideoLLaMA3:
    """Fifty thousand parameters, with biases that are not zero."""
    return random_model(small_config(**language), seed, spread=0.1)


class Mixed:
    """Sample i of the small world: shown (s), told in words (t), or broken (b), as letter i of `kinds` says."""

    def __init__(self, kinds: str, seed: int = 0) -> None:
        self.kinds = kinds
        self.worlds = {"s": TinyWorld(seed, WORLD, turns=2), "t": TinyWorld(seed, WORLD, turns=2, told=1.0)}

    def __len__(self) -> int:
        return len(self.kinds)

    def conversation(self, index: int) -> list[dict[str, Any]]:
        if self.kinds[index] == "b":
            raise AnnotationError("it is broken")
        return self.worlds[self.kinds[index]].conversation(index)

    def name(self, index: int) -> str:
        return f"sample {index}"


@dataclass(frozen=True)
class Run:
    """A run of `batch` conversations a step, in the order of `kinds`, as long as those last."""

    folder: Path
    kinds: str
    batch: int = 4
    stage: Stage = STAGE
    pack_tokens: int = 600
    save_every: int = 2
    keep: int = 2
    workers: int = 0
    resume: bool = True
    kill: tuple[str, int] | None = None

    def train(self, processes: Processes | None = None) -> None:
        torch.set_num_threads(1)
        if self.kill is not None:
            arm(*self.kill)
        stage_run.train_stage(
            small_model(),
            processor(),
            Mixed(self.kinds),
            self.stage,
            Plan(len(self.kinds) // self.batch, save_every=self.save_every, keep=self.keep, workers=self.workers),
            self.folder,
            self.batch,
            self.pack_tokens,
            resume=self.resume,
            processes=processes,
        )

    def start(self) -> Any:
        """The run in a process of its own, which was forked from one that has torch loaded and nothing computed."""
        context = get_context("forkserver")
        context.set_forkserver_preload(["tests.small_runs"])
        process = context.Process(target=self.train)
        process.start()
        return process

    def in_own_process(self) -> int:
        """Its exit code; -9 if it was killed."""
        process = self.start()
        process.join(120)
        return process.exitcode


def rows(folder: Path, first: int = 1) -> list[dict[str, str]]:
    """The log from a step on, without what may differ: the clock."""
    return [
        {name: row[name] for name in COLUMNS if name != "seconds"}
        for row in read_log(folder / "log.csv")
        if int(row["step"]) >= first
    ]


def numbers(folder: Path, column: str, first: int = 1) -> torch.Tensor:
    return torch.tensor([float(row[column]) for row in rows(folder, first)], dtype=torch.float64)


# -------------------------------------------------------------------------------------------------------------- killing


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, step: int) -> None:
    """Have this process killed, as by `kill -9`, at a moment of a step."""

    def around(owner: Any, name: str, then: Callable[[Any], Any]) -> None:
        setattr(owner, name, then(getattr(owner, name)))

    def before(function: Any) -> Any:
        return lambda *args, **kwargs: (die(), function(*args, **kwargs)) if due() else function(*args, **kwargs)

    def after(function: Any) -> Any:
        return lambda *args, **kwargs: (function(*args, **kwargs), due() and die())[0]

    def due() -> bool:
        return reached[0] >= step

    reached = [0]
    write = RunLog.write

    def counted(self: RunLog, number: int, figures: Any) -> None:
        write(self, number, figures)
        reached[0] = number

    RunLog.write = counted  # type: ignore[method-assign]
    if moment == "the line is in the log":
        around(RunLog, "write", after)
    elif moment == "its gradients are there":
        reached[0] = 1 - 1
        around(trainer, "clip_gradients", lambda f: lambda *a: (reached[0] == step - 1 and die(), f(*a))[1])
    elif moment == "the weights are being written":
        around(saving, "_write_shards", before)
    elif moment == "the weights are written":
        around(stage_run, "write_checkpoint", after)
    elif moment == "half of the trainer's state is written":
        around(run_state.torch, "save", half_of(due))
    elif moment == "the checkpoint is about to get its name":
        around(run_state.os, "rename", lambda f: lambda a, b: (due() and Path(b).name.startswith("ch") and die(), f(a, b)))
    elif moment == "the checkpoint has its name":
        around(run_state.os, "rename", lambda f: lambda a, b: (f(a, b), due() and Path(b).name.startswith("ch") and die()))
    elif moment == "an old checkpoint is being removed":
        pass
    elif moment == "the log is being taken over":
        around(run_log.csv.DictWriter, "writerows", lambda f: lambda *a: die())
    else:
        raise AssertionError(moment)


def half_of(due: Callable[[], bool]) -> Any:
    def then(save: Any) -> Any:
        def half(content: Any, path: Path) -> None:
            save(content, path)
            if due():
                os.truncate(path, path.stat().st_size // 2)
                die()

        return half

    return then


# ------------------------------------------------------------------------------------------------------------- torchrun


def main(runs: Sequence[Run]) -> None:
    """In each of torchrun's processes."""
    with started(torch.device("cpu")) as processes:
        for run in runs:
            run.train(processes)


if __name__ == "__main__":
    main([Run(**{**one, "folder": Path(one["folder"]), "stage": TINY[one["stage"]]}) for one in json.loads(sys.argv[1])])
