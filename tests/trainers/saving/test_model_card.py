"""A saved directory says what it is and how it is loaded, and what it says is true: the code in it runs."""

import html
import re
import runpy
from importlib.metadata import version

import pytest
import torch
import yaml
from transformers import AutoModel, AutoModelForCausalLM
from watching import LORA
from zoo.standins import STAND_INS, build
from zoo.templates import TEMPLATES

from trainers.evaluating.evaluation import encode_prompts
from trainers.models.loading import load_policy
from trainers.models.smollm2 import SMOLLM2
from trainers.saving.model_card import write_card
from trainers.saving.plain_loop import LOOP
from trainers.saving.provenance import Provenance, installed, portable, read_provenance, root_of
from trainers.settings.model import ModelArguments
from trainers.settings.objects import build_generator, build_loss, build_masking
from trainers.settings.options import ConfigError

# not for transformers 5 by itself
OLD_CODE = ("llada", "llada_configured", "llada_moe", "llada2", "llada2_tied", "dream", "sdar", "a2d")
PROMPTS = ["Ann has 8 books.\nAnswer:", "Tom has 5 apples and buys 4 more.\nAnswer:", "a"]


def front_matter(directory):
    return yaml.safe_load((directory / "README.md").read_text().split("---\n")[1])


def code_of(directory):
    return re.search(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL).group(1)


def run_code(directory, monkeypatch, capsys):
    """The card's code, run where it lies: its names, and what it printed."""
    script = directory / "loop.py"
    script.write_text(code_of(directory))
    monkeypatch.chdir(directory)
    names = runpy.run_path(str(script))
    return names, capsys.readouterr().out


@pytest.fixture
def written(tokenizer, tmp_path, grpo_args):
    """name -> a stand-in with a card, its policy and the options on the card."""

    def write(name, template=None, **options):
        kind, directory = STAND_INS[name], tmp_path / name
        build(name, tokenizer, directory, template=template)
        told = ModelArguments(str(directory), **kind.arguments)
        asked = ("true", "Count.") if template else ()
        policy = load_policy(told, (), kind.block_length, *asked)
        with torch.no_grad():  # a text that ends at once shows nothing of the loop
            policy.model.get_output_embeddings().weight[policy.tokenizer.eos_token_id] = 0
        policy.model.save_pretrained(directory)  # its config as it was settled
        policy.tokenizer.save_pretrained(directory)
        blocks = {"block_length": kind.block_length, "max_timesteps": 8, "max_completion_length": 14}
        args = grpo_args(**(blocks | options))
        write_card(directory, policy, Provenance.of(args, example=PROMPTS[0]))
        return directory, policy, args

    return write


def greedy(policy, args, prompt):
    sampler = build_generator(
        args,
        policy.denoiser(),
        build_loss(args).schedule,
        build_masking(args),
        policy.eos_ids,
        temperature=0.0,
    )
    policy.model.eval()
    batch = encode_prompts(policy, [prompt])
    found = sampler.generate(batch["input_ids"], batch["attention_mask"], torch.Generator().manual_seed(0))
    return policy.tokenizer.decode(found.completions()[0], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in STAND_INS),
        ("llama", {"alpha_schedule": "linear", "max_timesteps": 5}),
        ("llada", {"block_length": 7, "alpha_schedule": "exponential"}),
        ("bert", {"block_length": 2, "max_timesteps": 14}),
    ],
    ids=str,
)
def test_code_of_the_card_writes_what_the_sampler_writes(written, monkeypatch, capsys, name, options):
    """Plain transformers, a prompt at a time, greedily: the texts of `DiffusionGenerator`, for every family."""
    directory, policy, args = written(name, **options)
    expected = [greedy(policy, args, prompt) for prompt in PROMPTS]
    if name in OLD_CODE:
        for auto in (AutoModel, AutoModelForCausalLM):
            monkeypatch.setattr(auto, "from_pretrained", lambda *args, **kwargs: policy.model)
    names, printed = run_code(directory, monkeypatch, capsys)
    assert [names["complete"](prompt) for prompt in PROMPTS] == expected
    assert printed == expected[0] + "\n" and len(set(expected)) > 1


