"""A whole checkpoint passes; of a damaged one the bad file is named in one line before any work is done."""

import shutil
import zipfile

import pytest

from trainers.faults.manifest import write_manifest
from trainers.saving.checkpoints import check_checkpoint, checkpoint_to_resume
from trainers.settings.options import ConfigError

MANIFEST = "manifest.json"
FILES = (
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "trainer_state.json",
    "rollout_state_0.pt",
    "rng_state.pth",
)
CACHE = {}


@pytest.fixture(params=[True, False], ids=["manifest", "no manifest"])
def checkpoint(make_grpo, tmp_path, tmp_path_factory, request):
    """A fresh copy of a checkpoint that the trainer wrote; without its manifest it is like one of TRL's own."""
    if "source" not in CACHE:
        output = tmp_path_factory.mktemp("trained")
        make_grpo(output_dir=str(output), max_steps=1, num_iterations=2, save_strategy="steps", save_steps=1).train()
        CACHE["source"] = output / "checkpoint-1"
    copy = shutil.copytree(CACHE["source"], tmp_path / "checkpoint-1")
    if not request.param:
        (copy / MANIFEST).unlink()
    return copy


def message_of(call):
    with pytest.raises(ConfigError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_checkpoint_of_the_trainer_is_whole(checkpoint):
    assert all((checkpoint / name).is_file() for name in FILES)
    check_checkpoint(checkpoint)
    assert checkpoint_to_resume(str(checkpoint), "unused") == checkpoint


# the rollout buffer is one of GRPO's and not of SFT's: the trainer itself asks for it (test_resuming)
@pytest.mark.parametrize("name", sorted({*FILES} - {"rollout_state_0.pt"}))
def test_missing_file_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    message = message_of(lambda: check_checkpoint(checkpoint))
    assert str(checkpoint) in message and name in message


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_named(checkpoint, name, keep):
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    message = message_of(lambda: check_checkpoint(checkpoint))
    assert f"{name} is damaged" in message and str(checkpoint) in message
    assert "resume from another checkpoint" in message


@pytest.mark.parametrize("name", FILES)
def test_overwritten_file_is_named(checkpoint, name):
    (checkpoint / name).write_bytes(b"\xff" * (checkpoint / name).stat().st_size)
    assert f"{name} is damaged" in message_of(lambda: check_checkpoint(checkpoint))


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith((".pt", ".pth"))])
def test_flipped_byte_of_an_archive_is_named(checkpoint, name):
    with zipfile.ZipFile(checkpoint / name) as archive:
        largest = max(archive.namelist(), key=lambda member: archive.getinfo(member).file_size)
        inside = archive.read(largest)
    content = bytearray((checkpoint / name).read_bytes())
    content[content.index(inside) + len(inside) // 2] ^= 0xFF
    (checkpoint / name).write_bytes(bytes(content))
    assert f"{name} is damaged" in message_of(lambda: check_checkpoint(checkpoint))


def test_missing_shard_of_sharded_weights_is_named(make_policy, checkpoint):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / MANIFEST).unlink(missing_ok=True)  # of other weights
    make_policy().model.save_pretrained(checkpoint, max_shard_size="50KB")
    shards = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(shards) > 1
    check_checkpoint(checkpoint)
    whole = shards[-1].read_bytes()
    shards[-1].write_bytes(whole[: len(whole) // 2])
    assert f"{shards[-1].name} is damaged" in message_of(lambda: check_checkpoint(checkpoint))
    shards[-1].unlink()
    assert f"{shards[-1].name} is missing" in message_of(lambda: check_checkpoint(checkpoint))


@pytest.mark.parametrize("checkpoint", [True], indirect=True)
@pytest.mark.parametrize("name", [*FILES, "config.json", "tokenizer.json", "training_args.bin"])
def test_any_flipped_byte_is_named_with_a_manifest(checkpoint, name):
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / name).write_bytes(bytes(content))
    assert f"{name} is damaged" in message_of(lambda: check_checkpoint(checkpoint))


@pytest.mark.parametrize("checkpoint", [True], indirect=True)
def test_damaged_manifest_is_named_and_an_edited_card_is_no_damage(checkpoint):
    (checkpoint / "README.md").write_text("my notes")
    check_checkpoint(checkpoint)
    content = (checkpoint / MANIFEST).read_text()
    for damaged in (content[: len(content) // 2], "[]", "{}"):
        (checkpoint / MANIFEST).write_text(damaged)
        assert f"{MANIFEST} is damaged" in message_of(lambda: check_checkpoint(checkpoint))


@pytest.mark.parametrize("checkpoint", [True], indirect=True)
def test_model_without_a_training_state_is_no_checkpoint_to_resume(checkpoint):
    for name, missing in (("trainer_state.json", "trainer_state.json"), ("rng_state.pth", "rng_state.pth")):
        (checkpoint / name).unlink()
        write_manifest(checkpoint)
        assert f"{missing} is missing" in message_of(lambda: check_checkpoint(checkpoint))
        shutil.copy(CACHE["source"] / name, checkpoint / name)


def test_true_names_the_damaged_last_checkpoint_and_takes_the_one_before(checkpoint, tmp_path):
    for step in (2, 3):
        torn = shutil.copytree(checkpoint, tmp_path / f"checkpoint-{step}") / "optimizer.pt"
        torn.write_bytes(torn.read_bytes()[:-10])
    for wanted in ("true", "auto"):
        with pytest.warns(UserWarning) as caught:
            assert checkpoint_to_resume(wanted, str(tmp_path)) == checkpoint
        told = [str(warning.message) for warning in caught]
        assert len(told) == 2 and "checkpoint-3: optimizer.pt is damaged" in told[0] and "checkpoint-1" in told[0]
    message = message_of(lambda: checkpoint_to_resume(str(tmp_path / "checkpoint-3"), str(tmp_path)))
    assert "optimizer.pt is damaged" in message
    (checkpoint / "scheduler.pt").unlink()
    message = message_of(lambda: checkpoint_to_resume("auto", str(tmp_path)))
    assert "no whole checkpoint" in message and "checkpoint-1: scheduler.pt is missing" in message


def test_auto_without_any_checkpoint_is_the_beginning(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        assert checkpoint_to_resume("auto", str(directory)) is None


def test_true_means_the_last_checkpoint_by_number(checkpoint, tmp_path):
    for step in (2, 9, 10):
        shutil.copytree(checkpoint, tmp_path / f"checkpoint-{step}")
    for spelling in ("true", "True"):
        assert checkpoint_to_resume(spelling, str(tmp_path)) == tmp_path / "checkpoint-10"


def test_true_without_any_checkpoint_is_one_line(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        message = message_of(lambda directory=directory: checkpoint_to_resume("true", str(directory)))
        assert (
            "training.resume_from_checkpoint=true" in message and f"training.output_dir={str(directory)!r}" in message
        )


def test_directory_that_is_none_is_one_line(tmp_path):
    message = message_of(lambda: checkpoint_to_resume(str(tmp_path / "gone"), "unused"))
    assert "training.resume_from_checkpoint" in message and "gone" in message and "'true'" in message
