"""The check-up: a fit checkpoint is called fit, and each fault that it looks for is found when it is there."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from running import fork
from zoo.standins import STAND_INS, load

from trainers.doctor import memory as memory_check
from trainers.doctor import remembering
from trainers.doctor.examination import examine, to_start_from
from trainers.doctor.findings import FAULT, NOT_RUN, NOTE, OK, Finding, fit, table
from trainers.doctor.identity import called, special_tokens
from trainers.doctor.own_texts import own_texts
from trainers.doctor.patient import Patient, admit
from trainers.doctor.remembering import caches
from trainers.doctor.training import reload, sft
from trainers.models.told import block_length_of
from trainers.settings.config import parse
from trainers.settings.options import ConfigError

ONE_OF_EACH_KIND = ["llada", "llada2", "dream", "llama"]


def words_of(name):
    options = STAND_INS[name].arguments
    words = [word for key, value in options.items() for word in (f"--model.{key}", str(value))]
    block = STAND_INS[name].block_length
    return tuple(words + ([] if block is None else ["--generation.block_length", str(block)]))


@pytest.fixture
def patient(stand_in):
    def of(name, *words):
        return admit(str(stand_in(name)[0]), (*words_of(name), *words))

    return of


def outcomes(findings):
    return {finding.check: finding.outcome for finding in findings}


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_fit_checkpoint_is_fit_and_the_lines_it_ends_with_are_a_config(patient, tmp_path, name):
    findings = list(examine(patient(name), "8xH100", trains=True))
    assert fit(findings), [finding for finding in findings if finding.outcome == FAULT]
    found = outcomes(findings)
    trained = {"SFT, 3 steps", "save and reload", "GRPO, 3 steps"}
    assert {"model", "family", "special tokens", "probe", *trained} <= found.keys()
    assert all(found[check] == OK for check in trained)

    lines = yaml.safe_load(to_start_from(patient(name)))
    lines["generation"] = {"max_completion_length": 14, "steps": 14} | lines.get("generation", {})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(lines))
    config = parse([str(tmp_path / "config.yaml")])
    again = load(name, config.model.model_name_or_path)
    assert again.block_length == config.training.block_length
    assert config.model.trust_remote_code == bool(STAND_INS[name].code)


def test_what_cannot_be_loaded_is_a_finding_and_an_exit_status(stand_in, tmp_path):
    directory, _ = stand_in("llama")
    for file in directory.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(AssertionError, match=r"loads +fault(.|\n)*NOT fit"):  # of the helper: exit status 1
        fork("doctor.py", tmp_path, "--json", tmp_path / "out" / "found.json", cwd=tmp_path)
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert found["fit"] is False and [one["check"] for one in found["findings"]] == ["loads"]


@pytest.mark.parametrize(
    ("name", "checks"), [("llama", {"cache"}), ("modernbert", {"cache"}), ("sdar", {"cache exact"})]
)
def test_caches_are_compared_where_there_are_any(patient, name, checks):
    assert outcomes(caches(patient(name))).keys() == checks


def test_a_cache_that_changes_texts_is_a_fault(patient, monkeypatch):
    ill = patient("sdar")
    assert set(outcomes(caches(ill)).values()) == {OK}
    kept = type(ill.policy.denoiser()).logits_with

    def forgetful(self, ids, positions, visible, memory, columns):
        logits, written = kept(self, ids, positions, visible, memory, columns)
        return logits.roll(1, dims=-1) if memory is not None else logits, written

    monkeypatch.setattr(type(ill.policy.denoiser()), "logits_with", forgetful)
    assert outcomes(caches(ill)) == {"cache exact": FAULT}


# ---- the model's own loop ----------------------------------------------------------------------------------------


def greedy_blocks(model, ids, block_length, steps, gen_length, mask_id, **ignored):
    """The plainest loop of blocks counted from the start of the text: one token a step, the surest first."""
    assert steps == block_length
    length = -(-(ids.size(1) + gen_length) // block_length) * block_length
    text = torch.cat([ids, ids.new_full((1, length - ids.size(1)), mask_id)], dim=1)
    block = torch.arange(length) // block_length
    rule = (block <= block.unsqueeze(1))[None, None]
    for number in range(ids.size(1) // block_length, length // block_length):
        while bool((text[0, block == number] == mask_id).any()):
            logits = model(input_ids=text, attention_mask=rule).logits[0].float()
            logits[:, mask_id] = -torch.inf
            best, tokens = logits.softmax(dim=1).max(dim=1)
            open_here = (text[0] == mask_id) & (block == number)
            place = int(torch.where(open_here, best, -1.0).argmax())
            text[0, place] = tokens[place]
    return text[:, : ids.size(1) + gen_length]


@pytest.fixture
def with_loop(patient):
    """An SDAR whose own code has the loop, as LLaDA2's has one."""

    def of(loop):
        return add_loop(patient("sdar", "--model.code", "remote"), loop)

    return of


