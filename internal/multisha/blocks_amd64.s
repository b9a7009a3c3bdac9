//go:build !purego

#include "textflag.h"

// Eight lanes side by side: Z0 to Z7 hold the words a to h of the eight states,
// Z16 to Z31 the message schedule. The round constants follow at R8.

// ROUND is one round of SHA-512 (FIPS 180-4, 6.4.2) with schedule word w.
#define ROUND(a, b, c, d, e, f, g, h, w, k) \
	VPADDQ.BCST k(R8), h, h       \
	VPADDQ      w, h, h           \
	VPRORQ      $14, e, Z10       \
	VPRORQ      $18, e, Z11       \
	VPRORQ      $41, e, Z12       \
	VPTERNLOGQ  $0x96, Z12, Z11, Z10 \
	VMOVDQA64   e, Z13            \
	VPTERNLOGQ  $0xca, g, f, Z13  \
	VPADDQ      Z10, h, h         \
	VPADDQ      Z13, h, h         \
	VPADDQ      h, d, d           \
	VPRORQ      $28, a, Z10       \
	VPRORQ      $34, a, Z11       \
	VPRORQ      $39, a, Z12       \
	VPTERNLOGQ  $0x96, Z12, Z11, Z10 \
	VMOVDQA64   a, Z13            \
	VPTERNLOGQ  $0xe8, c, b, Z13  \
	VPADDQ      Z10, h, h         \
	VPADDQ      Z13, h, h

// EXPAND turns schedule word w, sixteen rounds old, into the one for this round.
#define EXPAND(w, w1, w9, w14) \
	VPRORQ     $1, w1, Z10       \
	VPRORQ     $8, w1, Z11       \
	VPSRLQ     $7, w1, Z12       \
	VPTERNLOGQ $0x96, Z12, Z11, Z10 \
	VPADDQ     w9, w, w          \
	VPADDQ     Z10, w, w         \
	VPRORQ     $19, w14, Z10     \
	VPRORQ     $61, w14, Z11     \
	VPSRLQ     $6, w14, Z12      \
	VPTERNLOGQ $0x96, Z12, Z11, Z10 \
	VPADDQ     Z10, w, w

// LOAD gathers big-endian word number off/8 of the eight blocks.
#define LOAD(off, w) \
	KXNORB     K1, K1, K1        \
	VPGATHERQQ off(R9)(Z8*1), K1, w \
	VPSHUFB    Z9, w, w

// func blocks(state *[8][8]uint64, data *[8]*byte, n int)
TEXT ·blocks(SB), NOSPLIT, $0-24
	MOVQ      state+0(FP), DI
	MOVQ      data+8(FP), SI
	MOVQ      n+16(FP), CX
	XORQ      R9, R9
	VMOVDQU64 (SI), Z8
	VMOVDQU64 ·swap(SB), Z9
	MOVQ      $128, AX
	VPBROADCASTQ AX, Z14
	VMOVDQU64 0(DI), Z0
	VMOVDQU64 64(DI), Z1
	VMOVDQU64 128(DI), Z2
	VMOVDQU64 192(DI), Z3
	VMOVDQU64 256(DI), Z4
	VMOVDQU64 320(DI), Z5
	VMOVDQU64 384(DI), Z6
	VMOVDQU64 448(DI), Z7

block:
	LEAQ ·constants(SB), R8
	LOAD(0, Z16)
	LOAD(8, Z17)
	LOAD(16, Z18)
	LOAD(24, Z19)
	LOAD(32, Z20)
	LOAD(40, Z21)
	LOAD(48, Z22)
	LOAD(56, Z23)
	LOAD(64, Z24)
	LOAD(72, Z25)
	LOAD(80, Z26)
	LOAD(88, Z27)
	LOAD(96, Z28)
	LOAD(104, Z29)
	LOAD(112, Z30)
	LOAD(120, Z31)
	VPADDQ Z14, Z8, Z8
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z16, 0)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z17, 8)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z18, 16)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z19, 24)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z20, 32)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z21, 40)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z22, 48)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z23, 56)
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z24, 64)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z25, 72)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z26, 80)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z27, 88)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z28, 96)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z29, 104)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z30, 112)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z31, 120)
	MOVQ $4, DX

