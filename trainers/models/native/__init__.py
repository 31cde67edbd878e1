"""Checkpoints whose files are an architecture of transformers under other names, read into that architecture.

    records.py     `Native`: what one kind of checkpoint calls its sizes and weights, and what it must not ask for
    llada.py, llada_moe.py, llada2.py, dream.py, sdar.py, a2d.py   one record, or one for each size of a family
    known.py       all of them, and which one a config means
    configs.py     the original's config.json -> transformers' config
    weights.py     weights under their original names -> transformers' model, and back
    reading.py     config, tokenizer and model of a directory or hub id, without running code that lies there
    originals.py   a model or adapter written out under the names, and with the files, of its original

No line of a checkpoint's own code is run. Imports settings, and families beside this folder.
"""
