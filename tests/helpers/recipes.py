"""The recipes: their configs, the READMEs beside them with what scripts/plan.py prints, and stand-ins to run them on.

`python tests/helpers/recipes.py` writes what scripts/plan.py prints today into the READMEs.
"""

import contextlib
import io
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import originals
import yaml
from paths import CONFIGS, REPO, SCRIPTS
from zoo.templates import TEMPLATES, templated

RECIPES = CONFIGS / "recipes"
PATHS = {str(path.relative_to(RECIPES)): path for path in sorted(RECIPES.glob("*/*.yaml"))}
READMES = {path.parent.name: path for path in sorted(RECIPES.glob("*/README.md"))}
# a command of a README, and the block of what it prints
PLAN = re.compile(
    r"^```bash\npython scripts/plan\.py (?P<words>.*)\n```\n\n```text\n(?P<printed>(?:.*\n)*?)```$", re.MULTILINE
)
# family -> habits of its chat
FORMS = {"llada": "headers", "dream": "brackets", "sdar": "brackets", "llada2": "roles"}
COLUMNS = "80"


def printed(words: str) -> str:
    """What scripts/plan.py prints on a terminal or pipe of 80 columns, without spaces at the ends of lines."""
    main = runpy.run_path(str(SCRIPTS / "plan.py"))["main"]
    before, place = os.environ.get("COLUMNS"), Path.cwd()
    os.environ["COLUMNS"] = COLUMNS
    os.chdir(REPO)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            main(shlex.split(words))
    finally:
        os.chdir(place)
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def block(words: str) -> str:
    """A command of a README with what it prints."""
    return f"```bash\npython scripts/plan.py {words}\n```\n\n```text\n{printed(words)}```"


def write_stand_in(family: str, tokenizer, directory: Path) -> None:
    """A checkpoint of random weights under the original names of a family, with a chat template of its habits."""
    originals.write(family, tokenizer, directory)
    own = originals.build_tokenizer(originals.STAND_INS[family], tokenizer)
    assert len(templated(own, FORMS[family])) <= len(own) + originals.SPARE, TEMPLATES[FORMS[family]]
    templated(own, FORMS[family]).save_pretrained(directory)


def small(path: Path) -> list[str]:
    """Overrides of names and sizes that let a recipe run in seconds: shapes of canvas, blocks and batch stay alike."""
    document = yaml.safe_load(path.read_text())
    generation, training = document["generation"], document["training"]
    block = min(8, generation.get("block_length", 8))
    canvas = 2 * max(8, block)
    share = generation.get("max_completion_length", 256) / generation.get("steps", 128)
    sizes = {
        "task.dataset_name": "null",  # the generator's problems
        "task.train_size": 64,
        "task.validation_size": 8,
        "task.test_size": 8,
        "task.rewards": "digits",  # of `running.fork`: random texts differ in it
        "generation.max_completion_length": canvas,
        "generation.steps": int(canvas / share),
        "generation.batch_size": 8,
        "training.per_device_train_batch_size": training.get("num_generations", 8) // 2,
        "training.gradient_accumulation_steps": 2,
        "training.max_steps": 2,
        "training.logging_steps": 1,
        "training.save_strategy": "no",
        "training.output_dir": "out",
    }
    if "block_length" in generation:
        sizes["generation.block_length"] = block
    return [word for name, value in sizes.items() for word in (f"--{name}", str(value))]


if __name__ == "__main__":
    sys.path.insert(0, str(REPO))
    for readme in READMES.values():
        text = readme.read_text()
        readme.write_text(PLAN.sub(lambda found: block(found["words"]), text))