def add_loop(patient, loop):
    kind = type(patient.policy.model)

    class Loop(kind):
        __module__ = kind.__module__

        def generate(self, inputs, block_length, steps, gen_length, mask_id, threshold):
            return loop(self, inputs, block_length, steps, gen_length, mask_id)

    patient.policy.model.__class__ = Loop
    return patient


def test_texts_are_held_against_the_models_own_loop(with_loop):
    assert outcomes(own_texts(with_loop(greedy_blocks))) == {"own text": OK}


def test_another_text_than_its_own_is_a_fault(with_loop):
    def reversed_order(model, ids, *arguments):
        return greedy_blocks(model, ids, *arguments).flip(dims=[1])

    assert outcomes(own_texts(with_loop(reversed_order))) == {"own text": FAULT}


def test_a_loop_that_fails_here_says_why(with_loop):
    def broken(*arguments):
        raise AttributeError("no such cache")

    (finding,) = own_texts(with_loop(broken))
    assert finding.outcome == NOT_RUN and "AttributeError: no such cache" in finding.seen


def test_a_model_without_a_loop_is_not_compared(patient):
    assert outcomes(own_texts(patient("llama"))) == {"own text": NOT_RUN}


# ---- the rest ----------------------------------------------------------------------------------------------------


def test_weights_that_come_back_as_others_are_a_fault(patient, tmp_path):
    ill = patient("llama")
    trainer = sft(ill, tmp_path)
    trainer.save_model(str(tmp_path / "saved"))
    assert reload(ill, trainer, tmp_path / "saved")[1].outcome == OK
    with torch.no_grad():
        next(ill.policy.model.parameters()).mul_(2.0)
    assert reload(ill, trainer, tmp_path / "saved")[1].outcome == FAULT


def test_a_check_that_fails_is_a_finding_and_the_next_ones_are_made(patient, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("a mistake of\nthe model's code")

    monkeypatch.setattr(remembering, "agreement", broken)
    found = {finding.check: finding for finding in examine(patient("sdar"), "8xH100", trains=False)}
    assert found["caches"] == Finding("caches", FAULT, "RuntimeError: a mistake of the model's code")
    assert "memory" in found


def test_spare_rows_and_detours_are_notes(patient):
    well = patient("llama")
    well.policy.model.resize_token_embeddings(len(well.policy.tokenizer) + 5)
    assert outcomes(special_tokens(well))["spare rows"] == NOTE
    slow = replace(well.policy, calling=replace(well.policy.calling, head=False, padding="none"))
    assert called(slow).outcome == NOTE and "head" in called(slow).seen and "every length" in called(slow).seen


def test_memory_that_nothing_fits_into_is_a_note(patient, monkeypatch):
    well = patient("llama")
    (finding,) = memory_check.memory(well, "1xH100")
    assert finding.outcome == OK and "full" in finding.seen and "lora" in finding.seen
    kind = memory_check.find_machines
    monkeypatch.setattr(
        memory_check,
        "find_machines",
        lambda *a: replace(kind(*a), kind=replace(kind(*a).kind, memory=1e3)),
    )
    (finding,) = memory_check.memory(well, "1xH100")
    assert finding.outcome == NOTE and "too much" in finding.seen


def test_bad_options_are_errors_before_anything_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match=r"generation\.steps"):
        admit("tiny", ("--generation.steps", "0"))
    with pytest.raises(AssertionError, match="expected MODEL, got nothing"):
        fork("doctor.py", cwd=tmp_path)


def test_the_table_fits_into_80_columns(capsys):
    from rich.console import Console

    Console(width=80).print(table([Finding("check", OK, "seen " * 40), Finding("other", FAULT, "x" * 200)]))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_blocks_are_those_that_the_checkpoint_names(stand_in, tmp_path):
    """Or its family, or the user."""
    kind = STAND_INS["sdar"]
    words = words_of("sdar")[: 2 * len(kind.arguments)]
    assert admit(str(stand_in("sdar")[0]), words).policy.block_length == kind.block_length
    assert admit(str(stand_in("sdar")[0]), (*words, "--generation.block_length", "4")).policy.block_length == 4
    assert block_length_of(str(stand_in("llama")[0])) is None
    assert block_length_of(str(stand_in("llada2")[0])) == 32 and block_length_of(str(tmp_path)) is None


def test_a_patient_is_read_with_the_users_options(stand_in):
    directory, _ = stand_in("llama")
    patient = admit(str(directory), (*words_of("llama"), "--training.max_steps", "2"))
    assert isinstance(patient, Patient) and patient.config("sft").training.max_steps == 2
