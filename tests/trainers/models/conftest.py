"""Stand-ins whose code was changed."""

import pytest


@pytest.fixture
def edited(stand_in, tmp_path):
    """A stand-in's directory with something of its code exchanged."""

    def build(name, file, old, new):
        directory, _ = stand_in(name)
        for path in directory.iterdir():
            text = path.read_bytes()
            if path.name == file:
                assert old.encode() in text
                text = text.replace(old.encode(), new.encode())
            (tmp_path / path.name).write_bytes(text)
        return tmp_path

    return build
