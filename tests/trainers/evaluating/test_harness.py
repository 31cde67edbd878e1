"""A policy answers the requests of lm-evaluation-harness; without the package, one line says what to install."""

import importlib.util
import json
import runpy
import sys

import pytest
import torch
import yaml
from paths import SCRIPTS
from zoo.templates import templated

from core.oracles.exact import conditional_logps, exact_nelbo
from trainers.settings.objects import build_loss
from trainers.settings.options import ConfigError

INSTALLED = importlib.util.find_spec("lm_eval") is not None
with_harness = pytest.mark.skipif(not INSTALLED, reason="the package lm-eval is not installed")


@pytest.mark.skipif(INSTALLED, reason="the package lm-eval is installed")
def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "trainers.evaluating.harness", raising=False)
    with pytest.raises(ConfigError, match=r"lm-eval.*trajectory-nelbo\[harness\]"):
        importlib.import_module("trainers.evaluating.harness")


@pytest.fixture
def make_lm(make_policy, grpo_args):
    def build(num_draws=4, seed=0, **options):
        from trainers.evaluating.harness import DiffusionLM

        return DiffusionLM(grpo_args(**options), make_policy(), seed, num_draws)

    return build


def requests(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, own, i) for i, own in enumerate(arguments)]


GREEDY = {"until": ["\n\n"], "do_sample": False}
SAMPLE = {"until": [], "do_sample": True, "temperature": 0.8}
CONTEXTS = ["Tom has 3 pens.", "Ann", "", "Tom has 3 pens and buys 4 more."]


@with_harness
@pytest.mark.parametrize("kwargs", [GREEDY, SAMPLE], ids=["greedy", "sampled"])
def test_a_completion_depends_on_its_own_request_alone(make_lm, kwargs):
    lm = make_lm()
    texts = lm.generate_until(requests("generate_until", [(context, kwargs) for context in CONTEXTS]))
    back = lm.generate_until(requests("generate_until", [(context, kwargs) for context in CONTEXTS[::-1]]))
    alone = [lm.generate_until(requests("generate_until", [(context, kwargs)]))[0] for context in CONTEXTS]
    assert texts == back[::-1] == alone and len(set(texts)) > 1


@with_harness
def test_repeated_requests_are_sampled_anew_and_greedy_ones_alike(make_lm):
    lm = make_lm()
    sampled = lm.generate_until(requests("generate_until", [(CONTEXTS[0], SAMPLE)] * 4))
    greedy = lm.generate_until(requests("generate_until", [(CONTEXTS[0], GREEDY)] * 4))
    assert len(set(sampled)) == 4 and len(set(greedy)) == 1
    assert sampled != make_lm(seed=1).generate_until(requests("generate_until", [(CONTEXTS[0], SAMPLE)] * 4))


@with_harness
def test_texts_end_before_stop_strings_and_at_the_token_limit(make_lm):
    lm = make_lm()
    (whole,) = lm.generate_until(requests("generate_until", [(CONTEXTS[0], {"until": []})]))
    stop = whole[3:5]
    (text,) = lm.generate_until(requests("generate_until", [(CONTEXTS[0], {"until": ["never", stop]})]))
    assert text == whole[: whole.index(stop)]
    (short,) = lm.generate_until(requests("generate_until", [(CONTEXTS[0], {"until": [], "max_gen_toks": 2})]))
    assert whole.startswith(short) and 0 < len(short) < len(whole)


@with_harness
def test_a_rule_that_the_sampler_does_not_have_is_refused(make_lm):
    lm = make_lm()
    lm.generate_until(requests("generate_until", [("Ann", GREEDY | {"top_p": 0.9})]))  # greedy: it says nothing
    with pytest.raises(ConfigError, match=r"top_p=0\.9"):
        lm.generate_until(requests("generate_until", [("Ann", SAMPLE | {"top_p": 0.9})]))


@with_harness
def test_likelihoods_are_minus_the_exact_nelbo_on_average(make_lm):
    """Within 4 standard errors over 8 seeds of 1024 maskings, however the config masks prompts and cuts the canvas."""
    context, continuation = "Tom has 3 pens.", " Ann has 4"
    asked = requests("loglikelihood", [(context, continuation)])
    lms = [make_lm(num_draws=1024, seed=seed, p_mask_prompt=0.9, block_length=2) for seed in range(8)]
    found = torch.tensor([lm.loglikelihood(asked)[0][0] for lm in lms])
    assert len(set(found.tolist())) == 8
    tokenizer, args = lms[0].policy.tokenizer, lms[0].args
    prompt, whole = (torch.tensor(tokenizer(text)["input_ids"]) for text in (context, context + continuation))
    assert torch.equal(whole[: len(prompt)], prompt)
    with torch.no_grad():
        table = conditional_logps(lms[0].policy.denoiser(), prompt, whole[len(prompt) :])
    expected = -exact_nelbo(table, build_loss(args).schedule)
    assert abs(found.mean() - expected) < 4 * found.std() / 8**0.5
    assert found.std() < 0.03 * abs(expected)


