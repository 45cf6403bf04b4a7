"""Super-resolution: enlarge a colour picture by any real factor from 1 up.

The built-in picture, or yours, is first reduced by antialiased bicubic interpolation, so that the truth is known; with
--enlarge your picture itself is enlarged. SuperResolver, trained to enlarge 64 to 128 pixels, beside interpolation.
"""

from __future__ import annotations

import torch
from _common import parser, picture, print_table, save, timed
from torch.nn.functional import interpolate

from denoisers import SuperResolver

p = parser(__doc__, image="astronaut", weights=None)
p.add_argument("--factor", type=float, default=4.0, help="enlargement along each side (default 4)")
p.add_argument("--enlarge", action="store_true", help="enlarge the picture itself, without a truth to compare with")
args = p.parse_args()
if not 1 <= args.factor <= 64:
    p.error(f"--factor must be from 1 to 64, got {args.factor:g}")

# Data
x = picture(args)
shape = tuple(x.shape[-2:])
small = tuple(max(1, round(n / args.factor)) for n in shape)
truth = None if args.enlarge else x
y = x if args.enlarge else interpolate(x, small, mode="bicubic", antialias=True, align_corners=False)
size = tuple(round(n * args.factor) for n in shape) if args.enlarge else shape
print(f"picture {tuple(y.shape[-2:])}, x{args.factor:g}, to {size}")

# Enlarge
S = SuperResolver.from_pretrained("super_resolution").to(args.device)


def interpolated(mode: str) -> torch.Tensor:
    """Interpolate with torch on the same grid; both pictures cover the same area."""
    return interpolate(y, size, mode=mode, align_corners=False)


with torch.no_grad():
    entries = [
        timed("bilinear", lambda: interpolated("bilinear")),
        timed("bicubic", lambda: interpolated("bicubic")),
        timed("SuperResolver (MLPatch)", lambda: S(y, size=size, progress=True)),
    ]

# Numbers
if truth is None:
    panels = {entry.name: entry.image for entry in entries}
else:
    panels = print_table(entries, truth)

# Figure of the central part, and files
side = min(*size, 192)
top, left = ((n - side) // 2 for n in size)
save(
    args,
    {name: image[..., top : top + side, left : left + side] for name, image in panels.items()},
    entries[-1].result,
    truth,
    denoiser="superresolver:super_resolution",
    title=f"Super-resolution, x{args.factor:g}",
    rgb=True,
)
