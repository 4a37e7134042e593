"""Show a tensor in a notebook: its shape, where it is, a few statistics, and a small picture of its values."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape

import numpy as np
import torch

_MOST_VALUES = 1 << 20  # statistics of more are those of a sample
_ROWS, _COLUMNS = 64, 192  # of a picture, at most
_WIDTH, _HEIGHT = 576, 256  # of a picture on the page, at most
_BLUE, _WHITE, _RED = np.array([33, 102, 172]), np.array([250, 250, 250]), np.array([178, 24, 43])
_NOTHING = np.array([128, 128, 128])  # the colour of nan


def tensor_html(value: torch.Tensor) -> str:
    """A tensor as a piece of a page, with what torch prints folded away below.

    >>> tensor_html(torch.randn(1, 5, 96))
    """
    value = value.detach()
    parts = [f"<div><code>{escape(_heading(value))}</code></div>"]
    if _has_numbers(value):
        parts.append(f'<div style="opacity:.75">{_statistics(value)}</div>')
        if value.dim():
            parts.append(_picture(value))
    parts.append(f"<details><summary>values</summary><pre>{escape(_printed(value))}</pre></details>")
    return f'<div class="loupe-tensor">{"".join(parts)}</div>'


def _heading(value: torch.Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    sizes = "nested" if value.is_nested else f"[{', '.join(str(size) for size in value.shape)}]"
    layout = "" if value.layout == torch.strided else f" {str(value.layout).removeprefix('torch.')}"
    return f"{sizes} {dtype} {value.device}{layout}"


def _printed(value: torch.Tensor) -> str:
    try:
        return repr(value)
    except NotImplementedError:
        return f"torch does not print values of {value.dtype}"


def _has_numbers(value: torch.Tensor) -> bool:
    """Whether there are values, and torch can turn them into numbers."""
    if value.layout != torch.strided or value.is_nested or value.is_quantized or value.is_meta or not value.numel():
        return False
    try:
        _real(value[(0,) * value.dim()]).item()
    except RuntimeError:  # some dtypes are no more than a way to store bits
        return False
    return True


def _real(value: torch.Tensor) -> torch.Tensor:
    """The values as numbers that can be compared: magnitudes of complex ones."""
    value = value.abs() if value.is_complex() else value
    return value.to(device="cpu", dtype=torch.float64)


def _statistics(value: torch.Tensor) -> str:
    sample = _thinned(value, _MOST_VALUES)
    numbers = _real(sample)
    finite = numbers[numbers.isfinite()]
    found: list[str] = []
    if value.numel() == 1:
        return f"{numbers.item():.6g}"
    if value.dtype == torch.bool:
        found.append(f"{int(numbers.sum())} of {numbers.numel()} true")
    elif finite.numel():
        found += ["of magnitudes:"] if value.is_complex() else []
        found += [f"mean {finite.mean():.4g}", f"std {finite.std(correction=0):.4g}"]
        found += [f"min {finite.min():.4g}", f"max {finite.max():.4g}"]
    for name, count in (("nan", int(numbers.isnan().sum())), ("infinite", int(numbers.isinf().sum()))):
        if count:
            found.append(f"{count} {name}")
    if sample.numel() < value.numel():
        found.append(f"in a sample of {sample.numel():,} of {value.numel():,} values")
    return " · ".join(found)


def _thinned(value: torch.Tensor, most: int) -> torch.Tensor:
    """Every k-th entry along each dimension, so that there are no more than this."""
    steps = [1] * value.dim()
    sizes = list(value.shape)
    while value.numel() and np.prod(sizes, dtype=float) > most:
        longest = max(range(len(sizes)), key=sizes.__getitem__)
        steps[longest] *= 2
        sizes[longest] = -(-value.shape[longest] // steps[longest])
    return value[tuple(slice(None, None, step) for step in steps)]


def _picture(value: torch.Tensor) -> str:
    """The last two dimensions as an image: blue below zero, white, red above."""
    first = value[(0,) * max(value.dim() - 2, 0)]
    table = first[None] if first.dim() == 1 else first
    steps = [-(-size // most) for size, most in zip(table.shape, (_ROWS, _COLUMNS), strict=True)]
    numbers = _real(table[:: steps[0], :: steps[1]]).numpy()
    finite = np.abs(numbers[np.isfinite(numbers)])
    limit = (float(np.quantile(finite, 0.99)) or float(finite.max()) or 1.0) if finite.size else 1.0
    rows, columns = numbers.shape
    cell = max(2, min(_WIDTH // columns, _HEIGHT // rows, 24))
    words = [f"blue -{limit:.3g}, white 0, red {limit:.3g}"]
    if any(size > 1 for size in value.shape[:-2]):
        words.insert(0, f"at [{', '.join('0' * (value.dim() - 2))}]")
    for step, name in zip(steps, ("row", "column"), strict=True):
        if step > 1:
            words.append(f"every {step}{_ordinal(step)} {name}")
    return (
        f'<img alt="" src="data:image/png;base64,{base64.b64encode(_png(_coloured(numbers, limit))).decode()}" '
        f'style="width:{columns * cell}px;max-width:100%;height:{rows * cell}px;image-rendering:pixelated">'
        f'<div style="opacity:.75"><small>{" · ".join(words)}</small></div>'
    )


def _ordinal(number: int) -> str:
    return "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _coloured(numbers: np.ndarray, limit: float) -> np.ndarray:
    """Colours `[rows, columns, 3]` of numbers `[rows, columns]`."""
    share = np.clip(np.nan_to_num(numbers / limit, nan=0.0), -1, 1)[..., None]
    colours = _WHITE + np.abs(share) * (np.where(share > 0, _RED, _BLUE) - _WHITE)
    return np.where(np.isnan(numbers)[..., None], _NOTHING, colours).astype(np.uint8)


def _png(colours: np.ndarray) -> bytes:
    """The bytes of an image file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, columns, _ = colours.shape
    lines = b"".join(b"\0" + row.tobytes() for row in colours)
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
