"""What a person sees.

`console` writes lines while a run goes, `held_out` and `terminal_table` those at its end. `report` puts report.md
together from `markdown`, `tables` and `curves`, which read the log by `history` and draw with `figures`. `denoising`
shows a canvas, `schedules` the noise schedules. Imports evaluating, rewarding and saving.
"""
