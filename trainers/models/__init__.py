"""How a name becomes a policy.

    loading.py     `load_policy`: a name or directory -> model, tokenizer, mask token, attention rule
    native/        checkpoints that are an architecture of transformers under other names; no code of theirs is run
    families.py    one record a family of models; probes: what a model is, seen by running it; policy.py: `Policy`
    tiny.py, smollm2.py   models without a hub; remote_code.py: code that a checkpoint brings along
    adapters.py    LoRA; reference.py: the frozen copy that a KL is taken to
    caching.py     key-value memory of transformers' models; activations.py, dropout.py: switches for training

Imports settings and core.
"""
