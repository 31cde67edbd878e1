"""A save is there whole or not at all, the old one goes last, and a full disk is waited for and then named."""

import errno
import json
import subprocess
from pathlib import Path

import pytest
import torch
from processes import launch

from trainers.faults import disk_space, publishing, whole_saves
from trainers.faults.disk_space import bytes_of, checkpoint_bytes, model_bytes, needed_instead
from trainers.faults.endings import RunError
from trainers.faults.manifest import MANIFEST
from trainers.saving.checkpoints import check_checkpoint, checkpoint_to_resume
from trainers.settings.options import ConfigError

SAVING = {"save_strategy": "steps", "save_steps": 1}
PLENTY = 10**15


def checkpoints(output):
    return sorted(path.name for path in Path(output).glob("checkpoint-*"))


@pytest.fixture
def impatient(monkeypatch):
    """A run does not wait long."""
    monkeypatch.setattr(disk_space, "WAIT", 0.2)
    monkeypatch.setattr(disk_space, "POLL", 0.01)


@pytest.fixture
def free(monkeypatch):
    """What is free on the disk, by a function that a test sets."""
    told = {"now": lambda directory: PLENTY}
    monkeypatch.setattr(disk_space, "free_bytes", lambda directory: told["now"](directory))
    return told


# ---- publishing -----------------------------------------------------------------------------------------------------


