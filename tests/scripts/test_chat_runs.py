"""A run in a chat template from end to end: what it says of its format, and what later commands make of its model."""

import json

import pytest
import yaml
from running import SMALL, fork
from transformers import AutoModelForCausalLM, AutoTokenizer
from zoo.templates import templated

from trainers.planning.settings import find_lengths, read_config

ASKED = (
    "in the tokenizer's chat template with the system prompt 'Count.', completions end with `<|eot_id|>` or `[EOS]`"
)
HEAD = "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nCount.<|eot_id|><|start_header_id|>user"


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """A finished SFT run on a model whose tokenizer carries a template; and a config that knows nothing of it."""
    work = tmp_path_factory.mktemp("chat")
    weights = AutoModelForCausalLM.from_pretrained(model)
    own = templated(AutoTokenizer.from_pretrained(model), "headers")
    weights.resize_token_embeddings(len(own))
    for part in (weights, own):
        part.save_pretrained(work / "base")
    document = {"trainer": "sft", **SMALL, "model": {"name_or_path": str(work / "base")}}
    document["training"] = SMALL["training"] | {"output_dir": "out", "save_strategy": "no"}
    (work / "plain.yaml").write_text(yaml.safe_dump(document))
    document["task"] = SMALL["task"] | {"chat_template": True, "system_prompt": "Count."}
    (work / "config.yaml").write_text(yaml.safe_dump(document))
    return work, fork("train.py", "config.yaml", cwd=work)


def test_a_run_says_in_which_format_it_asks(run):
    work, printed = run
    report, results = (work / "out" / "report.md").read_text(), json.loads((work / "out" / "results.json").read_text())
    assert f"prompts {ASKED}" in " ".join(printed.split()) and f"- prompts: {ASKED}" in report
    assert f"prompts: {ASKED}" in results["notes"]


def evaluated(work, *arguments):
    fork("evaluate.py", "plain.yaml", "--task.test_size", "8", *arguments, "--json", "found.json", "--texts", cwd=work)
    found = json.loads((work / "found.json").read_text())["rows"][0]
    for name in ("found.json", "found.jsonl"):
        (work / name).unlink()
    return found


def test_a_trained_model_is_evaluated_as_it_was_trained_and_the_record_says_so(run):
    work, _ = run
    name = "--model.name_or_path", "out/model"
    found = evaluated(work, *name)
    told = evaluated(work, *name, "--task.chat_template", "true", "--task.system_prompt", "Count.")
    bare = evaluated(work, *name, "--task.chat_template", "false")
    assert found["settings"]["task.chat_template"] == "true" and found["settings"]["task.system_prompt"] == "Count."
    assert found["completions"] == told["completions"] != bare["completions"]
    assert found["settings"] == told["settings"]
    assert not {"task.chat_template", "task.system_prompt"} & set(bare["settings"])


def test_a_journal_of_one_format_is_not_continued_in_another(run):
    work, _ = run
    common = "plain.yaml", "--task.test_size", "8", "--json", "kept.json", "--model.name_or_path", "out/model"
    fork("evaluate.py", *common, cwd=work)
    with pytest.raises(AssertionError, match=r"task\.chat_template is None here and 'true' there"):
        fork("evaluate.py", *common, "--task.chat_template", "false", cwd=work)


def test_generation_shows_the_prompt_as_it_is_asked(run):
    work, _ = run
    for form, head in ((), HEAD), (("--task.chat_template", "false"), "Ann has"):
        asked = "--prompt", "Ann has 8 books.", "--model.name_or_path", "out/model"
        printed = fork("generate.py", "plain.yaml", *asked, *form, cwd=work)
        assert printed.startswith(head), printed[:80]


def test_an_exported_model_is_asked_as_it_was_trained(run, tmp_path):
    work, _ = run
    fork("export.py", "out/model", "--output", tmp_path / "exported", cwd=work)
    assert ASKED in (tmp_path / "exported" / "README.md").read_text().replace("&#124;", "|")
    first, again = (evaluated(work, "--model.name_or_path", name) for name in ("out/model", tmp_path / "exported"))
    assert first["completions"] == again["completions"] and first["settings"] == again["settings"]


def test_planning_counts_the_tokens_of_the_template(run):
    work, _ = run

    def longest(name, *form):
        config = read_config(str(work / "plain.yaml"), list(form), 1)
        return find_lengths(config, str(work / name), None, None, measured=True)[0].longest

    chat = "--task.chat_template", "true"
    bare, turns = longest("base"), longest("base", *chat)
    assert longest("base", "--task.chat_template", "false") == bare < turns
    assert longest("out/model") == longest("base", *chat, "--task.system_prompt", "Count.") > turns
