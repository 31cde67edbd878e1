"""Options that make no sense are refused by name."""

import runpy

import pytest
from paths import SCRIPTS

from trainers.settings.options import ConfigError

SCRIPT = SCRIPTS / "measure_sampling.py"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--steps", "4", "fast"], "argument --steps: 'fast' is neither a number of steps, at least 1, nor 'full'"),
        (["--steps", "0"], "argument --steps: '0' is neither"),
        (["--steps", "-4"], "argument --steps: '-4' is neither"),
        (["--steps", "2.5"], "argument --steps: '2.5' is neither"),
        (["--offsets", "-1"], "argument --offsets: '-1' is not a whole number of at least 0"),
        (["--repeats", "0"], "argument --repeats: '0' is not a whole number of at least 1"),
        (["--tables", "speed"], "argument --tables: invalid choice: 'speed'"),
        (["--split", "dev"], "argument --split: invalid choice: 'dev'"),
    ],
)
def test_bad_options_are_refused_by_name(arguments, message):
    main = runpy.run_path(str(SCRIPT))["main"]
    with pytest.raises(ConfigError) as refused:
        main(["nowhere.yaml", *arguments])
    assert str(refused.value).startswith(message)
