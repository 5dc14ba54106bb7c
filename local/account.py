"""The unprivileged account of the embedded stores, and the preparation of a child between fork and exec."""

import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 4
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Account:
    """A Unix account: its user id and group id."""

    uid: int
    gid: int

    def own(self, path: Path) -> None:
        """Change the owner of `path` and its contents to the account, unless it owns `path` already."""
        if path.stat().st_uid == self.uid:
            return
        for folder, _, names in os.walk(path):
            for entry in (folder, *(os.path.join(folder, name) for name in names)):
                os.chown(entry, self.uid, self.gid, follow_symlinks=False)


def unprivileged() -> Account | None:
    """Return `nobody` if this process runs as root, since Postgres refuses root; None otherwise."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65534, 65534)
    return Account(nobody.pw_uid, nobody.pw_gid)


def preparation(on_death: signal.Signals) -> Callable[[], None]:
    """Return a `preexec_fn` that detaches a child from the terminal, from root and from this process's death.

    The kernel sends the child the signal `on_death` when this process dies, on Linux only.
    """
    parent = os.getpid()
    account = unprivileged()

    def prepare() -> None:
        os.setsid()  # Ctrl-C must reach the server only, which then stops its stores in order
        os.umask(0o077)
        if account is not None:
            _become(account)
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(on_death), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)  # the parent died before the call above, which then sends nothing

    return prepare


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _become(account: Account) -> None:
    """Change to the account permanently, but keep the capability CAP_DAC_OVERRIDE.

    The binaries and the data may be below a folder that only root may enter, such as /root or a temporary
    folder. Opening those folders to everybody would be worse. The secure bit makes access(2), which Postgres
    calls for its own binary, honour the capability. If the kernel or a container forbids this, the account
    has only its own rights.
    """
    # Before `setuid`: without root, a process may not set the secure bits.
    keeps = _libc is not None and _libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0
    os.setgroups([])
    os.setgid(account.gid)
    os.setuid(account.uid)
    if keeps and _libc is not None:
        header = _Header(_CAPABILITY_VERSION_3, 0)
        bit = 1 << _CAP_DAC_OVERRIDE
        one, none = (_Capabilities * 2)(), (_Capabilities * 2)()
        one[0] = _Capabilities(bit, bit, bit)
        if _libc.capset(ctypes.byref(header), one) == 0:
            _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)
        # The secure bit left all of root's capabilities: if they cannot be dropped, the child must not run.
        elif _libc.capset(ctypes.byref(header), none) != 0:
            os._exit(1)
