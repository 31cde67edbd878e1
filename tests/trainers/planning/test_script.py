"""scripts/plan.py as it is called: what it refuses, what it writes, and that a budget buys what it says."""

import json
import runpy

import pytest
from paths import CONFIGS, SCRIPTS

from trainers.planning import machines
from trainers.planning.budgets import find_budget
from trainers.planning.machines import KINDS, Given, Machines, asked_for, find_machines
from trainers.planning.report import scaled, span, two
from trainers.settings.options import ConfigError

SCRIPT = SCRIPTS / "plan.py"
RECIPE = str(CONFIGS / "recipes" / "llada-8b-gsm8k-8gpu" / "config.yaml")
SMALL = ["--generation.max_completion_length", "8", "--generation.steps", "4", "--per_device_train_batch_size", "8"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    main = runpy.run_path(str(SCRIPT))["main"]

    def written(*argv):
        file = tmp_path_factory.mktemp("plan") / "plan.json"
        main([*argv, *SMALL, "--json", str(file)])
        return json.loads(file.read_text())

    return written


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tiny", "8xH100"], "expected MODEL GPUS BUDGET [CONFIG], got tiny 8xH100; usage:"),
        (
            [RECIPE, "8xH100", "24h", RECIPE],
            "or MODEL GPUS BUDGET CONFIG; got two configs",
        ),
        (
            ["tiny", "8xH100", "24h", "--fsdp", "true", "--loss.states_per_forward", "1"],
            "states_per_forward=1: expected",
        ),
        (["owner/nowhere", "8xH100", "24h"], "MODEL 'owner/nowhere': expected one of tiny, 2.3m"),
        (["nowhere", "8xH100", "24h"], "MODEL 'nowhere': expected one of tiny, 2.3m"),
        (["tiny", "8xH99", "24h"], "GPUS '8xH99': expected COUNTxKIND, such as 8xH100, with a kind of A100, H100"),
        (["tiny", "0xH100", "24h"], "GPUS '0xH100'"),
        (["tiny", "8x", "24h"], "GPUS '8x'"),
        (["tiny", "8xH100", "soon"], "BUDGET 'soon': expected wall time or optimiser steps"),
        (["tiny", "8xH100", "0h"], "BUDGET '0h'"),
        (["tiny", "8xH100", "1.5steps"], "BUDGET '1.5steps': expected a whole number"),
        (["tiny", "8xH100", "24h", "--efficiency", "1.5"], "expected a share above 0"),
        (["tiny", "8xH100", "24h", "--memory", "-1"], "--memory -1.0: expected a finite number above 0"),
        (["tiny", "8xH100", "24h", "--mean_length", "9"], "--mean_length 9: expected at most generation.max_compl"),
        (["tiny", "8xH100", "24h", "--loss.alpha_schedule", "sine"], "loss.alpha_schedule='sine'"),
        (["tiny", "8xH100", "24h", "--num_generations", "48"], "expected a multiple of num_generations=48"),
        (["tiny", "8xH100", "24h", "--trainer", "dpo"], "trainer='dpo': expected grpo or sft"),
        (["tiny", "8xH100", "24h", "--check"], "--check: only for one machine that is here"),
        (
            ["tiny", "8xH100", "24h", "--generation.block_length", "4", "--evaluations", "3"],
            "--evaluations 3: expected",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_planned_is_one_clear_error(plan, argv, message):
    with pytest.raises(ConfigError) as error:
        plan(*argv)
    assert message in " ".join(str(error.value).split())


def test_a_budget_of_time_and_its_steps_are_the_same_run(plan):
    timed = plan("tiny", "8xH100", "2h")
    counted = plan("tiny", "8xH100", f"{int(timed['steps'])}steps")
    assert counted["seconds"] == pytest.approx(timed["seconds"], rel=1 / timed["steps"])
    assert timed["days"] == pytest.approx(2 / 24)
    assert timed["seconds_per_step"]["best"] < timed["seconds_per_step"]["assumed"]


def test_batches_are_shared_out_over_the_processes_that_are_planned_for(plan):
    """8 rows on each of 8 make whole groups of 64, which one process alone could not."""
    record = plan("tiny", "8xH100", "1h", "--num_generations", "64")
    assert record["machines"]["count"] == 8


def test_efficiency_scales_the_time_of_arithmetic(plan):
    half, whole = (plan("tiny", "1xH100", "1h", "--efficiency", share)["seconds_per_step"] for share in ("0.5", "1"))
    assert half["assumed"] == pytest.approx(2 * whole["assumed"])
    assert whole["assumed"] == pytest.approx(whole["best"])


def test_a_large_model_is_sharded_and_the_launch_line_says_so(plan):
    record = plan("llada-8b", "8xH100", "24h", "--training.gradient_checkpointing", "true")
    fits = {f"{way['trained']}, {way['strategy']}": way["fits"] for way in record["ways"]}
    assert not fits["full, ddp"]  # 4 bytes a weight, and 20 in all
    assert fits["full, fsdp2"] and fits["lora, zero2"]
    first = next(name for name, fit in fits.items() if fit)
    assert record["recommended"] == first
    named = "scripts/train.py CONFIG.yaml --model.name_or_path GSAI-ML/LLaDA-8B-Instruct"
    assert record["launch"].startswith(f"torchrun --nproc_per_node 8 {named}")
    assert record["launch"].endswith(" --fsdp true") and record["recommended"] == "full, fsdp2"
    nothing = plan("llada-8b", "1xRTX4090", "24h")
    assert nothing["recommended"] is None and "nothing fits" in nothing["advice"] and nothing["launch"] is None


@pytest.mark.parametrize(
    ("options", "refused", "chosen"),
    [
        (["--loss.states_per_forward", "1"], {"fsdp2", "zero3"}, "zero2"),
        (["--loss.memory_budget_gib", "1"], {"fsdp2", "zero3", "zero2"}, None),
        (["--beta", "0.1", "--sync_ref_model", "true"], {"fsdp2", "zero3"}, "zero2"),
        (["--generation.compile", "true"], {"fsdp2", "zero3"}, "zero2"),
        (["--model.code", "remote", "--model.trust_remote_code", "true"], {"fsdp2", "zero3"}, "zero2"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_the_trainer_refuses_is_neither_planned_nor_advised(plan, capsys, options, refused, chosen):
    record = plan("llada-8b", "8xH100", "24h", "--training.gradient_checkpointing", "true", *options)
    printed = capsys.readouterr().out
    assert {way["strategy"] for way in record["ways"] if way["refused"]} == refused
    assert record["recommended"] == (chosen and f"full, {chosen}")
    starred = [line for line in printed.splitlines() if " * " in line]
    assert len(starred) == 1 and " refused" not in starred[0]
    assert printed.count("refused by the trainer: ") == len({way["refused"] for way in record["ways"]} - {None})


def test_options_that_spread_the_run_themselves_are_followed_and_not_said_twice(plan):
    record = plan("tiny", "8xH100", "1h", "--fsdp", "true")
    assert record["recommended"] == "full, fsdp2" and record["launch"].count("--fsdp true") == 1
    assert plan("tiny", "8xH100", "1h")["recommended"] == "full, ddp"
    assert plan("tiny", "1xH100", "1h", "--fsdp", "true")["recommended"] == "full, one process"


def test_a_config_names_its_model_and_starts_as_it_is(plan):
    record = plan(RECIPE, "8xH100", "10steps", "--generation.block_length", "8", "--num_generations", "8")
    assert record["model"]["name"] == "GSAI-ML/LLaDA-8B-Instruct"
    assert record["launch"].startswith(f"torchrun --nproc_per_node 8 scripts/train.py {RECIPE} --")
    assert "name_or_path" not in record["launch"] and "trust_remote_code" not in record["launch"]
    other = plan("sdar-1.7b", "8xH100", "10steps", RECIPE, "--generation.block_length", "4", "--num_generations", "8")
    assert f"scripts/train.py {RECIPE} --model.name_or_path JetLM/SDAR-1.7B-Chat --" in other["launch"]


def test_all_weights_in_two_bytes_are_warned_of_where_nobody_keeps_four(plan, capsys):
    words = ["dream-7b", "8xH200", "1h", "--training.gradient_checkpointing", "true", "--model.dtype", "bfloat16"]
    plan(*words)
    assert "small updates are rounded away" in " ".join(capsys.readouterr().out.split())
    plan(*words, "--fsdp", "true")
    assert "rounded away" not in " ".join(capsys.readouterr().out.split())


def test_sft_has_no_rollout(plan):
    record = plan("tiny", "1xH100", "10steps", "--trainer", "sft")
    assert [phase["name"] for phase in record["phases"]] == ["loss, forward", "backward", "optimiser"]


def test_numbers_by_hand_stand_for_any_machine():
    given = Given(peak_flops=1e12, bandwidth=1e11, memory=1e10)
    found = find_machines(asked_for("4xmine", given), given, 8, "bfloat16")
    assert (found.count, found.kind.memory) == (4, 1e10)
    assert found.kind.peaks("bfloat16").flops == found.kind.peaks("float32").flops == 1e12
    own = find_machines(asked_for("2xh100", Given(memory=1e9)), Given(memory=1e9), 8, "bfloat16")
    assert own.kind.memory == 1e9 and own.kind.flops == KINDS["h100"].flops


def test_this_machine_is_measured_in_the_runs_own_type(monkeypatch):
    monkeypatch.setattr(machines, "ROUNDS", 1)
    monkeypatch.setitem(machines.PeakMeter.measure.__globals__["SIDE"], "cpu", 64)
    monkeypatch.setitem(machines.PeakMeter.measure.__globals__["COPIED"], "cpu", 2**16)
    asked = asked_for("cpu", Given())
    assert asked.cpu
    kind = find_machines(asked, Given(), 8, "float32").kind
    assert kind.measured and kind.peaks("float32").flops > 0 and kind.memory > 0


def test_beyond_a_node_the_network_is_the_slowest_hop():
    kind = KINDS["h100"]
    assert Machines(kind, 8).link == kind.link
    assert Machines(kind, 64).link == kind.network < kind.link


def test_budgets_are_read_in_any_unit():
    assert find_budget("90min").seconds == find_budget("1.5h").seconds == 5400
    assert find_budget("3d").seconds == 3 * find_budget("24h").seconds
    assert find_budget("500 steps").steps == 500


def test_two_digits_and_no_more():
    assert [two(value) for value in (0, 0.01234, 1.26, 99.6, 1234.0)] == ["0", "0.012", "1.3", "100", "1200"]
    assert scaled(13.96e9, "FLOP") == "14 GFLOP"
    assert [span(value) for value in (30, 300, 10_000, 500_000)] == ["30 s", "5.0 min", "2.8 h", "5.8 days"]