@with_harness
def test_the_prompt_is_visible_in_every_state_of_a_likelihood(make_lm):
    lm = make_lm(num_draws=16, p_mask_prompt=0.9)
    seen = []
    lm.policy.model.register_forward_pre_hook(lambda _, args, own: seen.append(own["input_ids"]), with_kwargs=True)
    lm.loglikelihood(requests("loglikelihood", [("Tom has 3 pens.", " Ann has 4")]))
    (prompt,) = lm.policy.tokenizer(["Tom has 3 pens."])["input_ids"]
    states = seen[-1]
    assert len(states) == 16 and bool((states[:, : len(prompt)] == torch.tensor(prompt)).all())
    assert bool((states[:, len(prompt) :] == lm.policy.mask_id).any())


@with_harness
def test_no_continuation_is_certain_and_rolling_starts_behind_eos(make_lm):
    lm = make_lm()
    assert lm.loglikelihood(requests("loglikelihood", [("Ann", "")])) == [(0.0, False)]
    text = "Ann has 3 pens."
    (rolled,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]))
    ((scored, _),) = lm.loglikelihood(requests("loglikelihood", [("", text)]))
    assert rolled == scored < 0
    assert lm._split("", text)[0] == [lm.policy.tokenizer.eos_token_id]


@with_harness
def test_a_local_task_runs_through_the_script(model_dir, tmp_path, capsys, monkeypatch):
    results = run_tasks(model_dir, tmp_path, monkeypatch)["harness"]
    assert {"write", "choose"} == set(results["results"]) and results["n-samples"]["write"]["effective"] == 3
    printed = capsys.readouterr().out
    assert "exact_match" in printed and "acc" in printed


@with_harness
def test_questions_are_asked_in_the_template_of_the_model(tokenizer, make_micro, tmp_path, monkeypatch):
    from trainers.evaluating import harness

    own, asked = templated(tokenizer, "headers"), []
    make_micro(own).save_pretrained(tmp_path / "model")
    own.save_pretrained(tmp_path / "model")
    roll_out, split = harness.roll_out, harness.DiffusionLM._split
    monkeypatch.setattr(harness, "roll_out", lambda s, ids, *rest: asked.extend(ids) or roll_out(s, ids, *rest))
    monkeypatch.setattr(
        harness.DiffusionLM, "_split", lambda lm, *texts: asked.append(split(lm, *texts)[0]) or split(lm, *texts)
    )
    chat = ["--task.chat_template", "true", "--task.system_prompt", "Count."]
    record = run_tasks(tmp_path / "model", tmp_path, monkeypatch, *chat)
    assert record["settings"]["task.system_prompt"] == "Count." and record["settings"]["task.chat_template"] == "true"
    head = "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nCount.<|eot_id|>"
    texts = {own.decode(ids) for ids in asked}
    assert len(texts) == 3, "writing and choosing ask the same three questions"
    assert all(
        text.startswith(head + "<|start_header_id|>user") and text.count("<|startoftext|>") == 1 for text in texts
    )
    assert all(text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n") for text in texts)


def run_tasks(model_dir, tmp_path, monkeypatch, *more):
    """The record of a task that writes and of one that chooses."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "150")
    docs = [{"question": f"Tom has {n} pens.", "gold": n % 2} for n in range(2, 6)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "docs.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    mean = {"aggregation": "mean", "higher_is_better": True}
    tasks = {
        "write": {"output_type": "generate_until", "doc_to_target": "x", "generation_kwargs": GREEDY,
                  "metric_list": [{"metric": "exact_match", **mean}]},
        "choose": {"output_type": "multiple_choice", "doc_to_choice": [" 1", " 2"], "doc_to_target": "gold",
                   "metric_list": [{"metric": "acc", **mean}]},
    }  # fmt: skip
    for name, task in tasks.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **common, **task}))
    config = {"generation": {"steps": 7, "max_completion_length": 14}, "model": {"name_or_path": str(model_dir)}}
    (tmp_path / "c.yml").write_text(yaml.safe_dump(config | {"training": {"report_to": "none"}}))
    main = runpy.run_path(str(SCRIPTS / "harness.py"))["main"]
    arguments = ["--include_path", str(tmp_path), "--draws", "2", "--limit", "3", "--json", str(tmp_path / "h.json")]
    main([str(tmp_path / "c.yml"), "--tasks", *tasks, *arguments, *more])
    return json.loads((tmp_path / "h.json").read_text())