expand:
	ADDQ $128, R8
	EXPAND(Z16, Z17, Z25, Z30)
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z16, 0)
	EXPAND(Z17, Z18, Z26, Z31)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z17, 8)
	EXPAND(Z18, Z19, Z27, Z16)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z18, 16)
	EXPAND(Z19, Z20, Z28, Z17)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z19, 24)
	EXPAND(Z20, Z21, Z29, Z18)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z20, 32)
	EXPAND(Z21, Z22, Z30, Z19)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z21, 40)
	EXPAND(Z22, Z23, Z31, Z20)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z22, 48)
	EXPAND(Z23, Z24, Z16, Z21)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z23, 56)
	EXPAND(Z24, Z25, Z17, Z22)
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z24, 64)
	EXPAND(Z25, Z26, Z18, Z23)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z25, 72)
	EXPAND(Z26, Z27, Z19, Z24)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z26, 80)
	EXPAND(Z27, Z28, Z20, Z25)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z27, 88)
	EXPAND(Z28, Z29, Z21, Z26)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z28, 96)
	EXPAND(Z29, Z30, Z22, Z27)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z29, 104)
	EXPAND(Z30, Z31, Z23, Z28)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z30, 112)
	EXPAND(Z31, Z16, Z24, Z29)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z31, 120)
	DECQ DX
	JNZ  expand

	VPADDQ    0(DI), Z0, Z0
	VMOVDQU64 Z0, 0(DI)
	VPADDQ    64(DI), Z1, Z1
	VMOVDQU64 Z1, 64(DI)
	VPADDQ    128(DI), Z2, Z2
	VMOVDQU64 Z2, 128(DI)
	VPADDQ    192(DI), Z3, Z3
	VMOVDQU64 Z3, 192(DI)
	VPADDQ    256(DI), Z4, Z4
	VMOVDQU64 Z4, 256(DI)
	VPADDQ    320(DI), Z5, Z5
	VMOVDQU64 Z5, 320(DI)
	VPADDQ    384(DI), Z6, Z6
	VMOVDQU64 Z6, 384(DI)
	VPADDQ    448(DI), Z7, Z7
	VMOVDQU64 Z7, 448(DI)
	DECQ      CX
	JNZ       block
	VZEROUPPER
	RET

// swap reverses the bytes of each 64-bit word.
DATA ·swap+0(SB)/8, $0x0001020304050607
DATA ·swap+8(SB)/8, $0x08090a0b0c0d0e0f
DATA ·swap+16(SB)/8, $0x0001020304050607
DATA ·swap+24(SB)/8, $0x08090a0b0c0d0e0f
DATA ·swap+32(SB)/8, $0x0001020304050607
DATA ·swap+40(SB)/8, $0x08090a0b0c0d0e0f
DATA ·swap+48(SB)/8, $0x0001020304050607
DATA ·swap+56(SB)/8, $0x08090a0b0c0d0e0f
GLOBL ·swap(SB), NOPTR|RODATA, $64

