"""What `make build` made is what Lambda can run. `make deploy-check` runs this; it needs the build."""

import importlib.util
import json
import re
import shutil
import struct
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.deploy.templates import ROOT, load, of_type

BUILD = ROOT / ".aws-sam/build"
LAYER = BUILD / "CommonLayer/python"
AARCH64 = 183
# Lambda's bound for a function with all its layers, unzipped; the adapter's layer needs some of it.
LIMIT = 250 * 1024 * 1024 - 10 * 1024 * 1024


def machine(path: Path) -> int:
    """Return e_machine of an ELF file."""
    head = path.read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    return int(struct.unpack_from("<H", head, 18)[0])


def test_every_library_is_for_the_functions_processor() -> None:
    libraries = [path for path in LAYER.rglob("*") if ".so" in path.suffixes]
    assert len(libraries) > 15
    assert {path.name for path in libraries if machine(path) != AARCH64} == set()


def test_the_layer_carries_parley_whole() -> None:
    source = ROOT / "layers/common/parley"
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (LAYER / "parley" / path.relative_to(source)).read_bytes() == path.read_bytes()


def locked() -> dict[str, tuple[str, str]]:
    """Return the version and the lines of each package of the layer's lock."""
    text = (ROOT / "layers/common/requirements.txt").read_text("utf-8")
    found = re.finditer(r"^([\w.-]+)(?:\[[^\]]*\])?==(\S+)[^\n]*\n(?: .*\n)*", text, re.MULTILINE)
    return {canonicalize_name(item[1]): (item[2], item[0]) for item in found}


def test_the_layer_has_the_packages_of_the_lock_and_no_other() -> None:
    lock = {name: version for name, (version, _) in locked().items()}
    built = {canonicalize_name(item.name): item.version for item in distributions(path=[str(LAYER)])}
    assert len(built) > 30
    assert built.items() <= lock.items()
    # What is left out is for another platform.
    for name in lock.keys() - built.keys():
        assert ";" in locked()[name][1].partition("\n")[0], name


@pytest.mark.parametrize("whole", [True, False])
def test_a_wheel_that_is_not_the_lock_s_is_not_built(tmp_path: Path, whole: bool) -> None:
    lines = locked()["msgspec"][1]
    if not whole:
        lines = re.sub(r"(?<=sha256:)[0-9a-f]{64}", "0" * 64, lines)
    (tmp_path / "requirements.txt").write_text(lines)
    (tmp_path / "parley").mkdir()
    shutil.copy(ROOT / "layers/common/Makefile", tmp_path)
    given = [f"ARTIFACTS_DIR={tmp_path}/out", f"PYTHON={ROOT}/.venv-deploy/bin/python"]
    made = subprocess.run(
        ["make", "build-CommonLayer", *given],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (made.returncode == 0) == whole, made.stderr
    assert (tmp_path / "out/python/msgspec").exists() == whole
    assert whole or "DO NOT MATCH THE HASHES" in made.stderr


def test_every_module_is_compiled_and_needs_no_check() -> None:
    for path in LAYER.rglob("*.py"):
        if "__pycache__" in path.parts or not path.stem.isidentifier():
            continue
        compiled = path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc"
        if not compiled.exists():
            # Some packages ship a file that is no Python on purpose, as data.
            with pytest.raises((SyntaxError, UnicodeDecodeError)):
                compile(path.read_bytes(), str(path), "exec")
            continue
        # PEP 552: bit 0 says that it is checked by its source's hash, bit 1 that it need not be.
        assert struct.unpack_from("<I", compiled.read_bytes(), 4)[0] == 0b01, path


def test_no_compiled_module_is_of_another_python() -> None:
    others = [path for path in BUILD.rglob("*.pyc") if ".cpython-313." not in path.name]
    assert others == []


def test_the_functions_fit_into_lambda_s_limits() -> None:
    size = sum(path.stat().st_size for path in LAYER.rglob("*") if path.is_file())
    assert size < LIMIT, f"{size / 2**20:.0f} MB"


def test_each_function_is_built_with_its_handler() -> None:
    template = load(BUILD / "template.yaml")
    for name, function in of_type(template, "AWS::Serverless::Function").items():
        handler = function["Properties"].get("Handler", template["Globals"]["Function"]["Handler"])
        file = handler if handler.endswith(".sh") else f"{handler.partition('.')[0]}.py"
        assert (BUILD / name / file).is_file()
    assert (BUILD / "StreamFunction/run.sh").stat().st_mode & 0o111
    assert "&" not in json.dumps(sorted(template["Resources"]))


def test_nothing_of_the_laptop_is_shipped() -> None:
    for name in ("local", "tests", "bench"):
        assert not (LAYER / name).exists() or importlib.util.find_spec(name) is None
