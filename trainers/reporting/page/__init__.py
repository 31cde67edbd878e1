"""report.html: one file with a run's curves, rollouts, and completions played step by step; it needs no network.

`document` puts the page together from the files in assets/ and one JSON value, in which nothing can end the script
that holds it. `content` says what is in that value: `panels` the curves, `rollouts` the recorded groups, `solved` the
held-out problems, each within a `budget` of bytes. What the browser does with it is in assets/*.js.
"""
