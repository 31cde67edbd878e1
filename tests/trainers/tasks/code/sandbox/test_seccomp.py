"""The filter of system calls, run on every number."""

import struct

import pytest

from trainers.tasks.code.sandbox import seccomp


def decide(code: list[seccomp.Instruction], machine: str, number: int, first: int = 0, second: int = 0) -> int:
    """What a filter answers: classic BPF, by hand."""
    data = struct.pack("<IIQQQ", number, seccomp.AUDIT_ARCHITECTURES[machine], 0, first, second)
    at, value = 0, 0
    while True:
        operation, yes, no, constant = code[at]
        at += 1
        if operation == seccomp.LOAD:
            (value,) = struct.unpack_from("<I", data, constant)
        elif operation == seccomp.RETURN:
            return constant
        else:
            true = {
                seccomp.JUMP_EQUAL: value == constant,
                seccomp.JUMP_ABOVE: value > constant,
                seccomp.JUMP_BITS: bool(value & constant),
            }[operation]
            at += yes if true else no


@pytest.mark.parametrize("machine", seccomp.AUDIT_ARCHITECTURES)
@pytest.mark.parametrize(("processes", "threads"), [(False, False), (False, True), (True, True)])
def test_the_filter_refuses_what_the_table_lists_and_nothing_else(machine, processes, threads):
    column = list(seccomp.AUDIT_ARCHITECTURES).index(machine)
    code = seccomp.program(machine, 77, processes, threads)
    eperm, enosys = seccomp.FAIL | 1, seccomp.FAIL | 38

    def answer(call, *arguments):
        return decide(code, machine, call[column], *arguments)

    denied = {call[column] for call in seccomp.DENIED.values()} - {None}
    special = {
        seccomp.KILL,
        seccomp.TGKILL,
        seccomp.PRLIMIT,
        seccomp.CLONE,
        seccomp.CLONE3,
        seccomp.FORK,
        seccomp.VFORK,
    }
    special |= set(seccomp.OWNER_OF_SIGNALS)
    unlisted = set(range(seccomp.LAST_KNOWN + 1)) - denied - {call[column] for call in special}
    assert {decide(code, machine, number) for number in denied} == {eperm}
    assert {decide(code, machine, number) for number in unlisted} == {seccomp.ALLOW}
    assert {decide(code, machine, number) for number in (463, 1000, 1 << 30, (1 << 30) + 41)} == {enosys}
    for call in (seccomp.KILL, seccomp.TGKILL):
        assert [answer(call, pid) for pid in (77, 1, 76, 0, 2**32 - 1)] == [seccomp.ALLOW, *[eperm] * 4]
    assert [answer(seccomp.PRLIMIT, pid) for pid in (0, 77, 1)] == [seccomp.ALLOW, seccomp.ALLOW, eperm]
    assert [answer(seccomp.FCNTL, 0, command) for command in (1, 8, 10, 15, 9)] == [
        seccomp.ALLOW, eperm, eperm, eperm, seccomp.ALLOW,
    ]  # fmt: skip
    assert [answer(seccomp.IOCTL, 0, command) for command in (0x5401, 0x8901, 0x8902)] == [seccomp.ALLOW, eperm, eperm]
    as_thread, as_process = 0x3D0F00, 17  # what glibc passes for a thread and for fork
    assert answer(seccomp.CLONE, as_thread) == (seccomp.ALLOW if threads else eperm)
    assert answer(seccomp.CLONE, as_process) == (seccomp.ALLOW if processes else eperm)
    assert answer(seccomp.CLONE, as_process | 1 << 28) == eperm
    assert answer(seccomp.CLONE3) == enosys
    other = next(name for name in seccomp.AUDIT_ARCHITECTURES if name != machine)
    assert decide(code, other, unlisted.pop()) == seccomp.KILL_PROCESS


def test_an_architecture_without_a_table_is_an_error():
    with pytest.raises(OSError, match="riscv64"):
        seccomp.program("riscv64", 1, False, False)
