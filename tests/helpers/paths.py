"""Where things are in this repository, wherever a test of it stands."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "configs"
SCRIPTS = REPO / "scripts"
DATA = REPO.parent / "shared" / "data"  # real GSM8K and SVAMP; tests that read them are skipped where it is absent
