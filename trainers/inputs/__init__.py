"""What a trainer is given in Python, as users of TRL give it: a model, options, data.

    model.py     a name, a model or a policy -> `Policy`; LoRA settings that fit it
    options.py   default options; arguments of TRL's constructors that cannot be honoured
    rows.py      which data sets are taken; their rows in the formats of TRL -> prompt and texts

Imports models and what lies below. It hands on no name.
"""
