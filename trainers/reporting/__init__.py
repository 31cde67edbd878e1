"""What a person sees.

`header` (with `batches`) stands above a run, `console` writes lines while it goes, `held_out` and `terminal_table` at
its end. `report` puts report.md together from `markdown`, `tables` and `curves`, which read the log by `history` and
draw with `figures`. `denoising` shows a canvas, `schedules` the noise schedules. Imports evaluating, rewarding,
saving, models and settings.
"""
