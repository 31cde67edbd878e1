"""Who asks whether a checkpoint is whole does not wait for torch."""

import subprocess
import sys

import pytest
from paths import REPO


@pytest.mark.parametrize("module", ["trainers.faults", "trainers.faults.manifest", "trainers.faults.publishing"])
def test_what_is_on_disk_is_read_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False).returncode == 0
