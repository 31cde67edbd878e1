"""Every piece of Python that a text shows is run: those of a page one after the other, in one namespace.

Hub models are replaced by the embedded one, trainers make two steps, and files are written to a folder that is thrown
away. What needs something that is not here is compiled, and its imports are run.
"""

import ast
import multiprocessing
import os
import re
import sys
import traceback
from pathlib import Path

import pytest
import torch
from documents import Block, blocks, blocks_of

from trainers.settings.config import CONFIGS

PYTHON = blocks("python")
# words of a piece that say what is lacking here
LACKING = {
    "load_dataset(": "a dataset of the hub",
    ".replay_step(": "the batch of a step that failed",
    "push_to_hub": "an account",
    "wandb": "an account",
    "results.json": "a finished run; the notebook makes one, and runs the same lines",
}
HUB_MODEL = re.compile(r"\b(?:GSAI-ML|inclusionAI|Dream-org|JetLM|Qwen|kuleshov-group)/[\w.-]+")


def executable(block: Block) -> ast.Module:
    """A block's code with the page's own line numbers; of one that lacks something, its imports alone."""
    tree = ast.parse(HUB_MODEL.sub("tiny", block.text), block.page)
    if any(word in block.text for word in LACKING):
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.increment_lineno(tree, block.line - 1)


def shorten_trainers() -> None:
    """Two steps on a small canvas, whatever a text asks for."""
    for config in CONFIGS.values():

        def short(self, whole=config.__post_init__) -> None:
            self.max_steps, self.save_strategy = 2, "no"
            self.per_device_train_batch_size = min(self.per_device_train_batch_size, 8)
            if self.block_length is None:
                self.max_timesteps = min(self.max_timesteps, 7)
                self.max_completion_length = min(self.max_completion_length, 14)
            whole(self)

        config.__post_init__ = short


def run(page: list[Block], folder: Path) -> str:
    """What went wrong when the blocks of a page ran, in a fork; empty: nothing."""
    said = folder / "said.txt"
    said.write_text("")

    def child() -> None:
        torch.set_num_threads(1)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        shorten_trainers()
        namespace = {"__name__": "__main__"}
        try:
            for block in page:
                exec(compile(executable(block), block.page, "exec"), namespace)
        except BaseException:
            said.write_text(traceback.format_exc())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0, "the process died"
    return said.read_text()


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}))
def test_the_python_of_a_page_runs(page, workspace):
    assert run([block for block in PYTHON if block.page == page], workspace) == ""


PAGE = """
```python
from trainers import ImprovedDiffuGRPOConfig

steps = ImprovedDiffuGRPOConfig(output_dir="x", report_to="none", max_steps=900).max_steps
```

- in a list

  ```python
  assert steps == 2
  model = "GSAI-ML/LLaDA-8B-Instruct"
  LAST
  ```
"""


@pytest.mark.parametrize(
    ("last", "found"),
    [
        ("assert model == 'tiny'", []),
        ("undefined", ['x.md", line 13', "NameError"]),
        ("import trainers.gone; load_dataset('x')", ['x.md", line 13', "ModuleNotFoundError"]),
        ("undefined; load_dataset('x')", []),
    ],
)
def test_pieces_share_names_and_a_fault_is_named_by_its_line(last, found, workspace):
    said = run(blocks_of("x.md", PAGE.replace("LAST", last)), workspace)
    assert all(words in said for words in found) and bool(said) == bool(found), said
