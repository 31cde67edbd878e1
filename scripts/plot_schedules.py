"""Draw every alpha schedule: visible share, mask probability and NELBO weights on the closed grid.

    python scripts/plot_schedules.py [--steps 128] [--alpha_min 0.01] [--alpha_max 0.99] [--output schedules.png]

Prints check values (cosine with the defaults: alpha is .99, .9527, .8465, .5, .1535, .01) and writes the picture. The
closing levels, t = -1 (clean) and t = T + 1 (all masked), are hollow markers.
"""

from trainers.commands import OptionParser, main_or_one_line
from trainers.settings.options import ConfigError


def main(argv: list[str]) -> None:
    """Write the picture of all schedules and print their check values."""
    parser = OptionParser(__doc__)
    parser.add_argument("--steps", type=int, default=128, help="T, the number of denoising steps (default 128)")
    parser.add_argument("--alpha_min", type=float, default=0.01, help="visible share at t = T (default 0.01)")
    parser.add_argument("--alpha_max", type=float, default=0.99, help="visible share at t = 0 (default 0.99)")
    parser.add_argument("--output", default="schedules.png", help="picture to write (default schedules.png)")
    options = parser.parse_args(argv)

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
