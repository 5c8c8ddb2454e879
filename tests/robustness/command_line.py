"""Bad command lines, as data. Each ends with exit code 2 and one line, in which the sentence stands.

In arguments, CAT, CLIP, TINY and DATA stand for a picture, a video, vl3-tiny and two annotated samples; FOLDER for an
empty folder; TEXT, EMPTY, PIPE and NOISE.* for files with text, nothing, no end, and random bytes.
"""

Case = tuple[list[str], str]
"""Arguments, and what the line on stderr says."""

TRAIN = ["train", "DATA", "--model", "TINY", "--device", "cpu", "--out", "FOLDER/run"]
STAGE = [*TRAIN, "--stage", "1"]
ASK, CHAT, SEEN = ["ask", "CLIP", "What?"], ["chat", "CLIP"], ["inspect", "CLIP", "--out", "FOLDER/a.png"]
COMPARE, EXAM = ["parity", "CLIP", "--no-float64"], ["eval", "tinyworld", "--device", "cpu"]

NUMBERS: list[tuple[list[str], str, type, str, list[str]]] = [
    # a command, an option, what it takes, the sentence, and values out of range
    (ASK, "--fps", float, "fps should be a number above 0", ["-1", "0", "-0.0", "1e18"]),
    (ASK, "--max-frames", int, "max_frames should be a whole number of at least 1", ["-1", "0", "-9999999999"]),
    (ASK, "--start", float, "start_time should be a number of seconds, 0 or more", ["-1", "-1e-9", "-1e18"]),
    (ASK, "--end", float, "end_time should be a number of seconds after the start", ["-1", "0", "-1e18"]),
    (ASK, "--visual-tokens", int, "max_tokens should be a whole number from 1", ["-1", "0", "1000000000000000000"]),
    (ASK, "--merge", int, "image_merge_size should be a whole number from 1 to 16", ["-1", "0", "17", "999999999"]),
    (ASK, "--max-tokens", int, "max_new_tokens should be a whole number of at least 1", ["-1", "0", "-999999999"]),
    (ASK, "--min-tokens", int, "min_new_tokens should be between 0 and max_new_tokens", ["-1", "513", "999999999"]),
    (ASK, "--temperature", float, "temperature should be 0 (greedy), or from", ["-1", "-1e-9", "1e-9", "1e18"]),
    (ASK, "--top-k", int, "top_k should be a whole number of at least 1", ["-1", "0"]),
    (ASK, "--top-p", float, "top_p should be above 0 and at most 1", ["-1", "0", "1.0001", "1e18"]),
    (ASK, "--repetition-penalty", float, "repetition_penalty should be a number from", ["-1", "0", "1e18", "1e-18"]),
    (ASK, "--seed", int, "seed should be a whole number from 0", ["-1", "9000000000000000000"]),
    (CHAT, "--temperature", float, "temperature should be 0 (greedy), or from", ["-1", "1e18"]),
    (CHAT, "--top-k", int, "top_k should be a whole number of at least 1", ["-1", "0"]),
    (CHAT, "--top-p", float, "top_p should be above 0 and at most 1", ["-1", "0", "2"]),
    (SEEN, "--fps", float, "fps should be a number above 0", ["-1", "0", "1e18"]),
    (SEEN, "--max-frames", int, "max_frames should be a whole number of at least 1", ["-1", "0"]),
    (SEEN, "--start", float, "start_time should be a number of seconds, 0 or more", ["-1", "-1e18"]),
    (SEEN, "--end", float, "end_time should be a number of seconds after the start", ["-1", "0"]),
    (SEEN, "--visual-tokens", int, "max_tokens should be a whole number from 1", ["-1", "0", "1000000000000000000"]),
    (SEEN, "--merge", int, "image_merge_size should be a whole number from 1 to 16", ["-1", "0", "17"]),
    (["parity", "--random", "tiny"], "--layers", int, "layers should be at least 1", ["-1", "0"]),
    (COMPARE, "--frames", int, "--frames should be at least 1 and at most", ["-1", "0", "1000000000000000000"]),
    (COMPARE, "--max-tokens", int, "--max-tokens should be at least 1 and at most", ["-1", "0", "10001"]),
    (COMPARE, "--visual-tokens", int, "max_tokens should be a whole number from 1", ["-1", "0", "9999999999"]),
    (COMPARE, "--tolerance", float, "--tolerance should be at least 0", ["-1", "-1e-9"]),
    (TRAIN, "--stage", int, "--stage should be 1, 2, 3 or 4", ["-1", "0", "5", "1000000000000000000"]),
    (STAGE, "--steps", int, "steps should be ", ["-1", "0", "1000000000000000000"]),
    (STAGE, "--epochs", float, "epochs should be a number ", ["-1", "0", "1e-100", "1e18"]),
    (STAGE, "--batch", int, " should be ", ["-1", "0", "1000000000", "1000000000000000000"]),
    (STAGE, "--pack", int, " should be ", ["-1", "0", "1000000000000000000"]),
    (STAGE, "--save-every", int, " should be ", ["-1", "0", "1000000000000000000"]),
    (STAGE, "--workers", int, "workers should be ", ["-1", "65", "1000", "1000000000000000000"]),
    (STAGE, "--decoder-lr", float, "--decoder-lr should be a number of at least 0", ["-1", "-1e-9"]),
    (STAGE, "--projector-lr", float, "--projector-lr should be a number of at least 0", ["-1", "-1e-9"]),
    (STAGE, "--vision-lr", float, "--vision-lr should be a number of at least 0", ["-1", "-1e-9"]),
    (STAGE, "--added-lr", float, "--added-lr should be a number of at least 0", ["-1", "-1e-9"]),
    (EXAM, "--questions", int, "--questions should be at least 1 and at most", ["-1", "0", "1000000000000000000"]),
    (EXAM, "--seed", int, "--seed should be at least 0", ["-1", "-999999999"]),
]

