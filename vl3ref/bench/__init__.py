"""Measure us beside transformers: the same process, weights and inputs, one after the other in turn.

    settings   what is measured, and where         measure   calls in turn -> samples, medians, quartiles
    count      operations and bytes, exactly       limits    what this machine can do at best, measured beside them
    towers     vision, prefill                     decoding  decode, one conversation and several
    asking     a video file to an answer           clips     the videos that are drawn for it
    preprocessing, screen                          files to pixels; a clip that hardly changes
    processes  load, memory: in processes of their own (`child` is what runs there)
    curves     against frames, tokens, conversations
    result     rows and checks                     report, plots   the table, Markdown, JSON; PNGs

Every part checks that both sides computed the same before its times mean anything, and says what it compared.
"""
