"""What fails in a checkpoint's own code: where, and under which versions."""

import traceback
from pathlib import Path
from types import TracebackType

import transformers
from transformers import dynamic_module_utils

# what code raises that expects another transformers; others are raised for damaged weights as well
OF_CODE = (AttributeError, TypeError, NameError, NotImplementedError, AssertionError, ImportError, SyntaxError)
LIBRARIES = ("torch", "einops", "jaxtyping")  # they raise for who called them


def own_frame(error: BaseException) -> str:
    """Where a checkpoint's own code was when an error was raised, as "file.py, line 7"; empty: it was not running."""
    return next((_said(frame) for frame in reversed(_frames(error.__traceback__)) if _own(frame)), "")


def failure(error: BaseException, written_with: str | None = None) -> str:
    """That, where and under which versions a checkpoint's own code does not run; empty: something else is wrong.

    Args:
        error: what was raised while a checkpoint with code of its own was loaded or run.
        written_with: the version of transformers that its config names.
    """
    frames = [frame for frame in _frames(error.__traceback__) if not _of_library(frame)]
    raised = frames[-1] if frames else None
    if not isinstance(error, OF_CODE) and not (raised and _own(raised)):
        return ""
    if isinstance(error, ImportError) and "packages that were not found" in str(error):
        return f"its own code cannot be imported: {' '.join(str(error).split())}"
    written = f", it was written with {written_with}" if written_with else ""
    place = own_frame(error) or (_said(raised) if raised else "")
    return (
        f"its own code does not run under transformers {transformers.__version__}{written}: {place}: "
        f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    )


def _frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(trace))


def _own(frame: traceback.FrameSummary) -> bool:
    return Path(frame.filename).is_relative_to(dynamic_module_utils.HF_MODULES_CACHE)


def _of_library(frame: traceback.FrameSummary) -> bool:
    return any(name in Path(frame.filename).parts for name in LIBRARIES)


def _said(frame: traceback.FrameSummary) -> str:
    return f"{Path(frame.filename).name}, line {frame.lineno}"
