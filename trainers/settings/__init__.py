"""Every option, declared once; YAML and command line; from options to objects of core.

    options.py       how an option is declared, named and refused; unsupported.py: TRL's options that are refused
    diffusion.py     what all trainers share, with likelihood.py, rollout.py and scheduled_sampling.py mixed in
    grpo.py, sft.py, dpo.py, model.py, task.py    the dataclasses of a run
    declarations.py, values.py, files.py, parser.py    command line and YAML -> values, without importing torch
    config.py        values -> the dataclasses; objects.py: dataclasses -> objects of core; launching.py: processes

Imports core and tasks. It hands on no name: a command reads its options before anything heavy is imported.
"""
