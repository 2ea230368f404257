"""Four- and eight-bit integers to 16-bit floats inside a kernel."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def unpack4(packed, DTYPE: tl.constexpr, ASM: tl.constexpr):  # type: ignore[no-untyped-def]
    """uint8 → the low and the high halves minus 8, in ``DTYPE``.

    With ``ASM`` (a GPU): an integer in the mantissa of 128 (bfloat16) or 1024 (float16) is that
    number plus the integer, exactly; two values are made with one ``lop3`` and one subtraction,
    where a conversion instruction takes several times as long.
    """
    if ASM and DTYPE == tl.bfloat16:
        low, high = tl.inline_asm_elementwise(
            """{
            .reg .b32 a, b, c, d, one, offset;
            mov.b32 one, 0x3f803f80;
            mov.b32 offset, 0xc308c308;
            prmt.b32 a, $4, 0, 0x4140;
            prmt.b32 b, $4, 0, 0x4342;
            shr.u32 c, a, 4;
            shr.u32 d, b, 4;
            lop3.b32 a, a, 0x000f000f, 0x43004300, 0xea;
            lop3.b32 b, b, 0x000f000f, 0x43004300, 0xea;
            lop3.b32 c, c, 0x000f000f, 0x43004300, 0xea;
            lop3.b32 d, d, 0x000f000f, 0x43004300, 0xea;
            fma.rn.bf16x2 $0, a, one, offset;
            fma.rn.bf16x2 $1, b, one, offset;
            fma.rn.bf16x2 $2, c, one, offset;
            fma.rn.bf16x2 $3, d, one, offset;
            }""",
            "=r,=r,=r,=r,r",
            [packed],
            dtype=(tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=4,
        )
    elif ASM and DTYPE == tl.float16:
        low, high = tl.inline_asm_elementwise(
            """{
            .reg .b32 a, b, c, d, offset;
            mov.b32 offset, 0x64086408;
            prmt.b32 a, $4, 0, 0x4140;
            prmt.b32 b, $4, 0, 0x4342;
            shr.u32 c, a, 4;
            shr.u32 d, b, 4;
            lop3.b32 a, a, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 b, b, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 c, c, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 d, d, 0x000f000f, 0x64006400, 0xea;
            sub.f16x2 $0, a, offset;
            sub.f16x2 $1, b, offset;
            sub.f16x2 $2, c, offset;
            sub.f16x2 $3, d, offset;
            }""",
            "=r,=r,=r,=r,r",
            [packed],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=4,
        )
    else:
        low = ((packed & 15).to(tl.float32) - 8.0).to(DTYPE)
        high = ((packed >> 4).to(tl.float32) - 8.0).to(DTYPE)
    return low, high
