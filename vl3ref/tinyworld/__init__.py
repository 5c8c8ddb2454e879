"""A small world of pictures and clips with questions in plain English: endless, seeded, in the official annotation
format.

    drawing.py   pixels: the lit background, shapes, words
    pictures.py  scenes, signs, charts, receipts and forms, each with what can be asked about it
    clips.py     things that move, appear, change and blink
    samples.py   the above as annotations: a dataset to train on, and held-out questions by skill
"""

from vl3ref.tinyworld.samples import MAKERS, PICTURE_SKILLS, PICTURES, SKILLS, TIME_SKILLS, TinyWorld, held_out

__all__ = ["MAKERS", "PICTURES", "PICTURE_SKILLS", "SKILLS", "TIME_SKILLS", "TinyWorld", "held_out"]
