"""The command line: answers alone on stdout, one line for what is wrong, every option doing what it says."""

import io
import json
import os
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from PIL import Image

import vl3ref
from tests.helpers import ROOT
from vl3ref.chat import Chat
from vl3ref.cli import main
from vl3ref.errors import CheckpointError

TINY = ROOT / "weights" / "vl3-tiny"
CAT = str(ROOT / "docs" / "media" / "cat.jpg")
BUNNY = str(ROOT / "docs" / "media" / "bunny.mp4")
CLIP = str(ROOT / "tests" / "goldens" / "frames" / "v10_3s.mp4")
FEW = ("--visual-tokens", "64", "--max-tokens", "6")
SIX = (*FEW, "--min-tokens", "6")
PENALTY = ("--repetition-penalty", "1.5")


@pytest.fixture(scope="module")
def loaded():
    return vl3ref.load(TINY, device="cpu")


@pytest.fixture(autouse=True)
def load_once(monkeypatch, loaded):
    """The tiny checkpoint is loaded for all tests together, other folders as always."""
    load = vl3ref.load
    monkeypatch.setattr(
        vl3ref,
        "load",
        lambda folder, *options, **named: (
            loaded
            if (folder, *options) == (TINY, None, None) and not any(named.values())
            else load(folder, *options, **named)
        ),
    )


def expected(loaded, question, files=(), penalty=1.0, **overrides):
    """What six new tokens say."""
    chat = Chat(*loaded, max_new_tokens=6, min_new_tokens=6, repetition_penalty=penalty)
    return "".join(chat.ask(question, files, max_tokens=64, **overrides)), chat


# ---------------------------------------------------------------------------------------------------------------- ask


@pytest.mark.parametrize("files", [[], [CAT], [CLIP], [CAT, CLIP]], ids=["text", "image", "video", "both"])
def test_ask_prints_the_answer_alone(vl3ref_main, loaded, files):
    out, err = vl3ref_main("ask", *files, "What is it?", *SIX, *PENALTY)
    answer, _ = expected(loaded, "What is it?", files, penalty=1.5)
    assert out == answer + "\n"
    assert err.count("\n") == 2
    assert "a synthetic world" in err and "cut after 6 tokens" in err


def test_a_named_folder_brings_no_note(vl3ref_main):
    chart = ROOT / "docs" / "media" / "tinyworld" / "chart.png"
    _, err = vl3ref_main("ask", chart, "How high is the green bar?", "--model", TINY, *FEW)
    assert "note" not in err


def test_ask_json(vl3ref_main, loaded):
    out, _ = vl3ref_main("ask", CAT, CLIP, "What is it?", *SIX, *PENALTY, "--merge", "1", "--json")
    assert out.count("\n") == 1
    report = json.loads(out)
    merge = {"image_merge_size": 1, "video_merge_size": 1}
    answer, chat = expected(loaded, "What is it?", [CAT, CLIP], penalty=1.5, **merge)
    inputs = chat.prepare("What is it?", [CAT, CLIP], max_tokens=64, **merge)
    assert report["answer"] == answer and report["ids"] == chat.answer_ids
    assert report["finish_reason"] == "length" and report["model"] == "vl3-tiny"
    picture, video = report["sources"]
    assert (picture["name"], picture["modal"], picture["frames"][0]["time"]) == (CAT, "image", None)
    assert [frame["time"] for frame in video["frames"]] == [0.0, 1.0, 2.0]
    before, after = report["visual_tokens"]["before_diff_fp"], report["visual_tokens"]["after_diff_fp"]
    assert before == sum(inputs.tokens_per_visual()) and after == int(chat.model.pruner(inputs, None).sum()) < before
    assert video["tokens_after_diff_fp"] == sum(frame["tokens_after_diff_fp"] for frame in video["frames"])
    assert report["prompt_tokens"] == chat.cache.lengths[0] - (len(chat.answer_ids) - 1)
    assert set(report["seconds"]) == {"load", "prepare", "first_text", "rest"}


