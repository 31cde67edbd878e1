"""Draw the noise schedules, and what follows from them.

    python scripts/plot_schedules.py --steps 128 --output schedules.png

Visible share, mask probability and NELBO weights on the closed grid. Prints check values (cosine with the defaults:
alpha is .99, .9527, .8465, .5, .1535, .01) and writes the picture. The closing levels, t = -1 (clean) and t = T + 1
(all masked), are hollow markers.
"""

from trainers.commands import OptionParser, main_or_one_line
from trainers.settings.options import ConfigError


def main(argv: list[str]) -> None:
    """Write the picture of all schedules and print their check values."""
    parser = OptionParser(__doc__)
    parser.add_argument("--steps", type=int, default=128, help="The number T of denoising steps.")
    parser.add_argument("--alpha_min", type=float, default=0.01, help="Visible share at t = T.")
    parser.add_argument("--alpha_max", type=float, default=0.99, help="Visible share at t = 0.")
    parser.add_argument("--output", default="schedules.png", metavar="FILE", help="Picture to write.")
    options, _ = parser.parse(argv)

    # only now: these take seconds to import, which a typo does not wait for
    from core import SCHEDULES, AlphaSchedule
    from trainers.reporting.schedules import draw, print_check_values

    try:
        schedules = [AlphaSchedule(name, options.steps, options.alpha_min, options.alpha_max) for name in SCHEDULES]
        draw(schedules).savefig(options.output)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    print_check_values(schedules)
    print(f"picture: {options.output}")


if __name__ == "__main__":
    main_or_one_line(main)
