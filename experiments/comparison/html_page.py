"""An HTML page in one file, for phones and wide screens, light and dark: contents, tables, pictures, films."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from experiments.comparison.surface_pictures import Film
from experiments.comparison.wording import text
from experiments.plotting import Picture

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --quiet: #59636e;
  --line: #d1d9e0; --bad: #b3261e; --link: #0b57d0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e6ea; --paper: #16181b; --quiet: #a3adb7; --line: #3a4046; --bad: #ff8a80;
    --link: #8ab4f8; }
  img { filter: brightness(0.9); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 90rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
a { color: var(--link); }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 2rem 0 0.25rem; }
figure h3 { margin-top: 0; }
p, figcaption { max-width: 44rem; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 0; padding: 0; list-style: none; }
nav { padding: 0.5rem 0; border-block: 1px solid var(--line); }
.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; font-size: 0.9375rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.6rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; }
thead th { vertical-align: bottom; white-space: normal; }
thead small { font-weight: normal; }
th:first-child { position: sticky; left: 0; padding-left: 0; background: var(--paper); text-align: left; }
small, .quiet { color: var(--quiet); font-size: 0.875rem; }
.bad { color: var(--bad); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; }
dt { color: var(--quiet); }
dd { margin: 0; min-width: 0; }
summary { cursor: pointer; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr));
  gap: 2rem 1.5rem; margin-top: 1rem; align-items: start; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 0.9375rem; margin-top: 0.5rem; }
img { display: block; width: 100%; max-width: 38rem; height: auto; margin-top: 0.5rem; padding: 0.25rem;
  background: #fff; border-radius: 0.5rem; }
"""


class Section(NamedTuple):
    """A part of the page that the contents list names."""

    title: str
    parts: Sequence[str]  # HTML

    @property
    def anchor(self) -> str:
        """Its id: the title in lower case, with hyphens for everything but letters and digits."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


def page(title: str, opening: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page: heading, opening, table of contents, sections."""
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>"
    )
    links = "\n".join(f'<li><a href="#{s.anchor}">{escape(s.title)}</a></li>' for s in sections)
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            *opening,
            f'<nav aria-label="Contents">\n<ul>\n{links}\n</ul>\n</nav>',
            *(_section(s) for s in sections),
        ]
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _section(s: Section) -> str:
    body = "\n".join(s.parts)
    return f'<section id="{s.anchor}">\n<h2>{escape(s.title)}</h2>\n{body}\n</section>'


def pictures(shown: Sequence[Picture | Film]) -> str:
    """Pictures and films in as many columns as the window has room for."""
    return '<div class="pictures">\n' + "\n".join(map(_figure, shown)) + "\n</div>"


def _figure(shown: Picture | Film) -> str:
    # As data, not inline: then the ids of one SVG can't clash with those of another.
    kind, content = ("gif", shown.gif) if isinstance(shown, Film) else ("svg+xml", shown.svg.encode())
    data = base64.b64encode(content).decode()
    return (
        f"<figure>\n<h3>{escape(shown.title)}</h3>\n"
        f'<img alt="{escape(shown.title)}" src="data:image/{kind};base64,{data}">\n'
        f"<figcaption>{escape(shown.caption)}</figcaption>\n</figure>"
    )


def table(columns: Sequence[tuple[str, str]], rows: Mapping[str, Sequence[str]]) -> str:
    """A table that scrolls sideways in its own box. The first column stays in view.

    Args:
        columns: (name, unit or explanation, which may be empty), the one of the row names first.
        rows: for each row name, its cells as HTML. Put what matters most first: a phone shows only that.
    """
    head = "".join(
        f'<th scope="col">{escape(name)}{f"<br><small>{escape(unit)}</small>" if unit else ""}</th>'
        for name, unit in columns
    )
    lines = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells in rows.items()
    )
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody>\n</table></div>"
    )


def folded(summary: str, parts: Sequence[str], *, opened: bool = False) -> str:
    """One line that opens to show more."""
    body = "\n".join(parts)
    return f"<details{' open' if opened else ''}>\n<summary>{escape(summary)}</summary>\n{body}\n</details>"


def definitions(content: Mapping[str, Any]) -> str:
    """Names and values beside each other."""
    pairs = "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(text(v))}</dd>" for k, v in content.items())
    return f"<dl>\n{pairs}\n</dl>"


def conditions(where: Mapping[str, Any]) -> str:
    """Device, versions and git revision in one quiet line; `where` is from `environment`."""
    flat = {k: v for k, v in where.items() if k != "versions"} | where["versions"]
    said = "; ".join(f"{name.replace('_', ' ')} {text(value)}" for name, value in flat.items())
    return f'<p class="quiet">{escape(said)}</p>'
