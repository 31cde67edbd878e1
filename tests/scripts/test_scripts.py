"""The scripts run end to end, as the README calls them, on a model and on sizes that take seconds."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from pages import content_of
from paths import DATA
from running import SMALL, fork, start
from safetensors.torch import load_file

REAL_DATA = DATA / "gsm8k"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def write(model, tmp_path_factory):
    """(trainer, more training options) -> a directory with config.yaml to run in."""

    def build(trainer, **training):
        work = tmp_path_factory.mktemp(trainer)
        document = {"trainer": trainer, **SMALL, "model": {"name_or_path": str(model)}}
        document["training"] = SMALL["training"] | {"output_dir": "out"} | training
        (work / "config.yaml").write_text(yaml.safe_dump(document))
        return work

    return build


@pytest.fixture(scope="module")
def grpo(write):
    """A finished GRPO run: its directory and what it printed."""
    work = write("grpo", num_generations=4, num_iterations=2)
    return work, fork("train.py", "config.yaml", "--task.rewards", "digits", cwd=work)


def check_outputs(work, stdout, trainer):
    out = work / "out"
    report = (out / "report.md").read_text()
    assert f"report: {Path('out') / 'report.md'}" in stdout.replace("\n", "")
    assert re.search(r"held out +before +\n", stdout)
    assert re.search(r"held out +before +after +points gained", stdout)
    assert "\r" not in stdout, "a file has no bar"
    assert re.search(rf"run +{trainer} on gsm8k, seed 42", stdout)
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+\.png)\)", report)
    assert pictures, "the report shows its curves"
    for picture in pictures:
        assert (out / picture).read_bytes().startswith(PNG)
    results = json.loads((out / "results.json").read_text())
    accuracy = results["held_out"]["after"]
    assert {"sampled strict", "sampled lenient", "greedy strict", "greedy lenient"} <= set(accuracy)
    assert [entry["step"] for entry in results["log_history"] if "loss" in entry] == [1, 2]
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["trainer"] == trainer and config["generation"]["steps"] == 7
    assert "scripts/train.py config.yaml" in report
    assert {"checkpoint-1", "checkpoint-2", "model"} <= {path.name for path in out.iterdir()}
    page = content_of(out / "report.html")
    assert f"page:   {Path('out') / 'report.html'}" in stdout.replace("\n", "")
    assert page["solved"]["total"] == 32 and len(page["solved"]["played"]) == 8
    assert set(page["solved"]["played"][0]["play"]) == {"before", "after"}
    assert bool(page["rollouts"]) == (trainer == "grpo")


def test_grpo_run_leaves_report_curves_results_config_and_weights(grpo, model):
    check_outputs(*grpo, trainer="grpo")
    before, after = (load_file(path / "model.safetensors") for path in (model, grpo[0] / "out" / "model"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_recorded_config_repeats_the_run(grpo, tmp_path):
    work, _ = grpo
    recorded = work / "out" / "config.yaml"
    fork("train.py", recorded, "--output_dir", tmp_path / "again", cwd=tmp_path)
    first, again = (load_file(path / "model" / "model.safetensors") for path in (work / "out", tmp_path / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_finished_run_can_be_prolonged(grpo, tmp_path):
    work, _ = grpo
    before = json.loads((work / "out" / "results.json").read_text())["held_out"]["before"]
    more = ("--resume_from_checkpoint", "true", "--max_steps", "3", "--eval_before", "false")
    stdout = fork("train.py", "out/config.yaml", *more, cwd=work)
    assert (work / "out" / "checkpoint-3").is_dir()
    assert re.search(r"starts +from out/checkpoint-2", stdout)
    held_out = json.loads((work / "out" / "results.json").read_text())["held_out"]
    assert held_out["before"] == before and "difference" in held_out, "what the first start measured"


def test_sft_run_leaves_report_curves_results_config_and_weights(write):
    work = write("sft")
    check_outputs(work, start("train.py", "config.yaml", cwd=work), trainer="sft")


def test_fresh_weights_depend_on_the_seed_alone(write):
    work, finals = write("sft"), []
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.rand(1)  # forks inherit this process's random state: let it differ
        fork(
            "train.py", "config.yaml", "--model.name_or_path", "tiny", "--from_scratch", "true", "--max_steps", 1,
            "--task.test_size", 2, "--seed", seed, "--output_dir", name, cwd=work,
        )  # fmt: skip
        finals.append(load_file(work / name / "model" / "model.safetensors")["lm_head.weight"])
    first, again, other = finals
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_evaluation_of_a_trained_model_prints_and_writes_its_accuracy(grpo):
    work, _ = grpo
    stdout = fork(
        "evaluate.py", "config.yaml", "--model.name_or_path", "out/model", "--json", "numbers/test.json", cwd=work
    )
    assert "sampled" in stdout and "greedy" in stdout and "32 test problems" in stdout
    record = json.loads((work / "numbers" / "test.json").read_text())
    assert record["split"] == "test" and record["environment"]["trl"].startswith("1.16")
    results = json.loads((work / "out" / "results.json").read_text())
    assert record["rows"][0]["accuracy"] == results["held_out"]["after"], "the noise of the end of the training"


def test_generation_shows_every_step_and_the_text(grpo):
    work, _ = grpo
    arguments = ("generate.py", "config.yaml", "--model.name_or_path", "out/model", "--prompt", "Tom has 3 pens.")
    stdout = fork(*arguments, "--sampled", cwd=work)
    assert "Tom has 3 pens.\nAnswer:" in stdout
    steps = [int(t) for t in re.findall(r"^t=\s*(-?\d+)", stdout, re.MULTILINE)]
    forwards = int(re.search(r"(\d+) forwards, finish reason (eos|length)", stdout)[1])
    assert len(steps) == forwards and steps == sorted(steps, reverse=True)
    assert fork(*arguments, "--sampled", cwd=work) == stdout, "the same seed, the same text"
    assert fork(*arguments, cwd=work) != stdout, "greedy"


def test_generation_writes_a_page_that_plays_what_it_printed(grpo):
    work, _ = grpo
    arguments = ("generate.py", "config.yaml", "--model.name_or_path", "out/model", "--prompt", "Tom has 3 pens.")
    stdout = fork(*arguments, "--sampled", "--html", "pages/out.html", cwd=work)
    assert "page: pages/out.html" in stdout
    found = content_of(work / "pages" / "out.html")
    written = found["completion"]["play"]
    assert found["completion"]["prompt"].startswith("Tom has 3 pens.") and not found["completion"]["greedy"]
    lines = re.findall(r"^t=.*$", stdout, re.MULTILINE)
    assert max(written["steps"]) + 1 == len(lines) and found["completion"]["text"] in stdout
    logp = float(re.search(r"log p\(path\) = (-?[\d.]+) nats", stdout)[1])
    assert sum(written["logps"]) == pytest.approx(logp, abs=0.01)
    fork(*arguments, "--html", "pages/out.html", cwd=work)
    assert content_of(work / "pages" / "out.html")["completion"]["greedy"]


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"{REAL_DATA} is absent")
def test_real_gsm8k_files_train(write):
    work = write("grpo", num_generations=4)
    files = (REAL_DATA / "train.jsonl", REAL_DATA / "test.jsonl")
    arguments = [
        "--task.name",
        "gsm8k",
        "--task.data_files",
        *files,
        "--task.test_size",
        4,
        "--task.rewards",
        "correctness",
        "digits",
    ]
    fork("train.py", "config.yaml", *arguments, "--max_completion_length", 32, "--max_steps", 3, cwd=work)
    results = json.loads((work / "out" / "results.json").read_text())
    losses = [entry for entry in results["log_history"] if "grad_norm" in entry]
    assert len(losses) == 3 and any(entry["grad_norm"] > 0 for entry in losses)
    assert "4 held-out problems" in (work / "out" / "report.md").read_text()


def test_measured_tables_are_printed_and_written(write):
    work = write("sft")
    stdout = fork(
        "measure_sampling.py", "config.yaml", "--task.test_size", 8, "--scheduled_sampling.sampler", "euler",
        "--offsets", 0, 2, "--steps", 2, "full", "--repeats", 2, "--json", "numbers/table.json", cwd=work,
    )  # fmt: skip
    record = json.loads((work / "numbers" / "table.json").read_text())
    assert record["split"] == "test" and record["repeats"] == 2 and record["environment"]["trl"].startswith("1.16")
    assert record["config"]["scheduled_sampling"] == {"sampler": "euler"}
    assert list(record["tables"]) == ["exposure", "steps", "solvers"]
    lines, expected = stdout.splitlines(), []
    for row in record["tables"]["exposure"]["rows"]:
        bias = row["bias"]
        expected.append((
            str(row["offset"]), f"{row['clean']:.2f} ({row['clean_per_token']:.3f})", f"{row['rolled_out']:.2f} (",
            f"{bias['value']:+.2f} [{bias['low']:+.2f}, {bias['high']:+.2f}]",
        ))  # fmt: skip
    for row in record["tables"]["steps"]["rows"]:
        expected.append((str(row["steps"]), *(f"{row[mode]['forwards']:.2f}" for mode in ("sampled", "greedy"))))
    for row in record["tables"]["solvers"]["rows"]:
        accuracy = row["sampled"]["accuracy"]
        expected.append(
            (
                f"{row['sampled']['forwards']:.2f}",
                row["solver"],
                f"{accuracy['value']:.1%} [{100 * accuracy['low']:.1f}",
            )
        )
    assert [row["label"] for row in record["tables"]["steps"]["rows"]] == ["2", "full"]
    assert len(expected) == 2 + 2 + 2 * 4
    for cells in expected:
        assert any(all(cell in line for cell in cells) for line in lines), cells
    assert all(table["title"] in stdout for table in record["tables"].values())
