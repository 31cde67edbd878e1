"""A sandbox for Python that a model wrote: docs/sandbox.md says what it promises. It imports the standard library
alone."""

from trainers.tasks.code.sandbox.opening import open_sandbox as open_sandbox
from trainers.tasks.code.sandbox.probing import GUARANTEES as GUARANTEES
from trainers.tasks.code.sandbox.records import Limits as Limits
from trainers.tasks.code.sandbox.records import Outcome as Outcome
from trainers.tasks.code.sandbox.records import Run as Run
from trainers.tasks.code.sandbox.records import SandboxError as SandboxError
from trainers.tasks.code.sandbox.records import UnitTests as UnitTests
from trainers.tasks.code.sandbox.runner import Runner as Runner
