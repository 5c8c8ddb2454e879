"""The exceptions vl3ref raises on bad input.

Each message is one sentence or a short list: what was wrong, where, and what to do about it. The command line prints it
and exits with 2; in Python it is one of these types, never a traceback from the depths of another library.
"""


class VL3Error(ValueError):
    """Base of everything vl3ref raises on purpose."""


class ConfigError(VL3Error):
    """A config.json that does not describe a model this package can compute."""


class CheckpointError(VL3Error):
    """Weights that cannot be read, or do not fit the model: missing, unexpected, mis-shaped or damaged tensors."""


class ChangeError(VL3Error):
    """A `change=` that cannot be found, that fails, or that makes a model which could not be saved and loaded again."""


class InputError(VL3Error):
    """A picture, video, conversation or tensor that cannot be turned into what the model takes."""


class TrainingError(VL3Error):
    """A training run that cannot go on: too many broken samples, a loss that is no number, another run's checkpoint."""


def quoted(value: object, most: int = 80) -> str:
    """A bad value as an error message quotes it: its repr, of which a long one keeps its beginning."""
    if isinstance(value, str | bytes | bytearray):
        value = value[: most + 1]  # of a megabyte, no more than can be shown is escaped
    try:
        text = repr(value).replace("\n", " ")  # a tensor has several lines
    except Exception:  # a whole number of more than 4,300 digits cannot be printed, nor can some objects
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= most else f"{text[:most]}..."