def write(directory, content):
    directory.mkdir(parents=True)
    (directory / "file").write_text(content)


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_after_a_stop_between_any_two_renames_one_of_both_is_there(tmp_path, monkeypatch, renames):
    final = tmp_path / "model"
    write(final, "old")
    write(publishing.staged(final), "new")
    rename, left = publishing.os.rename, iter(range(renames))

    def limited(source, target):
        if next(left, None) is None:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(publishing.os, "rename", limited)
        if renames < 2:
            with pytest.raises(KeyboardInterrupt):
                publishing.publish(final)
        else:
            publishing.publish(final)
    publishing.recover(tmp_path)
    assert (final / "file").read_text() == ("new" if renames == 2 else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_new_checkpoint_is_whole_before_an_old_one_goes(make_grpo, monkeypatch):
    trainer = make_grpo(max_steps=3, save_total_limit=1, **SAVING)
    output, seen = Path(trainer.args.output_dir), []
    publish, rotate = whole_saves.publish, whole_saves.rotate_checkpoints

    def watched_publish(final):
        seen.append(("publish", checkpoints(output)))
        publish(final)

    def watched_rotate(*args, **kwargs):
        for name in checkpoints(output):
            check_checkpoint(output / name)
        seen.append(("rotate", checkpoints(output)))
        rotate(*args, **kwargs)

    monkeypatch.setattr(whole_saves, "publish", watched_publish)
    monkeypatch.setattr(whole_saves, "rotate_checkpoints", watched_rotate)
    trainer.train()
    one, two, three = ("checkpoint-1", "checkpoint-2", "checkpoint-3")
    assert seen == [
        ("publish", []),
        ("rotate", [one]),
        ("publish", [one]),
        ("rotate", [one, two]),
        ("publish", [two]),
        ("rotate", [two, three]),
    ]
    assert checkpoints(output) == [three] and not (output / publishing.PARTIAL).exists()


def test_best_checkpoint_is_known_by_its_place(make_sft):
    trainer = make_sft(
        max_steps=3, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, save_total_limit=1, **SAVING
    )
    trainer.train()
    output, best = Path(trainer.args.output_dir), f"checkpoint-{trainer.state.best_global_step}"
    assert trainer.state.best_model_checkpoint == str(output / best) and best in checkpoints(output)
    for name in checkpoints(output):
        state = json.loads((output / name / "trainer_state.json").read_text())
        assert Path(state["best_model_checkpoint"]).parent == output
        check_checkpoint(output / name)


def test_failed_save_of_the_model_leaves_the_old_one(make_sft, tmp_path, monkeypatch):
    trainer = make_sft()
    trainer.save_model(str(tmp_path / "model"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with torch.no_grad():
        trainer.model.lm_head.weight.zero_()

    def broken(*args, **kwargs):
        raise ValueError("the tokenizer cannot be written")

    monkeypatch.setattr(type(trainer.processing_class), "save_pretrained", broken)
    with pytest.raises(ValueError, match="cannot be written"):
        trainer.save_model(str(tmp_path / "model"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_two_ranks_write_one_whole_checkpoint_and_resume_from_it(make_grpo, tmp_path):
    def make(steps):
        return make_grpo(max_steps=steps, per_device_train_batch_size=4, num_iterations=2, **SAVING)

    def train():
        trainer = make(1)
        trainer.train()
        checkpoint = checkpoint_to_resume("true", trainer.args.output_dir)
        resumed = make(3)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        return {"checkpoint": str(checkpoint), "weights": resumed.model.state_dict()}

    one, two = launch(train, 2, tmp_path)
    checkpoint = Path(one["checkpoint"])
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    assert {
        f"{kind}_{rank}.{end}" for kind, end in (("rng_state", "pth"), ("rollout_state", "pt")) for rank in (0, 1)
    } <= {*files}
    assert one["checkpoint"] == two["checkpoint"]
    for name, value in one["weights"].items():
        assert torch.equal(two["weights"][name], value), name


# ---- room on the disk -----------------------------------------------------------------------------------------------


def test_estimate_of_a_checkpoint_is_near_its_size(make_grpo):
    trainer = make_grpo(max_steps=1, **SAVING)
    first = checkpoint_bytes(trainer)
    trainer.train()
    after = checkpoint_bytes(trainer)
    weights = bytes_of(Path(trainer.args.output_dir) / "checkpoint-1")
    files = Path(trainer.args.output_dir) / "checkpoint-1"
    tensors = sum((files / name).stat().st_size for name in ("model.safetensors", "optimizer.pt"))
    assert first == pytest.approx(after, rel=0.01)  # Adam's two moments, guessed and counted
    assert 0.95 * tensors < after < 1.1 * tensors < 1.1 * weights


@pytest.mark.parametrize(
    ("options", "copies"),
    [
        ({"save_strategy": "no"}, 0),
        ({"max_steps": 1, **SAVING}, 1),
        ({"max_steps": 9, **SAVING}, 2),
        ({"max_steps": 9, "save_total_limit": 4, **SAVING}, 5),
        ({"max_steps": 3, "save_total_limit": 4, **SAVING}, 3),
    ],
)
def test_run_that_will_not_fit_is_refused_before_its_first_step(make_sft, free, options, copies):
    trainer = make_sft(**options)
    needed = copies * checkpoint_bytes(trainer) + model_bytes(trainer)
    free["now"] = lambda directory: needed - 1
    with pytest.raises(ConfigError) as error:
        trainer.train()
    message = str(error.value)
    assert f"training.output_dir={trainer.args.output_dir!r}" in message and f"{copies} checkpoints" in message
    assert "\n" not in message and trainer.state.global_step == 0
    free["now"] = lambda directory: needed
    assert disk_space.lack_of_room(trainer) is None


def test_full_disk_holds_the_run_until_there_is_room(make_sft, free, monkeypatch):
    monkeypatch.setattr(disk_space, "POLL", 0.001)
    trainer = make_sft(max_steps=2, **SAVING)
    looks = iter([PLENTY, PLENTY, 10, 10, 10])  # at the start, before the first checkpoint, before the second
    free["now"] = lambda directory: next(looks, PLENTY)
    with pytest.warns(UserWarning, match=r"disk full, .*needed, 10 B free; the last whole checkpoint is checkpoint-1"):
        trainer.train()
    assert checkpoints(trainer.args.output_dir) == ["checkpoint-1", "checkpoint-2"]


def test_disk_that_stays_full_ends_the_run_in_one_line(make_sft, free, impatient):
    trainer = make_sft(max_steps=3, **SAVING)
    output = trainer.args.output_dir
    free["now"] = lambda directory: 10 if "checkpoint-2" in checkpoints(output) else PLENTY
    with pytest.warns(UserWarning), pytest.raises(RunError) as error:
        trainer.train()
    message = str(error.value)
    assert "\n" not in message and str(output) in message and "needed, 10 B free" in message
    assert "the last whole checkpoint is checkpoint-2" in message
    assert checkpoints(output) == ["checkpoint-1", "checkpoint-2"]


def test_oldest_checkpoint_makes_room_when_the_limit_lets_it_go_anyway(make_sft, free, impatient):
    trainer = make_sft(max_steps=3, save_total_limit=2, **SAVING)
    output = trainer.args.output_dir
    free["now"] = lambda directory: 10 if checkpoints(output) == ["checkpoint-1", "checkpoint-2"] else PLENTY
    trainer.train()
    assert checkpoints(output) == ["checkpoint-2", "checkpoint-3"]


def test_last_checkpoint_never_makes_room(make_sft, free, impatient):
    trainer = make_sft(max_steps=3, save_total_limit=1, **SAVING)
    output = trainer.args.output_dir
    free["now"] = lambda directory: 10 if checkpoints(output) == ["checkpoint-1"] else PLENTY
    with pytest.warns(UserWarning), pytest.raises(RunError, match="the last whole checkpoint is checkpoint-1"):
        trainer.train()
    check_checkpoint(Path(output) / "checkpoint-1")


def test_write_that_fails_on_a_full_disk_is_repeated(make_sft, free, monkeypatch):
    """The first attempt runs into a disk that somebody else filled meanwhile."""
    trainer, save, failed = make_sft(max_steps=2, **SAVING), torch.save, []
    free["now"] = lambda directory: 10 if failed and directory.name == publishing.PARTIAL else PLENTY

    def full_once(thing, path, *args, **kwargs):
        if Path(path).name == "scheduler.pt" and trainer.state.global_step == 2 and not failed:
            failed.append(path)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(thing, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full_once)
    trainer.train()
    assert failed and checkpoints(trainer.args.output_dir) == ["checkpoint-1", "checkpoint-2"]
    check_checkpoint(Path(trainer.args.output_dir) / "checkpoint-2")


def test_other_errors_of_a_write_are_not_taken_for_a_full_disk(make_sft, monkeypatch):
    trainer = make_sft(max_steps=1, **SAVING)

    def forbidden(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(torch, "save", forbidden)
    with pytest.raises(PermissionError):
        trainer.train()
    assert [path.name for path in Path(trainer.args.output_dir).iterdir()] == []


def test_number_of_an_error_is_found_beneath_others(tmp_path, free):
    for number, expected in ((errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)):
        try:
            try:
                raise OSError(number, "of the file system")
            except OSError as error:
                raise RuntimeError("of the library") from error
        except RuntimeError as error:
            assert (needed_instead(error, tmp_path, 1) is not None) is expected


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own for three checkpoints and a half."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_file_system_is_told_as_such_and_costs_no_checkpoint(make_sft, small_disk, impatient, monkeypatch):
    """The libraries' own errors, where the room was not foreseen to be short."""
    monkeypatch.setattr(whole_saves, "checkpoint_bytes", lambda trainer: 0)
    monkeypatch.setattr(disk_space, "checkpoint_bytes", lambda trainer: 0)
    monkeypatch.setattr(disk_space, "model_bytes", lambda trainer: 0)
    trainer = make_sft(output_dir=str(small_disk / "run"), max_steps=20, **SAVING)
    forgets = property(lambda self: 0, lambda self, value: None)
    monkeypatch.setattr(type(trainer), "_last_bytes", forgets, raising=False)
    with pytest.warns(UserWarning), pytest.raises(RunError, match="disk full") as error:
        trainer.train()
    kept = checkpoints(small_disk / "run")
    assert kept and kept[-1] in str(error.value)
    for name in kept:
        check_checkpoint(small_disk / "run" / name)
    assert not (small_disk / "run" / publishing.PARTIAL).exists()
