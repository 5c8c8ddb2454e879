"""Write weights/vl3-tiny: an untrained checkpoint of 4.7 million parameters in the official layout.

    python scripts/make_tiny.py [FOLDER]

Weights are random (seeded), so its answers are noise; everything else about it is the real thing: the layout, the
files, the tokenizer's form, the prompt, the code path.
"""

import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, pre_tokenizers, trainers

from vl3ref.checkpoints import save_model
from vl3ref.checkpoints.saving import write_json
from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.inputs.chat import SYSTEM_PROMPT
from vl3ref.inputs.tokenizer import byte_level_bpe
from vl3ref.model.initialise import random_model

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<|stream_start|>",
    "<|stream_end|>",
)

SENTENCES = (
    SYSTEM_PROMPT,
    "system user assistant stream Time 0.0s: 1.5s 12.0s 59.9s",
    "What is in the picture? What happens in the video? How many are there? Which one comes first?",
    "Describe the picture. Describe the video. Read the text. When does it appear? Where is it? Why?",
    "A red square, a green circle and a blue triangle. The yellow star is left of the white cross.",
    "The ball moves to the right, then up, then down, then to the left. It appears after three seconds.",
    "one two three four five six seven eight nine ten zero yes no none both before after above below between",
)

VOCABULARY = 1024


def main(folder: Path) -> None:
    tokenizer = make_tokenizer()
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    config = ModelConfig(
        vision=VisionConfig(hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4),
        language=LanguageConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_theta=1e6,
            tie_word_embeddings=True,
            bos_token_id=ids["<|endoftext|>"],
            eos_token_ids=(ids["<|im_end|>"], ids["<|endoftext|>"]),
        ),
        image_token_id=ids["<image>"],
        video_token_id=ids["<image>"],
        dtype="bfloat16",
    )
    model = random_model(config, seed=10, dtype=torch.bfloat16)
    with torch.no_grad():  # special tokens and rows that no token has are never the likeliest: even noise can be read
        rows = model.language_model.embed_tokens.weight
        rows[tokenizer.get_vocab_size() :] = 0
        rows[list(ids.values())] *= 0.1
    save_model(model, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "processor_config.json", {"fps": 1, "max_frames": 180, "image_merge_size": 1, "video_merge_size": 2}
    )
    write_json(folder / "preprocessor_config.json", {"patch_size": 14, "min_tokens": 16, "max_tokens": 4096})
    print(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters, {len(ids)} special tokens")


def make_tokenizer() -> Tokenizer:
    """All bytes, what merges in the sentences above, and the special tokens."""
    backend = byte_level_bpe({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return backend


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "weights/vl3-tiny"))
