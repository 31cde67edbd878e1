"""Word problems with one number as answer: the tasks gsm8k and svamp, and what these two share.

A problem (`problems`) is read from files of either task (`files`), or drawn from templates (`generator`, `templates`).
`numbers` is the verifier of both. `augmentation` makes the training split: further files, styles of solutions, and
copies with other numbers (`perturbation`), where every number can be traced (`tracing`, `vocabulary`). `splitting`
keeps SVAMP's variations of one problem in one split.
"""