NO_NUMBERS = ["", "many", "1e", "0x10", "--fps", "1,000", "9" * 5000]
HUGE = ["9" * 400, "-" + "9" * 400]
NO_WHOLE_NUMBERS = ["nan", "inf", "1.5", "1e18"]
NO_FINITE_NUMBERS = ["nan", "inf", "-inf", "1e400"]


def of_numbers() -> list[Case]:
    """Every option that takes a number, with everything that is none or out of range."""
    cases: list[Case] = []
    for command, option, kind, sentence, refused in NUMBERS:
        fits, invalid = f"{option} should be a number that fits into 64 bits", f"Invalid value for '{option}'"
        told = dict.fromkeys(NO_NUMBERS, invalid) | dict.fromkeys(HUGE, fits)
        told |= dict.fromkeys(NO_WHOLE_NUMBERS, invalid) if kind is int else dict.fromkeys(NO_FINITE_NUMBERS, fits)
        if kind is float:
            told["9" * 5000] = fits
        told |= dict.fromkeys(refused, sentence)
        cases += [([*command, f"{option}={value}"], said) for value, said in told.items()]
    return cases


DEVICES = [
    "",
    "x",
    "cuda:99",
    "meta",
    "xla",
    "hpu",
    "vulkan",
    "ipu",
    "lazy",
    "mtia",
    "privateuseone",
    "cpu:x",
    "a" * 3000,
]
DTYPES = ["x", "int8", "float", "float8_e4m3fn", "complex64", "bool", "nn", "Tensor", "a" * 3000]
MODELS = [
    "nowhere",
    "~nouser",
    "a/b/c",
    "/dev/null",
    "TEXT",
    "a" * 5000,
    "a\nb",
    "\x1b[2J",
    "../x",
    "/a/b",
    "a/",
]
NO_FILES = [
    "missing.png",
    "a\0b",
    "~x/a.mp4",
    "http://a/b.mp4",
    "-",
    "[/b].png",
    "a" * 5000,
    "\x1b[2J.mp4",
    "a\r\nb",
    "\udcff",
]

