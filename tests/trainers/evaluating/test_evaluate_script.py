"""scripts/evaluate.py: one process or two, unbroken or killed and resumed, the record is the same."""

import json
import runpy
import sys

import pytest
import torch
import torch.distributed as dist
import yaml
from accelerate import debug_launcher
from accelerate.state import AcceleratorState
from paths import SCRIPTS

from trainers.evaluating.evaluation import Evaluator
from trainers.evaluating.statistics import clustered_mean, pass_at
from trainers.settings.options import ConfigError

PARSERS = ("strict", "lenient")


def main_of(script):
    return runpy.run_path(str(SCRIPTS / script))["main"]


@pytest.fixture
def start(model_dir, tmp_path, monkeypatch, capsys):
    """Run the script in this process: (name of the record, more options) -> what was printed."""
    document = {
        "generation": {"steps": 7, "max_completion_length": 14, "batch_size": 5},
        "model": {"name_or_path": str(model_dir)},
        "task": {"train_size": 64, "validation_size": 8, "test_size": 24, "max_number": 10},
        "training": {"output_dir": str(tmp_path / "out"), "report_to": "none"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("COLUMNS", "200")
    main = main_of("evaluate.py")

    def run(name, *options):
        argv = [str(tmp_path / "config.yaml"), "--json", str(tmp_path / f"{name}.json"), *map(str, options)]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *argv])
        main(argv)
        return capsys.readouterr().out

    return run


@pytest.fixture
def evaluate(start, tmp_path):
    """As `start`, and reads the record."""

    def run(name, *options):
        printed = start(name, *options)
        return json.loads((tmp_path / f"{name}.json").read_text()), printed

    return run


def outcomes(record):
    """All but how long it took and what was typed."""
    if isinstance(record, dict):
        return {key: outcomes(value) for key, value in record.items() if key not in ("seconds", "command")}
    return [outcomes(value) for value in record] if isinstance(record, list) else record


SWEEP = ("--sweep", "generation.steps", 3, 7, "--repeats", 2, "--texts")


