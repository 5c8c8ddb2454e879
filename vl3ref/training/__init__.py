"""The four-stage training of the paper: what is trained when, on what, and how a run goes on after it is interrupted.

stages.py       the table: what each stage trains, with the official numbers
samples.py      a sample in the official annotation format -> a conversation
annotations.py  files of such samples, lazily read
batches.py      conversations -> packed batches
objectives.py   a packed batch -> the loss
trainer.py      the loop: accumulate, clip, step, log, save, resume
run_log.py, run_state.py, distributed.py    what a run writes, what it resumes from, and who else computes
siglip.py       the encoder's own pre-training
tinyworld/      endless questions about small pictures and clips
recipe.py       everything from nothing to a trained vl3-tiny
evaluation.py   how well a model answers the small world's questions
"""
