"""The account that the embedded stores run as, and what a child does between fork and exec."""

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
    """An account by its numbers."""

    uid: int
    gid: int

    def own(self, path: Path) -> None:
        """Give `path` and all in it to the account, where it is not its own yet."""
        if path.stat().st_uid == self.uid:
            return
        for folder, _, names in os.walk(path):
            for entry in (folder, *(os.path.join(folder, name) for name in names)):
                os.chown(entry, self.uid, self.gid, follow_symlinks=False)


def unprivileged() -> Account | None:
    """Return `nobody` for root, since Postgres refuses to be root, and None for everybody else."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65534, 65534)
    return Account(nobody.pw_uid, nobody.pw_gid)


def preparation(on_death: signal.Signals) -> Callable[[], None]:
    """Return what a child shall do before exec: leave the terminal, leave root, follow its parent.

    `on_death` is what the kernel sends the child when this process dies; Linux only.
    """
    parent = os.getpid()
    account = unprivileged()

    def prepare() -> None:
        os.setsid()  # Ctrl-C is for the server, which then stops its stores in order
        os.umask(0o077)
        if account is not None:
            _become(account)
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(on_death), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)  # it died before the line above

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
    """Change to the account for good, but keep root's way through closed folders.

    The binaries and the data may lie below a folder that only root may enter (/root, a temporary
    folder), and opening those folders for all would be worse. The secure bit makes access(2), which
    Postgres asks about its own binary, see the capability too. Where the kernel or a container
    forbids this, the account simply has no more than its own rights.
    """
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
        elif _libc.capset(ctypes.byref(header), none) != 0:
            os._exit(1)
