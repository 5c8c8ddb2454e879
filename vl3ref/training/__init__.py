"""The four-stage training of the paper: what is trained when, on what, and how an interrupted run is resumed.

stages.py       the table: what each stage trains, with the official numbers
annotations.py  annotation files, lazily read
samples.py      a sample in the official annotation format -> a conversation
batches.py      conversations -> packed batches
run.py          one stage, from annotation files and a checkpoint to the next checkpoint
trainer.py      the loop: accumulate, clip, step, log, save, resume
run_log.py, checkpoints.py, distributed.py    what a run writes, what it resumes from, and who else computes
assemble.py     what stage 1 starts from
siglip.py       the encoder's own pre-training
"""