def test_a_changed_model_is_asked(vl3ref_main, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from vl3ref.model.diff_fp import keep_all\n\ndef whole(model):\n    model.pruner = keep_all\n"
        "\ndef broken(model):\n    model.nothing.here = 1\n"
    )

    def kept(*options):
        return ask_json(vl3ref_main, CLIP, "What?", *options)["visual_tokens"]["after_diff_fp"]

    assert kept("--change", f"{mine}:whole") == kept("--no-prune") > kept()
    out, _ = vl3ref_main("watch", CLIP, "What?", "--every", 3, "--max-tokens", 2, "--change", f"{mine}:whole")
    assert out
    for command in (["ask", CLIP, "What?"], ["chat", CLIP], ["watch", CLIP, "What?"]):
        for change, message in ((f"{mine}:broken", "has no attribute 'nothing'"), ("mine.py", "file.py:function")):
            out, err = vl3ref_main(*command, "--change", change, rc=2)
            assert message in err and not out


def ask_json(vl3ref_main, *arguments):
    return json.loads(vl3ref_main("ask", *arguments, "--max-tokens", "2", "--json")[0])


def test_ask_sees_what_it_is_told_to(vl3ref_main):
    def source(*options):
        return ask_json(vl3ref_main, CLIP, "What?", *options)["sources"][0]

    times = {
        ("--fps", "2"): [0.0, 0.5, 1.0, 1.5, 2.0, 2.5],
        ("--max-frames", "2"): [0.0, 2.0],
        ("--start", "1"): [1.0, 2.0],
        ("--end", "2"): [0.0, 1.0],
    }
    for options, wanted in times.items():
        assert [frame["time"] for frame in source(*options)["frames"]] == pytest.approx(wanted)
    assert source("--merge", "1")["merge_size"] == 1 and source()["merge_size"] == 2
    whole = source("--no-prune")
    assert whole["tokens_after_diff_fp"] == whole["tokens_before_diff_fp"] == 12 > source()["tokens_after_diff_fp"]
    [large] = ask_json(vl3ref_main, CAT, "What?", "--merge", "2", "--visual-tokens", "40")["sources"]
    assert large["merge_size"] == 2 and large["tokens_before_diff_fp"] <= 40


def test_ask_answers_as_it_is_told_to(vl3ref_main):
    def ids(*options):
        out, _ = vl3ref_main("ask", "Hello", "--json", "--max-tokens", "4", "--min-tokens", "4", *options)
        return json.loads(out)["ids"]

    greedy = ids()
    assert len(greedy) == 4
    sampled = ids("--temperature", "3", "--seed", "1")
    assert sampled == ids("--temperature", "3", "--seed", "1") != greedy
    assert sampled != ids("--temperature", "3", "--seed", "2")
    assert ids("--temperature", "3", "--top-k", "1") == greedy == ids("--temperature", "3", "--top-p", "1e-6")
    twenty = ("--max-tokens", "20", "--min-tokens", "20")
    assert len(set(ids(*twenty))) < 20 == len(set(ids(*twenty, "--repetition-penalty", "1000")))


