"""A picture of vectors: each a point in the plane, by PCA or UMAP, as .png or as .html with names to point at."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pretraining.cache import replace_file, replace_text
from pretraining.errors import RunError

KINDS = (".png", ".html")
POINTS = 20_000  # at most, evenly among all: more are a blot
WIDTH, HEIGHT, MARGIN, RADIUS = 1000, 800, 60, 3
INK, POINT = "#1b2a3a", "#2f6f9f"


def in_the_plane(vectors: np.ndarray, method: str) -> tuple[np.ndarray, str]:
    """Bring vectors [N, D] into the plane, [N, 2], and say how."""
    if len(vectors) < 3:
        raise RunError(f"got picture= of {len(vectors)} examples: give at least 3")
    if method == "pca":
        from sklearn.decomposition import PCA

        made = PCA(2, svd_solver="full" if min(vectors.shape) < 500 else "randomized", random_state=0)
        points = made.fit_transform(vectors.astype(np.float64))
        first, second = 100 * made.explained_variance_ratio_
        return points, f"PCA: {first:.0f} % and {second:.0f} % of the variance"
    try:
        import umap
    except ImportError as error:
        raise RunError(
            "got method=umap, but umap-learn is not installed: pip install umap-learn, or method=pca"
        ) from error
    return umap.UMAP(random_state=0).fit_transform(vectors), "UMAP: near points were near, distances mean little"


def draw(vectors: np.ndarray, names: list[str], method: str, path: Path) -> Path:
    """Draw the vectors [N, D] of examples, whose `names` an .html shows."""
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), POINTS)).astype(int))
    points, how = in_the_plane(np.asarray(vectors[rows]), method)
    low, span = points.min(0), np.maximum(np.ptp(points, axis=0), 1e-12)
    places = (points - low) / span * [WIDTH - 2 * MARGIN, 2 * MARGIN - HEIGHT] + [MARGIN, HEIGHT - MARGIN]
    shown = "" if len(rows) == len(vectors) else f", {len(rows):,} of them drawn"
    title = f"{how}. {len(vectors):,} examples{shown}"
    if path.suffix.lower() == ".png":
        with replace_file(path, "wb") as file:
            _png(places, title).save(file, "PNG")
    else:
        replace_text(path, _html(places, [names[row] for row in rows], title))
    return path


def _png(places: np.ndarray, title: str) -> Image.Image:
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture, "RGBA")
    pen.text((MARGIN, MARGIN / 3), title, INK, ImageFont.load_default(20))
    for across, down in places.tolist():
        pen.ellipse((across - RADIUS, down - RADIUS, across + RADIUS, down + RADIUS), (47, 111, 159, 110))
    return picture


def _html(places: np.ndarray, names: list[str], title: str) -> str:
    circles = "\n".join(
        f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{RADIUS}"><title>{html.escape(name)}</title></circle>'
        for (across, down), name in zip(places.tolist(), names, strict=True)
    )
    style = f"body{{font-family:sans-serif;color:{INK};margin:1em}}svg{{width:100%;height:auto;max-width:{WIDTH}px}}"
    style += f"circle{{fill:{POINT};fill-opacity:.45}}circle:hover{{fill:#c0392b;fill-opacity:1}}"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>{title}</title><style>{style}</style></head>'
        f'<body><p>{title}</p><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{circles}</svg>'
        "</body></html>\n"
    )
