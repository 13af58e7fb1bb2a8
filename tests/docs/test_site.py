"""The site is built strictly, asks for nothing outside, and its references are whole."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    mkdocs_build = pytest.importorskip("mkdocs.commands.build", reason="the extra `docs` is not installed")
    from mkdocs.config import load_config

    place, before = tmp_path_factory.mktemp("site"), list(sys.path)
    mkdocs_build.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(place), strict=True))
    sys.path[:] = before
    return place


def test_site_is_built_strictly_with_every_page(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages and pages <= {path.stem for path in site.glob("*.html")}


def test_site_fetches_nothing_from_elsewhere(site):
    loads = r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(https?:)?//"
    links = r"<link[^>]*rel=\"?(?:stylesheet|preconnect|icon)[^>]*href=\"?(https?:)?//"
    fetched = re.compile(f"{loads}|{links}")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        assert not fetched.search(page.read_text("utf-8")), page


def test_reference_of_the_configuration_has_every_option(site):
    options = [path for path in (ROOT / "conf").rglob("*.yaml") if path.parent != ROOT / "conf"]
    assert len(options) > 200
    for path in options:
        group = path.parent.relative_to(ROOT / "conf").as_posix().replace("/", "_")
        page = (site / "configuration" / f"{group}.html").read_text("utf-8")
        assert f'id="{path.stem.lower()}"' in page, path


def test_reference_of_the_api_has_every_public_name(site):
    import pretraining

    page = (site / "api" / "pretraining.html").read_text("utf-8")
    assert len(pretraining.__all__) > 20
    for name in pretraining.__all__:
        assert f'id="{name.lower()}"' in page, name


def test_readme_is_short_and_its_links_lead_somewhere():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
    checked = 0
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "slurm/README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text("utf-8")):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"
            checked += 1
    assert checked > 20


def test_speeds_of_the_picture_are_those_of_the_benchmarks():
    measured = (ROOT / "experiments" / "benchmarks" / "README.md").read_text("utf-8")
    shown = re.findall(r">([\d,.]+)</text>", (ROOT / "docs" / "pictures" / "speed.svg").read_text("utf-8"))
    assert len(shown) > 10 and all(f" {rate} " in measured for rate in shown)


def test_reference_of_the_configuration_has_every_line(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "hooks"))
    from reference import CONF, configuration_pages

    pages, checked = configuration_pages(), 0
    for path in CONF.rglob("*.yaml"):
        group = path.parent.relative_to(CONF).as_posix().replace("/", "_")
        page = pages["configuration/index.md" if path.parent == CONF else f"configuration/{group}.md"]
        for line in path.read_text("utf-8").splitlines():
            checked += 1
            assert line.startswith("#") or line in page, f"{path}: {line}"
    assert checked > 3000