// constants are the first 64 bits of the fractional parts of the cube roots of
// the first eighty primes.
DATA ·constants+0(SB)/8, $0x428a2f98d728ae22
DATA ·constants+8(SB)/8, $0x7137449123ef65cd
DATA ·constants+16(SB)/8, $0xb5c0fbcfec4d3b2f
DATA ·constants+24(SB)/8, $0xe9b5dba58189dbbc
DATA ·constants+32(SB)/8, $0x3956c25bf348b538
DATA ·constants+40(SB)/8, $0x59f111f1b605d019
DATA ·constants+48(SB)/8, $0x923f82a4af194f9b
DATA ·constants+56(SB)/8, $0xab1c5ed5da6d8118
DATA ·constants+64(SB)/8, $0xd807aa98a3030242
DATA ·constants+72(SB)/8, $0x12835b0145706fbe
DATA ·constants+80(SB)/8, $0x243185be4ee4b28c
DATA ·constants+88(SB)/8, $0x550c7dc3d5ffb4e2
DATA ·constants+96(SB)/8, $0x72be5d74f27b896f
DATA ·constants+104(SB)/8, $0x80deb1fe3b1696b1
DATA ·constants+112(SB)/8, $0x9bdc06a725c71235
DATA ·constants+120(SB)/8, $0xc19bf174cf692694
DATA ·constants+128(SB)/8, $0xe49b69c19ef14ad2
DATA ·constants+136(SB)/8, $0xefbe4786384f25e3
DATA ·constants+144(SB)/8, $0x0fc19dc68b8cd5b5
DATA ·constants+152(SB)/8, $0x240ca1cc77ac9c65
DATA ·constants+160(SB)/8, $0x2de92c6f592b0275
DATA ·constants+168(SB)/8, $0x4a7484aa6ea6e483
DATA ·constants+176(SB)/8, $0x5cb0a9dcbd41fbd4
DATA ·constants+184(SB)/8, $0x76f988da831153b5
DATA ·constants+192(SB)/8, $0x983e5152ee66dfab
DATA ·constants+200(SB)/8, $0xa831c66d2db43210
DATA ·constants+208(SB)/8, $0xb00327c898fb213f
DATA ·constants+216(SB)/8, $0xbf597fc7beef0ee4
DATA ·constants+224(SB)/8, $0xc6e00bf33da88fc2
DATA ·constants+232(SB)/8, $0xd5a79147930aa725
DATA ·constants+240(SB)/8, $0x06ca6351e003826f
DATA ·constants+248(SB)/8, $0x142929670a0e6e70
DATA ·constants+256(SB)/8, $0x27b70a8546d22ffc
DATA ·constants+264(SB)/8, $0x2e1b21385c26c926
DATA ·constants+272(SB)/8, $0x4d2c6dfc5ac42aed
DATA ·constants+280(SB)/8, $0x53380d139d95b3df
DATA ·constants+288(SB)/8, $0x650a73548baf63de
DATA ·constants+296(SB)/8, $0x766a0abb3c77b2a8
DATA ·constants+304(SB)/8, $0x81c2c92e47edaee6
DATA ·constants+312(SB)/8, $0x92722c851482353b
DATA ·constants+320(SB)/8, $0xa2bfe8a14cf10364
DATA ·constants+328(SB)/8, $0xa81a664bbc423001
DATA ·constants+336(SB)/8, $0xc24b8b70d0f89791
DATA ·constants+344(SB)/8, $0xc76c51a30654be30
DATA ·constants+352(SB)/8, $0xd192e819d6ef5218
DATA ·constants+360(SB)/8, $0xd69906245565a910
DATA ·constants+368(SB)/8, $0xf40e35855771202a
DATA ·constants+376(SB)/8, $0x106aa07032bbd1b8
DATA ·constants+384(SB)/8, $0x19a4c116b8d2d0c8
DATA ·constants+392(SB)/8, $0x1e376c085141ab53
DATA ·constants+400(SB)/8, $0x2748774cdf8eeb99
DATA ·constants+408(SB)/8, $0x34b0bcb5e19b48a8
DATA ·constants+416(SB)/8, $0x391c0cb3c5c95a63
DATA ·constants+424(SB)/8, $0x4ed8aa4ae3418acb
DATA ·constants+432(SB)/8, $0x5b9cca4f7763e373
DATA ·constants+440(SB)/8, $0x682e6ff3d6b2b8a3
DATA ·constants+448(SB)/8, $0x748f82ee5defb2fc
DATA ·constants+456(SB)/8, $0x78a5636f43172f60
DATA ·constants+464(SB)/8, $0x84c87814a1f0ab72
DATA ·constants+472(SB)/8, $0x8cc702081a6439ec
DATA ·constants+480(SB)/8, $0x90befffa23631e28
DATA ·constants+488(SB)/8, $0xa4506cebde82bde9
DATA ·constants+496(SB)/8, $0xbef9a3f7b2c67915
DATA ·constants+504(SB)/8, $0xc67178f2e372532b
DATA ·constants+512(SB)/8, $0xca273eceea26619c
DATA ·constants+520(SB)/8, $0xd186b8c721c0c207
DATA ·constants+528(SB)/8, $0xeada7dd6cde0eb1e
DATA ·constants+536(SB)/8, $0xf57d4f7fee6ed178
DATA ·constants+544(SB)/8, $0x06f067aa72176fba
DATA ·constants+552(SB)/8, $0x0a637dc5a2c898a6
DATA ·constants+560(SB)/8, $0x113f9804bef90dae
DATA ·constants+568(SB)/8, $0x1b710b35131c471b
DATA ·constants+576(SB)/8, $0x28db77f523047d84
DATA ·constants+584(SB)/8, $0x32caab7b40c72493
DATA ·constants+592(SB)/8, $0x3c9ebe0a15c9bebc
DATA ·constants+600(SB)/8, $0x431d67c49c100d4c
DATA ·constants+608(SB)/8, $0x4cc5d4becb3e42b6
DATA ·constants+616(SB)/8, $0x597f299cfc657e2a
DATA ·constants+624(SB)/8, $0x5fcb6fab3ad6faec
DATA ·constants+632(SB)/8, $0x6c44198c4a475817
GLOBL ·constants(SB), NOPTR|RODATA, $640
