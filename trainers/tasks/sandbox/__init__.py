"""A sandbox for Python that a model wrote: docs/sandbox.md says what it promises. It imports the standard library
alone."""

from trainers.tasks.sandbox.probing import GUARANTEES as GUARANTEES
from trainers.tasks.sandbox.probing import open_sandbox as open_sandbox
from trainers.tasks.sandbox.records import Limits as Limits
from trainers.tasks.sandbox.records import Outcome as Outcome
from trainers.tasks.sandbox.records import Run as Run
from trainers.tasks.sandbox.records import SandboxError as SandboxError
from trainers.tasks.sandbox.records import UnitTests as UnitTests
from trainers.tasks.sandbox.runner import Runner as Runner
