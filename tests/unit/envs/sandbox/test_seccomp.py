"""Which system calls experiments may make, for both architectures, by the numbers of the kernel's headers."""

import pytest

from envs.sandbox import seccomp

# read, openat, mmap, exit_group, futex, execve, memfd_create; unshare, mount, keyctl, userfaultfd, bpf, mq_open
KNOWN = {
    "x86_64": ((0, 257, 9, 231, 202, 59, 319), (272, 165, 250, 323, 321, 240)),
    "aarch64": ((63, 56, 222, 94, 98, 221, 279), (97, 40, 219, 282, 280, 180)),
}


def decide(machine: str, number: int, arguments: tuple[int, ...] = (0,) * 6, program: list | None = None) -> int:
    """Runs the program as the kernel does; a wrong jump raises."""
    data = {seccomp.NUMBER: number, seccomp.ARCHITECTURE: seccomp.ARCHITECTURES[machine]}
    data |= {seccomp.ARGUMENTS + 8 * index: value for index, value in enumerate(arguments)}
    at, loaded = 0, 0
    program = program or seccomp.program(machine, guarded=False, counted=False)
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == seccomp.RETURN:
            return operand
        if code == seccomp.LOAD:
            loaded = data[operand]
        else:
            holds = {
                seccomp.EQUAL: loaded == operand, seccomp.GREATER: loaded > operand,
                seccomp.ATLEAST: loaded >= operand, seccomp.ANY_OF: bool(loaded & operand),
            }[code]  # fmt: skip
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", seccomp.ALLOWED)
def test_what_a_script_needs_is_allowed_and_what_it_could_abuse_is_not(machine: str) -> None:
    allowed, refused = KNOWN[machine]
    assert {decide(machine, number) for number in allowed} == {seccomp.ALLOW}
    assert {decide(machine, number) for number in refused} == {seccomp.REFUSE}
    listed = {number for low, high in seccomp.spans(seccomp.ALLOWED[machine]) for number in range(low, high + 1)}
    names = ("clone", "personality", "prlimit64", "socket", "shmget", "semget", "msgget")
    by_arguments = {seccomp.NUMBERS[machine][name] for name in names}
    for number in range(seccomp.LAST + 1):
        if number not in by_arguments | {seccomp.CLONE3}:
            assert decide(machine, number) == (seccomp.ALLOW if number in listed else seccomp.REFUSE), number
    assert decide(machine, seccomp.LAST + 1) == decide(machine, seccomp.CLONE3) == seccomp.UNKNOWN


@pytest.mark.parametrize("machine", seccomp.ALLOWED)
def test_arguments_decide_where_a_call_is_both(machine: str) -> None:
    number = seccomp.NUMBERS[machine]
    assert decide(machine, number["clone"], (0x3D0F00,)) == seccomp.ALLOW  # a thread
    assert decide(machine, number["clone"], (0x10000011,)) == seccomp.REFUSE
    families = {family: decide(machine, number["socket"], (family, 0, 0)) for family in range(64)}
    assert [family for family, found in families.items() if found == seccomp.ALLOW] == [1, 2, 10, 16]
    assert decide(machine, number["socket"], (16, 3, 9)) == seccomp.REFUSE
    assert decide(machine, number["prlimit64"], (0,)) == seccomp.ALLOW
    assert decide(machine, number["prlimit64"], (1,)) == seccomp.REFUSE


@pytest.mark.parametrize("machine", seccomp.ALLOWED)
def test_where_memory_is_counted_there_is_none_that_shows_nowhere(machine: str) -> None:
    number, countable = seccomp.NUMBERS[machine], seccomp.countable(machine)

    def refused(name: str, *arguments: int) -> bool:
        return decide(machine, number[name], arguments, countable) == seccomp.REFUSE

    assert refused("memfd_create") and refused("vmsplice") and refused("kcmp")
    assert decide(machine, seccomp.MEMFD_SECRET, program=countable) == seccomp.REFUSE
    assert refused("mmap", 0, 0, 3, 0x21) and refused("mmap", 0, 0, 3, 0x23)
    assert not refused("mmap", 0, 0, 3, 0x22) and not refused("mmap", 0, 0, 3, 0x01)
    assert decide(machine, number["setsockopt"], (3, 1, 7), countable) == seccomp.IGNORE
    assert decide(machine, number["setsockopt"], (3, 1, 8), countable) == seccomp.IGNORE
    assert refused("setsockopt", 3, 1, 60)
    assert {decide(machine, number["setsockopt"], (3, *option), countable) for option in ((1, 2), (6, 7))} == {
        seccomp.ALLOW
    }
    assert decide(machine, number["clone"], program=countable) == seccomp.ALLOW, "the other filter decides"
    ordinary, own = (seccomp.program(machine, guarded=False, counted=counted) for counted in (False, True))
    assert decide(machine, number["shmget"], program=own) == decide(machine, number["kcmp"], program=ordinary)
    assert decide(machine, number["kcmp"], program=own) == seccomp.ALLOW, "the runner tells borrowed memory apart"
