"""List the configs of the package, or print where one is.

    python scripts/configs.py
    python scripts/configs.py trajectory_nelbo_gsm8k

A name stands for its file wherever a config is expected, and a file of yours with that path goes first. To change more
than a few settings, copy it; launchers need the path too:

    cp $(trajectory-nelbo configs trajectory_nelbo_gsm8k) mine.yaml
    accelerate launch --config_file $(trajectory-nelbo configs accelerate/fsdp2) --no_python \
        trajectory-nelbo train mine.yaml
"""

from pathlib import Path

from trainers.commands import OptionParser, main_or_one_line
from trainers.commands.layout import entry, show
from trainers.settings.shipped import find_config, shipped


def main(argv: list[str]) -> None:
    """Print every name with the first line of its file, or the path of one."""
    own = OptionParser(__doc__)
    own.add_word("NAME", "Of a config. Unset: list them all.", type=find_config, optional=True)
    options, _ = own.parse(argv)
    if options.name is not None:
        print(options.name)
        return
    named = sorted(shipped().items(), key=lambda row: ("/" in row[0], row[0]))
    show("\n".join(entry(name, about(path)) for name, path in named))


def about(path: Path) -> str:
    """The first sentence of the comment that a file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in lines[: first_setting(lines)])
    return comment.partition(". ")[0].removesuffix(".")


def first_setting(lines: list[str]) -> int:
    """The number of the first line that is no comment."""
    return next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))


if __name__ == "__main__":
    main_or_one_line(main)
