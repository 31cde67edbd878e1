"""An option that a text names in code is an option: one that was renamed is found in README and docs."""

import re

from documents import pages
from paths import REPO

from trainers.settings.options import SECTIONS
from trainers.settings.parser import TRAINERS, SectionParser

NAMES = {name for trainer in TRAINERS for name in SectionParser(trainer).names}
OPTION = re.compile(rf"(?<![\w./-])(?:--)?((?:{'|'.join(SECTIONS)})\.[a-z]\w*)(?![\w.]*[(/*])")
CODE = re.compile(r"`[^`\n]+`")


def unknown(text: str) -> set[str]:
    """The options in the inline code of a text that no trainer has."""
    return {name for code in CODE.findall(text) for name in OPTION.findall(code)} - NAMES


def test_named_options_are_there():
    found = {str(page.relative_to(REPO)): unknown(page.read_text(encoding="utf-8")) for page in pages()}
    assert {page: names for page, names in found.items() if names} == {}


def test_an_option_that_is_gone_is_found():
    text = "`loss.alpha_min`, `--loss.alpa_min 0.1`, `training.max_steps`, `loss.gone: true`, loss.prose"
    text += " `core/loss.py`, `model.lora_*`, `model.config`, `loss.schedule(t)`"
    assert unknown(text) == {"loss.alpa_min", "loss.gone", "model.config"}