@pytest.mark.parametrize("template", TEMPLATES)
def test_code_of_the_card_asks_in_the_template_of_the_model(written, monkeypatch, capsys, template):
    directory, policy, args = written("llama", template)
    end = policy.tokenizer.convert_ids_to_tokens(policy.format.turn_ends[0])
    whole = greedy(policy, args, PROMPTS[0])
    tokens, rows = policy.tokenizer(whole)["input_ids"], policy.model.get_output_embeddings().weight
    with torch.no_grad():  # a text that ends, where another token was
        rows[policy.format.turn_ends[0]] = 1.1 * rows[tokens[len(tokens) // 2]]
    policy.model.save_pretrained(directory)
    expected = [greedy(policy, args, prompt) for prompt in PROMPTS]
    assert len(expected[0]) < len(whole)
    names, printed = run_code(directory, monkeypatch, capsys)
    assert [names["complete"](policy.format.messages(prompt)) for prompt in PROMPTS] == expected
    assert printed == expected[0] + "\n" and len(set(expected)) > 1
    text = html.unescape((directory / "README.md").read_text())
    assert f"in the tokenizer's chat template with the system prompt 'Count.', completions end with `{end}`" in text


def test_a_card_names_the_versions_that_wrote_it_beside_those_of_the_training(make_policy, grpo_args, tmp_path):
    old = dict.fromkeys(installed(), "0.1")
    write_card(tmp_path, make_policy(), Provenance.of(grpo_args(), trainer="sft", versions=old))
    text = (tmp_path / "README.md").read_text()
    written = text.split("These files were written with")[1]
    assert all(f"{name} {version(name)}" in written for name in ("torch", "transformers", "trl"))
    assert "Versions: torch 0.1, transformers 0.1, trl 0.1" in text


def test_code_of_the_card_is_short():
    assert len([line for line in LOOP.splitlines() if line.strip()]) <= 30


def test_flow_over_embeddings_has_no_plain_loop(written):
    directory, *_ = written("llama", prediction_type="masked")
    assert "```python" in (directory / "README.md").read_text()
    policy = load_policy(ModelArguments(str(directory), **STAND_INS["llama"].arguments))
    known = read_provenance(directory)
    write_card(directory, policy, Provenance(known.sampling | {"prediction_type": "flow_matching"}))
    assert "```python" not in (directory / "README.md").read_text()
    assert "scripts/generate.py" in (directory / "README.md").read_text()


# --- what it says -------------------------------------------------------------------------------------------------


def test_card_of_a_run_says_method_sampler_schedule_and_nothing_of_trl(make_grpo, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1, "output_dir": str(tmp_path / "out")}
    trainer = make_grpo(alpha_schedule="linear", alpha_min=0.02, alpha_max=0.9, **options)
    trainer.train()
    trainer.save_model(str(tmp_path / "out" / "model"))
    assert not (tmp_path / "out" / "README.md").exists()
    for directory in (tmp_path / "out" / "model", tmp_path / "out" / "checkpoint-1"):
        text = (directory / "README.md").read_text()
        for fact in (
            "GRPO (2402.03300)",
            "`trajectory_nelbo`",
            "linear",
            "0.9 (t = 0)",
            "0.02 (t = 7)",
            "count_matched",
        ):
            assert fact in text, fact
        assert "14 tokens" in text and "`[MASK]` (id 2)" in text and "bidirectional" in text
        assert "cite" not in text.lower() and "TRL](" not in text
        assert front_matter(directory)["library_name"] == "transformers"
        assert {"grpo", "trl", "masked-diffusion"} <= set(front_matter(directory)["tags"])


def test_card_of_an_adapter_is_ours_and_not_that_of_peft(make_grpo, tmp_path):
    trainer = make_grpo(peft_config=LORA)
    trainer.save_model(str(tmp_path / "adapter"))
    text = (tmp_path / "adapter" / "README.md").read_text()
    assert "scripts/export.py" in text and "[More Information Needed]" not in text and "```python" not in text
    assert front_matter(tmp_path / "adapter")["library_name"] == "peft"


def test_card_of_sft_says_so(make_sft, tmp_path):
    trainer = make_sft()
    trainer.save_model(str(tmp_path / "model"))
    assert "supervised fine-tuning" in (tmp_path / "model" / "README.md").read_text()
    assert "sft" in front_matter(tmp_path / "model")["tags"]


@pytest.mark.parametrize(
    ("base", "hub", "license"),
    [
        (SMOLLM2, "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
        ("tiny", None, "apache-2.0"),
        ("GSAI-ML/LLaDA-8B-Instruct", "GSAI-ML/LLaDA-8B-Instruct", None),
        ("/home/somebody/weights", None, None),
    ],
)
def test_base_model_and_license_are_named_where_they_are_known(make_policy, grpo_args, tmp_path, base, hub, license):
    write_card(tmp_path, make_policy(), Provenance.of(grpo_args(), base, trainer="grpo"), adapter=True)
    found = front_matter(tmp_path)
    assert (found.get("base_model"), found.get("license")) == (hub, license)
    assert found.get("base_model_relation") == (hub and "adapter")
    assert "/home" not in (tmp_path / "README.md").read_text()


def test_results_are_told_with_their_intervals(make_policy, grpo_args, tmp_path):
    after = {"sampled strict": {"value": 0.5, "low": 0.25, "high": 0.75}}
    before = {"sampled strict": {"value": 0.125, "low": 0.0, "high": 0.25}}
    known = Provenance.of(grpo_args(), trainer="grpo", held_out={"before": before, "after": after})
    write_card(tmp_path, make_policy(), known)
    assert "| sampled strict | 12.5% [0.0%, 25.0%] | 50.0% [25.0%, 75.0%] |" in (tmp_path / "README.md").read_text()


def test_record_is_read_as_it_was_written_and_a_damaged_one_is_named(make_policy, grpo_args, tmp_path):
    known = Provenance.of(grpo_args(), "tiny", trainer="grpo", settings={"task": {"data_files": ["/x/a.jsonl"]}})
    write_card(tmp_path, make_policy(), known)
    assert read_provenance(tmp_path) == known and "/x/" not in (tmp_path / "README.md").read_text()
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(ConfigError, match=r"provenance\.json is damaged"):
        read_provenance(tmp_path)


def test_training_goes_back_to_the_model_that_the_first_run_started_from(make_policy, grpo_args, tmp_path):
    write_card(tmp_path, make_policy(), Provenance.of(grpo_args(), "tiny", trainer="sft"))
    assert root_of(str(tmp_path)) == Provenance.of(grpo_args(), str(tmp_path), trainer="grpo").base == "tiny"
    assert root_of("") == "" and root_of("runs/x/model") == "runs/x/model"


def test_places_on_this_machine_are_cut_from_settings():
    assert portable({"a": ["/x/y/b.jsonl", "c/d"], "e": 3, "f": {"g": "/h/i"}}) == {
        "a": ["b.jsonl", "c/d"],
        "e": 3,
        "f": {"g": "i"},
    }
