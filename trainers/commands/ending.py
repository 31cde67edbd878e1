"""How a command ends: one line on stderr for what went wrong, and an exit status that tells what kind it was."""

import os
import sys
import warnings
from collections.abc import Callable

from trainers.faults.endings import RunError, RunStopped
from trainers.settings.options import ConfigError

Words = list[str]


def quiet_libraries() -> None:
    """No loading bars, and no deprecation notes that are addressed to TRL's authors; before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' too
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")


def main_or_one_line(main: Callable[[Words], None]) -> None:
    """Run a command's main. One line on stderr and no traceback: a configuration error, exit status 2; what ended a
    run before its time, status 1; a run that was asked to stop, status 75.

    Of several ranks the failing ones speak, each with its number; torchrun's last words are those of the first one to
    fail, a traceback included if that is what it was.
    """
    quiet_libraries()
    rank = int(os.environ.get("RANK", "0"))

    def say(kind: str, error: BaseException | str) -> None:
        print(
            f"{kind}{f' (rank {rank})' if rank else ''}: {' '.join(str(error).split())}", file=sys.stderr, flush=True
        )

    try:
        _recorded(main)(sys.argv[1:])
    except ConfigError as error:
        say("error", error)
        raise SystemExit(2) from None
    except RunError as error:
        if rank == 0 or not error.shared:
            say("error", error)
        raise SystemExit(1) from None
    except RunStopped as stopped:
        if rank == 0:
            say("stopped", stopped.message)
        raise


def _recorded(main: Callable[[Words], None]) -> Callable[[Words], None]:
    """Under torchrun, what fails is written where the launcher looks for it."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return main
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(main)
