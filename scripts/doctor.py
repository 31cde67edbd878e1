"""Check whether a model is fit to be trained here.

    python scripts/doctor.py GSAI-ML/LLaDA-8B-Instruct
    python scripts/doctor.py DIRECTORY --train [--gpus 8xH100] [--model.trust_remote_code true] ...
    python scripts/doctor.py configs/recipes/llada-8b-gsm8k-1x80gb/config.yaml --gpus 1xH100

MODEL is what model.name_or_path takes; a config in its place names one, and the checks are made with its options, at
tiny sizes. Settings are those of scripts/train.py. With --train three steps of SFT and of GRPO are run on a tiny
canvas, and the weights are saved and read again in between. Exit status: 0 fit, 1 not.
"""

import json

from rich.console import Console

from trainers.commands import OptionParser, main_or_one_line
from trainers.doctor.small import written
from trainers.settings.hub_names import hub_id
from trainers.settings.options import ConfigError
from trainers.settings.parser import read
from trainers.settings.shipped import names_a_config


def main(argv: list[str]) -> None:
    """Print what is found, one line a check, and config lines; exit status 1 where something is a fault."""
    own = OptionParser(__doc__, settings=True)
    own.add_word(
        "MODEL", "What model.name_or_path takes: a hub id, a directory, a known name; or a config, which names it."
    )
    own.add_argument("--train", action="store_true", help="Also train three steps of SFT and of GRPO; save, reload.")
    own.add_argument(
        "--gpus", default="8xH100", metavar="COUNTxKIND", help="Accelerators that memory is planned for, as in plan."
    )
    own.add_json("the findings")
    options, words = own.parse(argv)
    name, asked = options.model, None
    if names_a_config(name):
        asked = read([name, *words])
        name = asked.values.get("model_name_or_path", "tiny")
    name = hub_id(name)
    with written(name, block_length=None, asked=asked) as path:
        own.read(path, words)

    # only now: these take seconds to import, which a typo does not wait for
    from trainers.doctor.examination import examine, to_start_from
    from trainers.doctor.findings import FAULT, Finding, fit, table
    from trainers.doctor.patient import admit
    from trainers.planning.machines import Given, asked_for

    asked_for(options.gpus, Given(None, None, None, None, None))
    console = Console()
    try:
        patient = admit(name, tuple(words), asked)
        findings = list(examine(patient, options.gpus, options.train))
        start = to_start_from(patient)
    except ConfigError as error:
        findings, start = [Finding("loads", FAULT, str(error))], ""
    console.print(table(findings))
    verdict = "fit to be trained" if fit(findings) else "NOT fit to be trained, see what is marked as a fault"
    console.print(f"{name}: {verdict}", soft_wrap=True, markup=False, highlight=False)
    if start:
        console.print(f"a config to start from:\n{start}", soft_wrap=True, markup=False, highlight=False)
    if options.json is not None:
        record = {"model": name, "fit": fit(findings), "findings": [vars(one) for one in findings]}
        options.json.write_text(json.dumps(record, indent=2))
    if not fit(findings):
        raise SystemExit(1)


if __name__ == "__main__":
    main_or_one_line(main)