TEXTS: list[Case] = [
    *[(["ask", "Hello", f"--device={device}"], "cannot be used") for device in DEVICES],
    *[
        (["train", "DATA", "--stage", "1", "--model", "TINY", f"--device={device}"], "cannot be used")
        for device in DEVICES[:4]
    ],
    *[(["ask", "Hello", f"--dtype={dtype}"], "cannot be computed with") for dtype in DTYPES],
    *[(["ask", "Hello", f"--model={model}"], "is not a folder") for model in MODELS],
    *[(["inspect", "CAT", f"--model={model}"], "is not a folder") for model in MODELS],
    *[(["convert", model, "FOLDER/x", "--to", "hf"], "is not a folder") for model in MODELS],
    *[(["eval", "tinyworld", f"--model={model}"], "is not a folder") for model in MODELS[:5]],
    *[(["parity", f"--model={model}"], "is not a folder") for model in MODELS[:5]],
    *[([*STAGE[:2], "--stage", "1", f"--model={model}"], "is not a folder") for model in MODELS],
    *[(["ask", "--", name, "What?"], "does not exist") for name in NO_FILES],
    *[(["chat", "--", name], "does not exist") for name in NO_FILES],
    *[(["inspect", "--", name], "does not exist") for name in NO_FILES],
    *[(["parity", "--", name], "does not exist") for name in NO_FILES[:6]],
    *[([command, "", *rest], "name is empty") for command, rest in (("ask", ["What?"]), ("inspect", []), ("chat", []))],
]

FILES = [
    "TEXT",
    "EMPTY",
    "PIPE",
    "NOISE.mp4",
    "NOISE.gif",
    "NOISE.png",
    "NOISE.jpg",
    "NOISE.bin",
    "FOLDER",
    "EMPTY.mp4",
    "EMPTY.png",
]

MEDIA: list[tuple[list[str], tuple[str, ...]]] = [
    (
        command,
        (
            "neither a picture",
            "cannot be read as",
            "no regular file",
            "holds no pictures",
            "is not a picture",
            "no frame",
        ),
    )
    for file in FILES
    for command in (["ask", file, "What?"], ["inspect", file], ["parity", file])
]
"""Files that are no media. Which of the sentences it is depends on who is asked first."""