def test_system_prompt_reaches_the_prompt(vl3ref_main, loaded):
    with_it = ask_json(vl3ref_main, "Hello", "--system", "Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert with_it["prompt_tokens"] == len(loaded[1](messages).input_ids)


def test_end_of_text(vl3ref_main, loaded, monkeypatch):
    model, _ = loaded
    end = model.config.language.eos_token_ids[0]

    def favour_the_end(self, logits):
        logits = logits.clone()
        logits[..., end] = 1e9
        return original(self, logits)

    from vl3ref.sampling import Sampler

    original = Sampler.adjust
    monkeypatch.setattr(Sampler, "adjust", favour_the_end)
    out, _ = vl3ref_main("ask", "Hello", "--json", *FEW)
    assert json.loads(out)["finish_reason"] == "end" and json.loads(out)["ids"] == [end]
    out, _ = vl3ref_main("ask", "Hello", "--json", *FEW, "--min-tokens", "3")
    assert len(json.loads(out)["ids"]) == 4
    out, err = vl3ref_main("ask", "Hello", *FEW)
    assert out == "\n" and "cut" not in err


FOUR = ("--max-tokens", "4", "--min-tokens", "4")


def test_a_note_says_that_an_answer_is_unsure(vl3ref_main, recommending):
    def notes(*options):
        return vl3ref_main("ask", "Hello", *FOUR, *options)[1].count("unsure")

    def unsure(*options):
        return json.loads(vl3ref_main("ask", "Hello", "--json", *FOUR, *options)[0])["unsure"]

    report = json.loads(vl3ref_main("ask", "Hello", "--json", *FOUR)[0])
    above, below = str(report["log_prob"] + 0.1), str(report["log_prob"] - 0.1)
    assert notes("--unsure-below", above) == 1 and notes("--unsure-below", below) == 0
    assert unsure("--unsure-below", above) is True and unsure("--unsure-below", below) is False
    settings = json.loads((recommending / "generation_config.json").read_text())
    for threshold, said in ((float(above), True), (float(below), False), (None, None)):
        (recommending / "generation_config.json").write_text(json.dumps({**settings, "unsure_below": threshold}))
        assert unsure("--model", recommending) is said
        assert notes("--model", recommending) == (said is True)


@pytest.fixture
def recommending(tmp_path):
    """The tiny checkpoint, with recommended sampling."""
    for file in TINY.iterdir():
        (tmp_path / file.name).symlink_to(file)
    settings = json.loads((TINY / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 5.0, "top_k": 50}
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_recommended_sampling(vl3ref_main, recommending):
    def ids(*options):
        four = ("--max-tokens", "4", "--min-tokens", "4")
        out, err = vl3ref_main("ask", "Hello", "--json", *four, "--model", recommending, *options)
        assert err == ""
        return json.loads(out)["ids"]

    greedy = ids()
    sampled = ids("--sample", "--seed", "1")
    assert sampled == ids("--temperature", "5", "--top-k", "50", "--seed", "1") != greedy
    assert ids("--sample", "--top-k", "1") == greedy  # what is given goes before what is recommended


def test_sampling_that_does_nothing(vl3ref_main):
    _, err = vl3ref_main("ask", "Hello", "--sample", rc=2)
    assert "recommends no sampling" in err
    _, err = vl3ref_main("ask", "Hello", "--top-p", "0.9", "--seed", "1", *FEW)
    assert "greedy decoding does not use --top-p, --seed" in err


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.mp4", "What?"], "missing.mp4' does not exist"),
        ([CAT], "there is no question"),
        ([CAT, CLIP], "there is no question"),
        ([str(ROOT / "pyproject.toml"), "What?"], "neither a picture"),
        (["x" * 5000, "What?"], "does not exist"),
        (["Hello", "--start", "1"], "--start and --end are for videos"),
        ([CAT, "Hello", "--end", "1"], "--start and --end are for videos"),
        ([CLIP, "What?", "--start", "2", "--end", "1"], "after the start (2 s)"),
        ([CLIP, "What?", "--fps", "0"], "fps should be"),
        ([CLIP, "What?", "--max-frames", "0"], "max_frames should be"),
        ([CLIP, "What?", "--merge", "0"], "merge_size should be"),
        (["Hello", "--max-tokens", "0"], "max_new_tokens should be a whole number of at least 1"),
        (["Hello", "--temperature", "-1"], "temperature should be"),
        (["Hello", "--top-k", "0"], "top_k should be"),
        (["Hello", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["Hello", "--dtype", "int8"], "dtype 'int8' cannot be computed with"),
        (["Hello", "--model", "nowhere"], "'nowhere' is not a folder"),
    ],
)
def test_wrong_input_is_one_line(vl3ref_main, arguments, said):
    out, err = vl3ref_main("ask", *arguments, rc=2)
    assert out == ""
    lines = [line for line in err.splitlines() if "a synthetic world" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0]


def test_damaged_video(vl3ref_main, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    _, err = vl3ref_main("ask", tmp_path / "broken.mp4", "What?", rc=2)
    assert "cannot be read as a video" in err


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (torch.OutOfMemoryError("many numbers"), "error: out of memory"),
        (PermissionError(13, "Permission denied", "a.bin"), "error: [Errno 13] Permission denied: 'a.bin'"),
    ],
)
def test_what_the_machine_refuses_is_one_line(vl3ref_main, monkeypatch, raised, said):
    def refuse(*_, **__):
        raise raised

    monkeypatch.setattr(vl3ref, "load", refuse)
    _, err = vl3ref_main("ask", "Hello", rc=2)
    assert err.splitlines()[-1].startswith(said)


