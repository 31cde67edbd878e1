"""How a name becomes a policy.

    loading.py     `load_policy`: a name or directory -> model, tokenizer, mask token, attention rule
    told.py        what the user says of it; explaining.py: what goes wrong, in one line; embedded.py: known names
    families.py    one record a family of models; suggestions.py: what published runs of theirs set
    probes         what a model is, seen by running it; policy.py: `Policy`
    tiny.py, smollm2.py   models without a hub; remote_code: code that a checkpoint brings along
    native/        checkpoints whose files are an architecture of transformers under other names
    formats.py     the bare text of a prompt, or a turn in the chat template; special_tokens.py: mask, end, padding
    adapters.py    LoRA; experts.py: where it goes in a mixture; reference.py: the frozen copy that a KL is taken to
    caching.py     key-value memory of transformers' models; activations.py, dropout.py: switches for training

Imports settings, what a prompt is (`trainers.tasks.messages`), and core.
"""