OTHERS: list[Case] = [
    ([], ""),
    (["nothing"], "No such command 'nothing'"),
    (["\x1b[2J"], "No such command"),
    (["[/b]"], "No such command"),
    (["--nothing"], "No such option: --nothing"),
    *[([command, "--nothing"], "No such option: --nothing") for command in ("ask", "chat", "train", "eval", "parity")],
    *[([command, "--[/b]"], "No such option") for command in ("ask", "chat", "inspect", "convert", "download")],
    *[([command, "--\x1b]0;x\x07"], "No such option") for command in ("ask", "chat", "inspect", "train", "eval")],
    (["ask"], "Missing argument"),
    (["inspect"], "Missing argument"),
    (["download"], "Missing argument"),
    (["convert"], "Missing argument"),
    (["convert", "TINY"], "Missing argument"),
    (["convert", "TINY", "FOLDER/x"], "--to"),
    (["eval"], "Missing argument"),
    (["ask", "Hello", "--fps"], "requires an argument"),
    (["ask", "Hello", "--model"], "requires an argument"),
    (["inspect", "CAT", "CLIP"], "unexpected extra argument"),
    (["convert", "TINY", "x", "y", "--to", "hf"], "unexpected extra argument"),
    (["ask", "Hello", "--json=yes"], "does not take a value"),
    (["ask", ""], "the question is empty"),
    (["ask", " \n\t"], "the question is empty"),
    (["ask", "CAT", ""], "the question is empty"),
    (["ask", "CAT"], "there is no question"),
    (["ask", "CAT", "CLIP"], "there is no question"),
    (["ask", "FOLDER"], "there is no question"),
    (["ask", "Hello", "--start", "1"], "--start and --end are for videos"),
    (["ask", "CAT", "Hello", "--end", "1"], "--start and --end are for videos"),
    (["inspect", "CAT", "--start", "1"], "--start and --end are for videos"),
    (["ask", "CLIP", "What?", "--start", "2", "--end", "1"], "after the start (2 s)"),
    (["ask", "CLIP", "What?", "--start", "1", "--end", "1"], "after the start (1 s)"),
    (["ask", "Hello", "--sample"], "recommends no sampling"),
    (["ask", "Hello", "--sample", "--json"], "recommends no sampling"),
    (["inspect", "CAT", "--out", "FOLDER"], "is a folder"),
    (["inspect", "CAT", "--out", "FOLDER/no/a.png"], "cannot be written"),
    (["inspect", "CAT", "--out", "TEXT/a.png"], "cannot be written"),
    (["inspect", "CAT", "--out", "/dev/full"], "no regular file"),
    (["inspect", "CAT", "--out", "PIPE"], "no regular file"),
    (["inspect", "CAT", "--out", "FOLDER/" + "a" * 300], "cannot be written"),
    (["convert", "TINY", "TEXT", "--to", "hf"], "TEXT exists"),
    (["convert", "TINY", "TEXT/x", "--to", "hf"], "cannot be written"),
    (["convert", "TINY", "TINY", "--to", "hf"], "TINY"),
    (["convert", "TINY", "/proc/x", "--to", "hf"], "cannot be written"),
    (["convert", "TINY", "FOLDER/" + "a" * 300, "--to", "hf"], "cannot be written"),
    (["convert", "TINY", "FOLDER/x", "--to", "gguf"], "Invalid value for '--to'"),
    (["convert", "TINY", "FOLDER/x", "--to", ""], "Invalid value for '--to'"),
    (["convert", "FOLDER", "FOLDER/x", "--to", "hf"], "config.json"),
    (["parity", "--random", "9b"], "9b"),
    (["parity", "--random", "tiny", "--model", "TINY"], "exclude each other"),
    (["parity", "--random", "tiny", "CAT"], "a random model has no tokenizer"),
    (["parity", "--layers", "1"], "--layers goes with --random"),
    (["parity", "--random", "tiny", "--dtype", "int8"], "no floating-point dtype named"),
    (["parity", "--random", "tiny", "--device", "nowhere"], "cannot be used"),
    (["parity", "--synthetic", "sound"], "Invalid value for '--synthetic'"),
    (["parity", "--attention", "none"], "Invalid value for '--attention'"),
    *[(["parity", f"--{kind}", "FOLDER/no/x"], "cannot be written") for kind in ("dump", "markdown", "json", "plot")],
    *[(["parity", f"--{kind}", "FOLDER"], "cannot be written") for kind in ("dump", "markdown", "json", "plot")],
    *[(["parity", "--against", file], file.partition("/")[0]) for file in ("FOLDER", "TEXT", "CAT", "EMPTY", "PIPE")],
    (["parity", "--against", "missing.safetensors"], "does not exist"),
    (["train"], "name annotation files to train on"),
    (["train", "--recipe", "large"], "Invalid value for '--recipe'"),
    (["train", "--recipe", "tiny", "--stage", "1"], "leave --stage out"),
    (["train", "DATA", "--recipe", "tiny"], "leave DATA out"),
    (["train", "missing.json", *STAGE[2:]], "missing.json' does not exist"),
    (["train", "TEXT", *STAGE[2:]], "should be .json"),
    (["train", "FOLDER", *STAGE[2:]], "FOLDER"),
    (["train", "PIPE.json", *STAGE[2:]], "no regular file"),
    (["train", "NOISE.json", *STAGE[2:]], "NOISE.json"),
    (["ask", "Hello", "--model", "[/b]"], "there is no folder [/b] here"),
    (["train", "EMPTY.json", *STAGE[2:]], "EMPTY.json"),
    (["train", "EMPTY.jsonl", *STAGE[2:]], "no samples"),
    (["train", "DATA", "--stage", "1"], "give --model, a checkpoint to start from"),
    (["train", "DATA", "--stage", "1", "--vision", "TINY"], "give --model, a checkpoint to start from"),
    ([*STAGE, "--media", "nowhere"], "is not a folder"),
    ([*STAGE, "--change", "mine.py"], "file.py:function"),
    ([*STAGE, "--change", "gone.py:change"], "gone.py"),
    ([*STAGE, "--change", "PIPE:change"], "PIPE"),
    ([*STAGE, "--change", "TEXT.py:change"], "TEXT.py"),
    ([*STAGE, "--change", ":"], "file.py:function"),
    (["train", "DATA", "--model", "TINY", "--stage", "1", "--out", "TEXT"], "is a file; name a folder"),
    ([*STAGE, "--vision-lr", "0", "--projector-lr", "0"], "every part is frozen"),
    (["eval", "largeworld"], "largeworld"),
    (["eval", "tinyworld", "--json", "FOLDER"], "cannot be written"),
    (["eval", "tinyworld", "--markdown", "FOLDER/no/x"], "cannot be written"),
    (["eval", "tinyworld", "--change", "gone.py:change"], "gone.py"),
    (["download", ""], ""),
    (["download", "a/b"], "could not be fetched"),
    (["download", "no-owner"], "could not be fetched"),
    (["download", "../a/b"], "could not be fetched"),
    (["download", "a/b", "--revision", "\x1b[2J"], "could not be fetched"),
    (["download", "[/b]/a"], "could not be fetched"),
]
