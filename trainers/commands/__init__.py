"""How every command of `scripts/` begins and ends: its own options, its config's, its help, one line for what went
wrong.

Nothing here takes long to import. A command reads its command line first and imports torch, transformers and TRL
afterwards: a typo, a missing file and `--help` are answered at once.

    console.py       `trajectory-nelbo COMMAND`, which runs a script
    program.py       how this process was called
    options.py       the words and options of one command; checks.py: what an option's text must be
    help.py          what `--help` prints, by `layout.py` in two columns
    ending.py        one line on stderr and the exit status
"""

from trainers.commands.checks import at_least as at_least
from trainers.commands.checks import make_folder as make_folder
from trainers.commands.ending import main_or_one_line as main_or_one_line
from trainers.commands.ending import quiet_libraries as quiet_libraries
from trainers.commands.options import OptionParser as OptionParser
from trainers.commands.program import command_line as command_line
