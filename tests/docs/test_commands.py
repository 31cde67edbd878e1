"""Every command that a text shows is read by its own parser, and the first of each kind is run with small sizes.

All ```bash blocks go through bash (tests/helpers/recorded.py). Each command of this project in them is started, with
its config, up to the point where it would begin to work (tests/helpers/shown.py). Then the first one of each kind is
run: of train one for each config, of the others one each. tests/helpers/shortened.py has the sizes, and the reasons of
those that cannot run here.
"""

import pytest
from documents import Block, blocks
from recorded import Call, calls
from running import fork
from shortened import kinds, lacking, shrunk, started
from shown import Command, commands_in, flaws

BASH = blocks("bash")


@pytest.fixture(scope="session")
def shown(workspace) -> dict[Block, list[Command] | str]:
    """Block -> its commands, or what is wrong with it."""
    found: dict[Block, list[Command] | str] = {}
    for block in BASH:
        try:
            found[block] = [command for call in calls(block.text, workspace) for command in commands_in(call)]
        except AssertionError as error:
            found[block] = str(error)
    return found


@pytest.fixture(scope="session")
def said(shown, workspace) -> dict[Command, str]:
    """Command -> what its parser says against it."""
    commands = list(dict.fromkeys(command for one in shown.values() if isinstance(one, list) for command in one))
    return dict(zip(commands, flaws(commands, workspace), strict=True))


@pytest.mark.parametrize("block", BASH, ids=str)
def test_commands_and_their_options_are_read(block, shown, said):
    commands = shown[block]
    assert isinstance(commands, list), commands
    wrong = [f"{command}\n    {said[command].strip()}" for command in commands if said[command]]
    assert not wrong, "\n".join(wrong)


def test_the_first_command_of_each_kind_runs(shown, said, workspace):
    able = [command for command, flaw in said.items() if not flaw and lacking(command, workspace) is None]
    assert able, "no text shows a command that could be run here"
    failed = []
    for command in kinds(able):
        try:
            fork(f"{command.script}.py", *started(command, workspace), cwd=workspace)
        except AssertionError as error:
            failed.append(f"{command}\n{error}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("python scripts/train.py CONFIG --los.alpha_min 0.1", "unknown setting 'los.alpha_min'"),
        ("W='--max_steps 2.5'\npython scripts/train.py CONFIG $W", "training.max_steps: expected a whole number"),
        ("torchrun --nproc_per_node 2 scripts/evaluate.py CONFIG --limit many", "'many' is not a whole number"),
        ("make train ARGS='--loss.alpha_schedule sine'", "loss.alpha_schedule='sine': expected one of"),
        ("trajectory-nelbo plan MODEL 8xH100", "expected MODEL GPUS BUDGET"),
        ("python scripts/train.py nowhere.yaml", "config file nowhere.yaml"),
        (
            "python scripts/train.py CONFIG && python scripts/generate.py \\\n    CONFIG --seed 0 OPTIONS",
            "training.seed",
        ),
    ],
)
def test_a_wrong_option_is_found(text, flaw, workspace):
    commands = [command for call in calls(text, workspace) for command in commands_in(call)]
    assert flaw in flaws(commands, workspace)[-1]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("python scripts/trian.py CONFIG", "no such file"),
        ("accelerate launch --config_file configs/accelerate/gone.yaml scripts/train.py CONFIG", "no such file"),
        ("make trian", "trian"),
        ("pip install '.[hraness]'", "no extra hraness"),
        ("trajectory-nelbo trian CONFIG", "no such command"),
        ("curl example.org", "curl"),
    ],
)
def test_what_is_not_there_is_found(text, named, workspace):
    with pytest.raises(AssertionError, match=named):
        for call in calls(text, workspace):
            commands_in(call)


def test_words_are_those_that_bash_passes_on(workspace):
    text = "A='--seed 1'\nB=x python scripts/train.py a.yaml $A \\\n  --task.options '{\"n\": 2}'  # a remark\n"
    (call,) = calls(text, workspace)
    assert call == Call(("python", "scripts/train.py", "a.yaml", "--seed", "1", "--task.options", '{"n": 2}'))


def test_a_config_by_its_name_is_the_config():
    commands = [
        Command("train", (name, "--seed", "1")) for name in ("sft_gsm8k", "configs/sft_gsm8k.yaml", "vrpo_gsm8k")
    ]
    assert kinds(commands) == [commands[0], commands[2]]


def test_sizes_take_the_place_of_those_that_a_command_has():
    words = ("configs/trajectory_nelbo_gsm8k.yaml", "--max_steps", "1000", "--task.test_size", "9", "--seed", "3")
    short = shrunk(Command("train", words))
    assert short[:3] == ["configs/trajectory_nelbo_gsm8k.yaml", "--seed", "3"]
    assert short.count("--training.max_steps") == 1 and "1000" not in short and "9" not in short
