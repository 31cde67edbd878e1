"""scripts/benchmark.py from command line to files, on sizes that take seconds; bad input is one clear error."""

import json
import runpy

import pytest
import torch
from paths import SCRIPTS

from trainers.benchmarking.roofline import COPIED, SIDE
from trainers.benchmarking.shapes import SHAPES, Shape
from trainers.benchmarking.startup import ASKED
from trainers.models.loading import load_policy
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

SCRIPT = SCRIPTS / "benchmark.py"
SMALL = ["--device", "cpu", "--prompt_length", "6", "--canvas_length", "8", "--repeats", "1"]


@pytest.fixture
def benchmark(monkeypatch):
    """The script's main, on a machine whose peaks and whose tiny shape are quickly measured."""
    monkeypatch.setitem(SIDE, "cpu", 64)
    monkeypatch.setitem(COPIED, "cpu", 2**16)
    monkeypatch.setitem(SHAPES, "tiny", Shape(32, 48, 1, 2, 2, 300))
    monkeypatch.setenv("COLUMNS", "250")
    return runpy.run_path(str(SCRIPT), run_name="benchmark")["main"]


@pytest.fixture
def data(tmp_path):
    """Problems in GSM8K's format, written for this test."""
    path = tmp_path / "problems.jsonl"
    rows = [{"question": f"Ann has {n} pens. How many?", "answer": f"She has {n}.\n#### {n}"} for n in range(9)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_rollout_writes_a_table_with_a_row_for_each_case(benchmark, tmp_path, capsys):
    output = tmp_path / "out"
    sizes = [
        "--vocabulary",
        "300",
        "400",
        "--batch_size",
        "2",
        "4",
        "--group",
        "2",
        "--steps",
        "4",
        "--block_length",
        "4",
    ]
    benchmark(["rollout", *SMALL, *sizes, "--generators", "llada", "ours", "--output", str(output)])
    record = json.loads((output / "results.json").read_text())
    cases = [(row["generator"], row["vocabulary"], row["batch_size"]) for row in record["rows"]]
    assert cases == [(name, v, b) for v in (300, 400) for b in (2, 4) for name in ("llada", "ours")]
    assert all(row["same_text"] == 1 and row["seconds"][0] > 0 and row["peak_bytes"] > 0 for row in record["rows"])
    assert record["peaks"]["flops"] > 0 and record["settings"]["steps"] == 4

    markdown, printed = (output / "benchmark.md").read_text(), capsys.readouterr().out
    assert sum(line.startswith("| ") for line in markdown.splitlines()) == 2 + 8
    for text in (markdown, printed):
        assert f"torch {torch.__version__}, float32, {torch.get_num_threads()} thread(s)" in text
        assert "GFLOP/s" in text and "positions/token" in text


def test_code_runs_a_checkpoint_both_ways(benchmark, tokenizer, tmp_path, stand_in):
    """A Llama that was made bidirectional: its own file is a stand-in, its weights are read natively as well."""
    directory, _ = stand_in("a2d_llama")
    sizes = ["--steps", "4", "--block_length", "4", "--batch_size", "2", "--output", str(tmp_path)]
    benchmark(["code", str(directory), *SMALL, *sizes])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["code"], row["model"]) for row in rows] == [
        ("remote", "A2DLlamaLMHeadModel"),
        ("native", "LlamaForCausalLM"),
    ]
    assert all(row["same_text"] == 1.0 and row["seconds"][0] > 0 for row in rows)
    with pytest.raises(ConfigError, match="--model, --vocabulary: not for mode code"):
        benchmark(["code", str(directory), *SMALL, "--model", "there"])


def test_init_saves_what_training_and_the_benchmark_load(benchmark, data, tmp_path, capsys):
    folder = str(tmp_path / "start")
    benchmark(["init", folder, "--data", str(data)])
    policy = load_policy(ModelArguments(model_name_or_path=folder))
    assert policy.model.config.hidden_size == 32 and not policy.model.config.is_causal
    assert "Ann" in [policy.tokenizer.decode([i]).strip() for i in range(len(policy.tokenizer))]

    real = ["--model", folder, "--data", str(data), "--vocabulary", "500", "--block_length", "4", "--steps", "2"]
    benchmark(["rollout", *SMALL, *real, "--generators", "d1", "ours", "--no_memory"])
    assert "100.0%" in capsys.readouterr().out


def test_loss_writes_every_form(benchmark, tmp_path):
    benchmark(["loss", *SMALL, "--draws", "1", "2", "--batch_size", "2", "--output", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["form"], row["num_draws"]) for row in rows] == [
        ("full logits", 1), ("ours, packed", 1), ("ours, packed", 2), ("ours, streamed", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "mode '': expected one of rollout, loss, train, code, init"),
        (["dance"], "mode 'dance': expected one of rollout, loss, train, code, init"),
        (["rollout", "--block_length", "5"], "--block_length 5: expected a divisor"),
        (["rollout", "--steps", "3"], "--steps 3: expected a multiple of the number of blocks, 8"),
        (["rollout", "--temperature", "-1"], "--temperature -1.0: expected at least 0"),
        (["rollout", "--batch_size", "4", "3", "--group", "2"], "--batch_size 3: expected a multiple of --group 2"),
        (["rollout", "--data", "x.jsonl"], "--data x.jsonl: only with --model"),
        (["rollout", "--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["rollout", "--shape", "9B"], "invalid choice: '9B'"),
        (["rollout", "--output", "/dev/null/out"], "--output /dev/null/out: "),
        (["rollout", "--model", "/nowhere"], "'/nowhere' cannot be loaded"),
        (["rollout", "--vocabulary", "10"], "--vocabulary 10: expected at least the tokenizer's"),
        (["loss", "--share", "0"], "--share 0.0: expected at most 1"),
        (["loss", "--batch_size", "0"], "--batch_size"),
        (["init", "folder", "--data", "nowhere.jsonl"], "--data nowhere.jsonl: expected a file"),
    ],
)
def test_bad_input_is_one_clear_error(benchmark, argv, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        benchmark(argv)


def test_train_measures_each_way_to_train_at_each_number_of_draws(benchmark, tmp_path):
    output = tmp_path / "out"
    benchmark(["train", *SMALL, "--draws", "1", "2", "--checkpointed", "--lora_r", "2", "--output", str(output)])
    rows = json.loads((output / "results.json").read_text())["rows"]
    ways = [(row["num_draws"], row["trained"], row["checkpointed"]) for row in rows]
    assert ways == [(m, trained, again) for m in (1, 2) for trained in ("full", "lora") for again in (False, True)]
    assert all(row["mfu"] > 0 and row["seconds"][0] > 0 and row["peak_bytes"] > 0 for row in rows)
    assert len({round(row["loss"], 3) for row in rows if row["num_draws"] == 1}) == 1, "the same weights in every row"


def test_startup_times_every_command_with_every_question(benchmark, tmp_path, capsys):
    benchmark(["startup", "--commands", "train", "plan", "--repeats", "1", "--output", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["command"], row["asked"]) for row in rows] == [(c, a) for c in ("train", "plan") for a in ASKED]
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] > 0 for row in rows)
    assert "seconds to an answer" in capsys.readouterr().out
