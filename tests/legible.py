"""What the pictures say, and that it can be read."""

from __future__ import annotations


def texts(figure):
    found = [text for axes in figure.axes for text in (*axes.texts, axes.title)]
    found += [text for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label)]
    return [text for text in (*figure.texts, *found) if text.get_text()]


def words(figure):
    return [text.get_text() for text in texts(figure)]


def assert_legible(figure):
    """Check that every text lies inside the picture."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    for text in texts(figure):
        box = text.get_window_extent(renderer)
        inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
        assert inside, text.get_text()