def test_killed_and_resumed_it_gives_the_record_of_an_unbroken_run(evaluate, tmp_path, monkeypatch):
    unbroken, _ = evaluate("unbroken", *SWEEP)
    answer, calls = Evaluator.answer, []

    def dies(self, *args):
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return answer(self, *args)

    monkeypatch.setattr(Evaluator, "answer", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate("killed", *SWEEP)
    assert not (tmp_path / "killed.json").exists()
    journal = tmp_path / "killed.jsonl"
    journal.write_bytes(journal.read_bytes()[:-50])  # in the middle of a line, and so of a batch
    killed, _ = evaluate("killed", *SWEEP)
    units = 2 * (2 + 1) * 5  # steps, two samples and a greedy pass, batches of 5 out of 24
    assert len(calls) == units + 2, "of the 7 finished batches 6 were whole, and one call died"
    assert outcomes(killed) == outcomes(unbroken)
    assert len(journal.read_bytes().splitlines()) == 1 + 2 * 3 * 24

    monkeypatch.setattr(Evaluator, "answer", lambda *args: pytest.fail("nothing is left to do"))
    assert evaluate("killed", *SWEEP)[0]["rows"] == killed["rows"], "seconds too"


def test_two_processes_share_the_work_and_give_the_record_of_one(start, evaluate, tmp_path, monkeypatch):
    one, _ = evaluate("one", *SWEEP)
    answer = Evaluator.answer

    def counted(self, *args):
        with open(tmp_path / f"calls-{dist.get_rank()}", "a") as calls:
            calls.write(".")
        return answer(self, *args)

    def run():
        AcceleratorState._reset_state(reset_partial_state=True)  # the parent's says: one process
        torch.set_num_threads(1)
        monkeypatch.setattr(Evaluator, "answer", counted)
        monkeypatch.setattr(dist, "destroy_process_group", lambda: None)  # the launcher misses its file otherwise
        printed = start("two", *SWEEP)
        (tmp_path / f"printed-{dist.get_rank()}").write_text(printed)

    debug_launcher(run, num_processes=2)
    two = json.loads((tmp_path / "two.json").read_text())
    assert outcomes(two) == outcomes(one)
    assert [len((tmp_path / f"calls-{rank}").read_text()) for rank in (0, 1)] == [15, 15]
    printed = [(tmp_path / f"printed-{rank}").read_text() for rank in (0, 1)]
    assert "24 test problems" in printed[0] and not printed[1]


def test_more_repetitions_go_on_where_fewer_ended(evaluate, monkeypatch):
    few, _ = evaluate("a", "--repeats", 1)
    asked, answer = [], Evaluator.answer
    monkeypatch.setattr(Evaluator, "answer", lambda self, *args: asked.append(args[3]) or answer(self, *args))
    more, _ = evaluate("a", "--repeats", 3)
    assert set(asked) == {1, 2}
    for parser in PARSERS:
        own = [row["outcomes"]["sampled"][parser] for record in (few, more) for row in record["rows"]]
        assert own[0] == own[1][:1] and len(own[1]) == 3


def test_the_table_and_the_record_say_the_same(evaluate):
    record, printed = evaluate("a", "--repeats", 4, "--pass_at", 1, 4, "--decodings", "sampled")
    (row,) = record["rows"]
    runs = row["outcomes"]["sampled"]["lenient"]
    right = [sum(map(int, column)) for column in zip(*runs, strict=True)]
    assert len(runs) == 4 and len(right) == 24 and 0 < sum(right) < 96
    clusters = record["clusters"].split()
    for k, expected in ((1, [r / 4 for r in right]), (4, [pass_at(4, r, 4) for r in right])):
        found = row["pass_at"]["sampled lenient"][str(k)]
        assert found == vars(clustered_mean(expected, clusters))
        assert str(clustered_mean(expected, clusters)) in printed
    assert row["accuracy"]["sampled lenient"] == row["pass_at"]["sampled lenient"]["1"]
    assert "greedy" not in printed and "clustered" in printed
    assert record["interval"] == "clustered" and record["independent_clusters"] < record["problems"] == 24
    assert "completions" not in row and record["environment"]["torch"] and len(record["weights"]) == 64


def test_independent_problems_have_wilsons_interval(evaluate):
    record, printed = evaluate("a", "--limit", 2, "--decodings", "greedy")
    assert record["independent_clusters"] == record["problems"] == 2
    assert record["interval"] == "Wilson" and "Wilson" in printed


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--generation.steps", 6], ["generation.steps is 6 here and 7 there", "a.jsonl"]),
        (["--task.seed", 1], ["data is", "a.jsonl"]),
        (["--seed", 1], ["training.seed is 1 here and 42 there"]),
        (["--model.dtype", "bfloat16"], ["weights is"]),
        (["--sweep", "generation.steps", 7, 6], ["rows 1"]),
        (["--repeats", 2, "--pass_at", 4], ["--pass_at 4", "--repeats 2"]),
        (["--limit", 0], ["--limit", "0"]),
        (["--decodings", "best"], ["best", "sampled"]),
    ],
)
def test_other_settings_are_refused_in_one_line_and_before_any_work(evaluate, monkeypatch, options, fragments):
    evaluate("a")
    monkeypatch.setattr(Evaluator, "answer", lambda *args: pytest.fail("no work before the refusal"))
    with pytest.raises(ConfigError) as error:
        evaluate("a", *options)
    assert all(fragment in str(error.value) for fragment in fragments), error.value


def test_two_records_are_compared(evaluate, tmp_path, capsys):
    evaluate("few", "--generation.steps", 2)
    evaluate("many")
    paths = [str(tmp_path / name) for name in ("few.json", "many.json")]
    main_of("compare.py")([*paths, "--json", str(tmp_path / "difference.json")])
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "difference.json").read_text())
    assert [(row["decoding"], row["parser"]) for row in record["rows"]] == [
        (decoding, parser) for decoding in ("sampled", "greedy") for parser in PARSERS
    ]
    for row in record["rows"]:
        assert sum(row[name] for name in ("both", "only_before", "only_after", "neither")) == 24
        assert row["gain"]["value"] == pytest.approx((row["only_after"] - row["only_before"]) / 24)
    assert "generation.steps: 2 before, 7 after." in printed and "trust the interval" in printed
