"""A QR code (ISO/IEC 18004) out of half blocks, for a terminal's font of two squares high."""

from __future__ import annotations

_QUIET_ZONE = 4
# Light modules are drawn and dark ones left black, upper and lower one of each letter.
_LETTERS = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
_WHITE_ON_BLACK, _RESET = "\x1b[97;40m", "\x1b[0m"


def qr_text(text: str, *, colours: bool) -> str | None:
    """The code's lines, None for too long a text; with `colours` it is right on a bright terminal too."""
    import segno  # here, since a code is seldom asked for

    try:
        code = segno.make_qr(text, error="l")
    except segno.DataOverflowError:
        return None
    rows = [bytes(row) for row in code.matrix_iter(border=_QUIET_ZONE)]
    if len(rows) % 2:
        rows.append(bytes(len(rows[0])))
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        line = "".join(_LETTERS[bool(top), bool(bottom)] for top, bottom in zip(upper, lower, strict=True))
        lines.append(f"{_WHITE_ON_BLACK}{line}{_RESET}" if colours else line)
    return "\n".join(lines)
