"""What is built and installed: contents, metadata, and a run from another folder."""

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import lse_interp
from lse_interp.core.languages import PAPER_LANGUAGES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SUFFIXES = {".json", ".md", ".py", ".safetensors", ".tsv", ".typed"}


def build(source, out, target):
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


def package_files(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in (folder / "lse_interp").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    about = f"lse_interp-{lse_interp.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(about)} == package_files(ROOT)
    assert {Path(name).suffix for name in package_files(ROOT)} <= SUFFIXES
    assert f"{about}licenses/LICENSE" in names


def test_wheel_holds_the_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    corpus = {f"lse_interp/data/embedded/corpus/{code}.tsv" for code in PAPER_LANGUAGES}
    model = {
        f"lse_interp/models/packaged/embedded/{name}"
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    assert len(corpus) == 21
    assert corpus | model | {"lse_interp/py.typed"} <= names


def test_wheel_says_what_it_needs(wheel):
    about = f"lse_interp-{lse_interp.__version__}.dist-info/METADATA"
    meta = email.message_from_bytes(zipfile.ZipFile(wheel).read(about))
    assert meta["Name"] == "lse-interp"
    assert meta["Version"] == lse_interp.__version__
    assert meta["License-Expression"] == "MIT"
    assert meta["Requires-Python"] == PROJECT["requires-python"]
    assert {"gpu", "vllm", "eval", "notebooks", "dev", "all"} <= set(meta.get_all("Provides-Extra"))
    needs = [entry for entry in meta.get_all("Requires-Dist") if "extra ==" not in entry]
    assert needs == sorted(PROJECT["dependencies"])


def test_source_distribution_builds_the_same_wheel(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert package_files(source) == package_files(ROOT)
    beside = {path.name for path in source.iterdir()} - {"lse_interp"}
    assert beside == {
        ".gitignore",
        "CHANGELOG.md",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "constraints-minimum.txt",
        "constraints.txt",
        "pyproject.toml",
    }
    out = tmp_path / "out"
    out.mkdir()
    assert build(source, out, "wheel").read_bytes() == wheel.read_bytes()


def test_installed_package_writes_into_the_current_folder_alone(wheel, tmp_path):
    site, here, home = (tmp_path / name for name in ("site packages", "an empty folder", "home"))
    zipfile.ZipFile(wheel).extractall(site)
    here.mkdir()
    home.mkdir()
    before = package_files(site)
    done = subprocess.run(
        [sys.executable, "-m", "lse_interp.activations", "--langs", "mlt", "--n-tokens", "300"],
        cwd=here,
        env=os.environ
        | {"PYTHONPATH": str(site), "HOME": str(home), "OMP_NUM_THREADS": "1"}
        | {"PYTHONDONTWRITEBYTECODE": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert package_files(site) == before
    assert {path.name for path in here.iterdir()} == {"runs"}
    assert (here / "runs/embedded/counts/mlt.safetensors").is_file()


def pins(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = (line.partition("#")[0].strip().partition("==") for line in lines)
    return {normal(package): version for package, _, version in found if version}


def normal(package):
    return re.sub(r"[-_.]+", "-", package).lower()


def lower_bounds():
    """Lower bound of every requirement that the tests install."""
    extras = PROJECT["optional-dependencies"]
    for entry in (*PROJECT["dependencies"], *extras["eval"], *extras["dev"]):
        package, _, version = entry.partition(">=")
        yield normal(re.sub(r"\[.*\]", "", package)), version


def numbers(version):
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


@pytest.mark.parametrize(("package", "bound"), list(lower_bounds()))
def test_bounds_are_the_versions_tested(package, bound):
    lowest = numbers(pins("constraints-minimum.txt")[package])
    assert lowest[: len(numbers(bound))] == numbers(bound)
    assert numbers(pins("constraints.txt")[package]) >= numbers(bound)