def test_defects_are_not_hidden(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr(vl3ref, "load", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["ask", "Hello"])


def test_warnings_are_one_line(vl3ref_main):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _, err = vl3ref_main("ask", CLIP, "What?", "--start", "50", *FEW)
    [line] = [line for line in err.splitlines() if "nothing is shown" in line]
    assert line.startswith("warning: ") and ".py" not in line


def test_usage_errors(vl3ref_main):
    assert "Missing argument" in vl3ref_main("ask", rc=2)[1]
    assert "No such option" in vl3ref_main("ask", "Hello", "--nope", rc=2)[1]


# --------------------------------------------------------------------------------------------------------------- chat


@pytest.fixture
def typed(monkeypatch):
    return lambda *lines: monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_chat_keeps_the_conversation(vl3ref_main, loaded, typed):
    typed("What is it?", "", "And why?")
    out, err = vl3ref_main("chat", CAT, *SIX, *PENALTY)
    answer, chat = expected(loaded, "What is it?", [CAT], penalty=1.5)
    answers = [answer, "".join(chat.ask("And why?", max_tokens=64))]
    assert out == "".join(f"{answer}\n" for answer in answers)
    assert err.count("> ") == 4 and "error" not in err


def test_chat_commands(vl3ref_main, loaded, typed):
    typed("Hello", "/reset", f"/add {CLIP}", "What is it?", "/exit", "Never asked")
    out, _ = vl3ref_main("chat", CAT, *SIX, *PENALTY)
    answers = [
        expected(loaded, "Hello", [CAT], penalty=1.5)[0],
        expected(loaded, "What is it?", [CLIP], penalty=1.5)[0],
    ]
    assert out == "".join(f"{answer}\n" for answer in answers)


def test_chat_goes_on_after_an_error(vl3ref_main, loaded, typed, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    typed("/add missing.png", "/what", f"/add {tmp_path / 'broken.png'}", "Hello", "Hello")
    out, err = vl3ref_main("chat", *SIX, *PENALTY)
    assert out == expected(loaded, "Hello", penalty=1.5)[0] + "\n"  # the second: the first had the broken picture
    assert err.count("error: ") == 2 and "commands: " in err


def test_chat_without_stdin_ends_at_once(vl3ref_main, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # as Python starts where it is closed: vl3ref chat <&-
    out, err = vl3ref_main("chat")
    assert out == "" and err.endswith("> \n")


def test_chat_does_not_begin_with_wrong_options(vl3ref_main, typed):
    typed("Hello")
    assert "error: temperature should be" in vl3ref_main("chat", "--temperature", "-1", rc=2)[1]


# ---------------------------------------------------------------------------------- what is printed, and interruptions


def test_text_is_never_markup(vl3ref_main, monkeypatch, typed, tmp_path):
    """Rich would take [/b] for the end of bold, and fail where nothing bold began."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a[").mkdir()
    Image.open(CAT).resize((28, 28)).save("a[/b].png")
    monkeypatch.setattr(Chat, "answer", lambda self, inputs: iter(["[/b] [red]", "x"]))
    assert vl3ref_main("ask", "a[/b].png", "[/b]?")[0] == "[/b] [red]x\n"
    typed("[/b]?", "/add a[/b].png", "[/b]?")
    assert vl3ref_main("chat", "a[/b].png")[0] == "[/b] [red]x\n" * 2
    assert "a[/b].png: image" in vl3ref_main("inspect", "a[/b].png", "--out", "a[/b].out")[0]
    assert "[/b].gif' does not exist" in vl3ref_main("ask", "[/b].gif", "What?", rc=2)[1]
    assert "[/b]" in vl3ref_main("ask", "--[/b]", rc=2)[1]


def test_a_terminal_does_not_obey_an_answer(vl3ref_main, monkeypatch):
    said = "a\tb\n\x1b[2J\x9b1m\x07\r\u202e"
    monkeypatch.setattr(Chat, "answer", lambda self, inputs: iter([said]))
    assert vl3ref_main("ask", "Hello")[0] == said + "\n"  # a file gets it as it is
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert vl3ref_main("ask", "Hello")[0] == "a\tb\n\\x1b[2J\\x9b1m\\x07\\x0d\\u202e\n"


def test_stderr_is_spelled_out_always(vl3ref_main, tmp_path):
    _, err = vl3ref_main("ask", "a\x1b[2J\n\r\u202eb.png", "What?", rc=2)
    assert err == "error: 'a\\x1b[2J\\n\\r\\u202eb.png' does not exist\n"
    err = vl3ref_main("ask", "--a\x1b\nb", rc=2)[1]
    assert err.startswith("error: No such option: --a\\x1b") and err.count("\n") == 1
    assert len(vl3ref_main("ask", "--top-k", "9" * 5000, "Hello", rc=2)[1]) < 650


def test_json_of_a_name_that_is_not_unicode(vl3ref_main, tmp_path):
    file = tmp_path / os.fsdecode(b"caf\xe9 \xc3\xa9.png")
    Image.open(CAT).resize((28, 28)).save(file)
    out, _ = vl3ref_main("ask", file, "What?", *FEW, "--json")
    assert json.loads(out)["sources"][0]["name"] == str(file)
    assert "28 x 28" in vl3ref_main("inspect", file, "--out", tmp_path / "a.png")[0]
    out, _ = vl3ref_main("inspect", CAT, "--out", file)
    assert Image.open(file).format == "PNG"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_stdout_is_an_error(vl3ref_main, monkeypatch):
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))  # noqa: SIM115
    with pytest.raises(SystemExit) as stop:
        main(["ask", "Hello", *FEW])
    assert stop.value.code == 2


def test_a_reader_who_leaves_is_no_error(vl3ref_main, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert vl3ref_main("ask", "Hello", *FEW, rc=141)[1].count("\n") == 1  # the note on what vl3-tiny knows


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_interrupt_while_loading(vl3ref_main, monkeypatch):
    monkeypatch.setattr(vl3ref, "load", interrupted)
    for command in (["ask", "Hello"], ["chat"]):
        assert vl3ref_main(*command, rc=130)[0] == ""


def test_interrupt_while_answering(vl3ref_main, monkeypatch, typed):
    def answer(self, inputs):
        yield "It"
        yield next(rest)()

    monkeypatch.setattr(Chat, "answer", answer)
    rest = iter([interrupted])
    assert vl3ref_main("ask", "Hello", rc=130)[0].startswith("It")
    rest = iter([interrupted, lambda: " is."])
    typed("Hello", "Hello")
    out, err = vl3ref_main("chat")
    assert out == "It\nIt is.\n" and "the conversation goes on" in err
    monkeypatch.setattr(sys.stdin, "readline", interrupted)
    assert vl3ref_main("chat", rc=130)[0] == ""


def test_a_process_that_is_interrupted_and_whose_reader_leaves():
    """Its output knows no Unicode. An interrupt stops an answer, and a pipe that closes ends the command quietly."""
    options = ("--temperature", "9", "--seed", "0", "--max-tokens", "30000", "--min-tokens", "30000")
    process = subprocess.Popen(
        [sys.executable, "-c", "from vl3ref.cli import main; main()", "chat", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    process.stdin.write(b"Hello\nHello\n")
    process.stdin.flush()
    out = process.stdout.read(200)  # printed as it is generated, long before the end
    assert out.count(b"?") > 2  # broken characters, U+FFFD where there is Unicode
    process.send_signal(signal.SIGINT)
    err = b""
    while not err.endswith(b"goes on from here\n> "):
        byte = process.stderr.read(1)
        assert byte, err
        err += byte
    process.stdout.close()
    process.stdin.close()
    err += process.stderr.read()
    process.wait(60)
    assert b"Traceback" not in err and b"Broken" not in err and b"Exception" not in err


# -------------------------------------------------------------------------------------- inspect, download and convert


def test_inspect(vl3ref_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, err = vl3ref_main("inspect", CLIP)
    assert "64 x 64 pixels" in out and "kept" in out and "2.00s" in out
    assert err == "wrote v10_3s.inspect.png\n"
    assert Image.open("v10_3s.inspect.png").format == "PNG"
    _, err = vl3ref_main("inspect", CAT, "--out", "sheet", "--visual-tokens", "64")
    assert err == "wrote sheet\n" and Image.open("sheet").format == "PNG"
    assert "error: " in vl3ref_main("inspect", CAT, "--start", "1", rc=2)[1]
    assert "cannot be written" in vl3ref_main("inspect", CAT, "--out", "missing/sheet.png", rc=2)[1]


def test_inspect_takes_no_weights(vl3ref_main, tmp_path):
    for file in TINY.glob("*.json"):
        (tmp_path / file.name).symlink_to(file)
    out, _ = vl3ref_main("inspect", CLIP, "--model", tmp_path, "--fps", "2", "--no-prune", "--out", tmp_path / "a.png")
    assert out.count("100%") == 7  # six frames and the sum


def test_download(vl3ref_main, tmp_path, monkeypatch):
    cached = tmp_path / "snapshots" / "abc123"
    wanted = []

    def fetch(name, revision=None, folder=None):
        wanted.append((name, revision, folder))
        if folder is None:
            return cached
        record = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
        record.parent.mkdir(parents=True)
        record.write_text("def456\netag\n1.0\n")
        return folder

    monkeypatch.setattr("vl3ref.hub.download", fetch)
    assert vl3ref_main("download", "2b") == (f"{cached}\n", "commit abc123\n")
    real = tmp_path / "real"
    assert vl3ref_main("download", "a/b", "--revision", "v1", "--to", real) == (f"{real}\n", "commit def456\n")
    assert wanted == [("2b", None, None), ("a/b", "v1", real)]


def test_convert(vl3ref_main, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("vl3ref.checkpoints.convert", lambda *arguments: called.append(arguments))
    target = tmp_path / "new"
    assert vl3ref_main("convert", TINY, target, "--to", "hf") == ("", f"wrote {target}\n")
    assert called == [(str(TINY), target, "hf", {})]
    assert "--to" in vl3ref_main("convert", TINY, target, "--to", "gguf", rc=2)[1]

    def refuse(*_):
        raise CheckpointError("the target holds files")

    monkeypatch.setattr("vl3ref.checkpoints.convert", refuse)
    assert vl3ref_main("convert", TINY, target, "--to", "official", rc=2)[1] == "error: the target holds files\n"


def test_version_and_help(vl3ref_main):
    assert vl3ref_main("--version")[0] == f"vl3ref {vl3ref.__version__}\n"
    out, _ = vl3ref_main("--help")
    assert all(command in out for command in ("ask", "chat", "inspect", "download", "convert"))
