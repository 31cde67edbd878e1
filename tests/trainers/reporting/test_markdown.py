"""What a model wrote stays in its cell, and settings read back."""

import json
import re

import yaml
from reports import cells, write


def test_settings_are_a_yaml_block_that_reads_back(tmp_path):
    settings = {"trainer": "grpo", "loss": {"alpha_schedule": "linear", "alpha_min": 0.05}, "paths": ["a: b", "- c"]}
    [block] = re.findall(r"```yaml\n(.*?)```", write(tmp_path, settings=settings), flags=re.DOTALL)
    assert yaml.safe_load(block) == settings


def test_model_text_cannot_break_out_of_its_cell(tmp_path):
    text = "a | b\n\n<<2*3=6>> `x` <script>\\|"
    report = write(tmp_path, samples=[{"prompt": "p", "after": text}])
    assert cells(report, "p")[1] == r"a \| b<br><br>&lt;&lt;2\*3=6>> \`x\` &lt;script>\\\|"
    assert json.loads((tmp_path / "results.json").read_text())["samples"][0]["after"] == text
