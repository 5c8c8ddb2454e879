"""Text <-> token ids: Qwen2.5's byte-level BPE, by the `tokenizers` library.

Text and special tokens are encoded by different methods, which is unusual. `encode` never gives a special token, so
nothing a person types can end a turn or stand for an image; `special` gives the id of a special token by name.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from vl3ref.errors import CheckpointError
from vl3ref.files import MOST_JSON, read_bytes, read_json

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts text into words before it merges bytes."""

NOT_SPECIAL = ("<tool_call>", "</tool_call>", "<|fim_", "<|repo_name|>", "<|file_sep|>")
"""Beginnings of the added tokens that Qwen2 treats as ordinary text (`skip_special_tokens` leaves them in)."""

PROMPT_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|stream_start|>", "<|stream_end|>"),
    *("<image>", "<|image_pad|>", "<|video_pad|>"),
)
"""What the prompt is built of: special also where a tokenizer.json does not say so."""


class Tokenizer:
    """A checkpoint's tokenizer.

    Args:
        backend: as read from tokenizer.json. It is changed: special tokens in text are no longer recognised.
    """

    def __init__(self, backend: Backend) -> None:
        added = {token.content for token in backend.get_added_tokens_decoder().values()}
        backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in PROMPT_TOKENS if t in added])
        backend.encode_special_tokens = True
        backend.post_processor = processors.ByteLevel(trim_offsets=False)  # a token begins at its space, if it has one
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """Read tokenizer.json, or else vocab.json, merges.txt and added_tokens.json.

        Raises:
            CheckpointError: none of them is there, or one is damaged.
        """
        folder = Path(folder)
        try:
            if (folder / "tokenizer.json").exists():
                return cls(Backend.from_buffer(read_bytes(folder / "tokenizer.json", CheckpointError, MOST_JSON)))
            if (folder / "merges.txt").exists():
                return cls(_from_merges(folder))
        except (CheckpointError, KeyboardInterrupt):
            raise
        except BaseException as error:  # the Rust library raises bare Exceptions, and its panics are not even those
            raise CheckpointError(f"the tokenizer in {folder} cannot be read: {str(error)[:200]}") from None
        raise CheckpointError(f"{folder} has no tokenizer.json, nor vocab.json and merges.txt")

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of a text without special tokens, and for each the index of the character it begins at."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def special(self, token: str) -> int:
        """The id of a special token.

        Raises:
            CheckpointError: this tokenizer has no such token.
        """
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"this checkpoint's tokenizer has no {token} token")
        return token_id

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)


class GrowingText:
    """The text of an answer whose tokens are still being generated."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.waiting: list[int] = []

    def add(self, token: int) -> str:
        """The text that this token completes; empty if it ends within a character, which decodes to U+FFFD."""
        self.waiting.append(token)
        text = self.rest()
        if text.endswith("\ufffd"):
            return ""
        self.waiting.clear()
        return text

    def rest(self) -> str:
        """What is left at the end: a character whose bytes did not all come, as U+FFFD."""
        return self.tokenizer.decode(self.waiting)


def _from_merges(folder: Path) -> Backend:
    """Qwen2's tokenizer from merges.txt, vocab.json and added_tokens.json (or tokenizer_config.json).

    merges.txt suffices: without vocab.json, ids are the 256 byte symbols in GPT-2's order and then the merged pairs in
    order, which is true of every Qwen2 and Qwen2.5 tokenizer.
    """
    lines = (
        read_bytes(folder / "merges.txt", CheckpointError, MOST_JSON).decode("utf-8").replace("\r\n", "\n").split("\n")
    )
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in merges):
        raise CheckpointError(f"{folder / 'merges.txt'} has a line that is not two symbols")
    if os.path.lexists(folder / "vocab.json"):
        vocab: dict[str, int] = read_json(folder / "vocab.json", CheckpointError)
    else:
        symbols = [*_byte_symbols(), *("".join(pair) for pair in merges)]
        vocab = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    backend = byte_level_bpe(vocab, merges)
    for content, token_id in sorted(_added_tokens(folder).items(), key=lambda item: item[1]):
        special = not content.startswith(NOT_SPECIAL)
        backend.add_tokens([AddedToken(content, special=special, normalized=False)])
        if backend.token_to_id(content) != token_id:  # the library numbers tokens in the order they come, without gaps
            raise CheckpointError(
                f"the added token {json.dumps(content)} should have id {token_id}, but the vocabulary leaves it "
                f"{backend.token_to_id(content)}; write a tokenizer.json"
            )
    return backend


def _byte_symbols() -> list[str]:
    """GPT-2's printable symbols for the 256 bytes, in its order: printable bytes first, as themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def _added_tokens(folder: Path) -> dict[str, int]:
    if os.path.lexists(folder / "added_tokens.json"):
        return read_json(folder / "added_tokens.json", CheckpointError)
    if (folder / "tokenizer_config.json").exists():
        entries = read_json(folder / "tokenizer_config.json", CheckpointError).get("added_tokens_decoder", {})
        return {entry["content"]: int(index) for index, entry in entries.items()}
    return {}


def byte_level_bpe(vocab: dict[str, int], merges: list[Any]) -> Backend:
    """A tokenizer with Qwen2's normaliser (NFC), split and byte alphabet, around any vocabulary."""
    backend = Backend(models.BPE(vocab=vocab, merges=merges))
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend
