"""A small synthetic world of pictures and clips with questions in plain English, and vl3-tiny, which is trained on it.

Samples are endless, depend on a seed alone, and come in the official annotation format.

    drawing.py      pixels: background, shapes, sheets, text
    questions.py    an example: its frames, its questions and answers
    scenes.py, documents.py, charts.py, clips.py    what there is to see, and what can be asked about it
    samples.py      a dataset to train on, and held-out questions by skill
    recipe.py       everything from nothing to a trained vl3-tiny
    examination.py  how many held-out questions a model answers right
"""

from vl3ref.tinyworld.examination import EXAMINATIONS, Answer, Score, examine
from vl3ref.tinyworld.samples import MAKERS, PICTURE_SKILLS, PICTURES, SKILLS, TIME_SKILLS, TinyWorld, held_out, write

__all__ = [
    "EXAMINATIONS",
    "MAKERS",
    "PICTURES",
    "PICTURE_SKILLS",
    "SKILLS",
    "TIME_SKILLS",
    "Answer",
    "Score",
    "TinyWorld",
    "examine",
    "held_out",
    "write",
]
