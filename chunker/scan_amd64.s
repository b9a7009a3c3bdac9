//go:build !purego

#include "textflag.h"

// SPREAD adds to each lane what the lanes before it contribute, n lanes further
// up and rotated by n: a step of a prefix sum in which each lane down costs a
// rotation by one.
#define SPREAD(n, rest) \
	VALIGND $rest, Z4, Z13, Z14 \
	VPROLD  $n, Z14, Z14        \
	VPXORD  Z14, Z13, Z13

// func scan16(b *byte, blocks int, h *uint32, t *test) (done int, hits uint16)
//
// Z0 is the hash before the block, Z1 to Z3 what the words of the last 48 bytes
// have become when they leave the window, Z13 the hashes at the sixteen positions.
TEXT ·scan16(SB), NOSPLIT, $0-42
	MOVQ b+0(FP), SI
	MOVQ blocks+8(FP), CX
	MOVQ h+16(FP), DI
	MOVQ t+24(FP), DX
	LEAQ ·entering(SB), R8

	VPBROADCASTD (DI), Z0
	VPXORD       Z4, Z4, Z4
	VMOVDQU64    ·upTo16(SB), Z5
	VPBROADCASTD ·upTo16+56(SB), Z6 // 15: the last lane
	VPBROADCASTD 0(DX), Z7
	VPBROADCASTD 4(DX), Z8
	VPBROADCASTD 8(DX), Z9
	VPBROADCASTD 12(DX), Z10

	VPMOVZXBD  -48(SI), Z11
	KXNORW     K1, K1, K1
	VPGATHERDD (R8)(Z11*4), K1, Z1
	VPROLD     $16, Z1, Z1
	VPMOVZXBD  -32(SI), Z11
	KXNORW     K1, K1, K1
	VPGATHERDD (R8)(Z11*4), K1, Z2
	VPROLD     $16, Z2, Z2
	VPMOVZXBD  -16(SI), Z11
	KXNORW     K1, K1, K1
	VPGATHERDD (R8)(Z11*4), K1, Z3
	VPROLD     $16, Z3, Z3
	XORQ       AX, AX

next:
	VPMOVZXBD  (SI)(AX*1), Z11
	KXNORW     K1, K1, K1
	VPGATHERDD (R8)(Z11*4), K1, Z12
	VPXORD     Z1, Z12, Z13
	VMOVDQA64  Z2, Z1
	VMOVDQA64  Z3, Z2
	VPROLD     $16, Z12, Z3
	SPREAD(1, 15)
	SPREAD(2, 14)
	SPREAD(4, 12)
	SPREAD(8, 8)
	VPROLVD    Z5, Z0, Z14
	VPXORD     Z14, Z13, Z13
	VPERMD     Z13, Z6, Z0
	VPMULLD    Z7, Z13, Z14
	VPSUBD     Z8, Z14, Z14
	VPRORVD    Z9, Z14, Z14
	VPCMPUD    $2, Z10, Z14, K2 // at most the limit
	ADDQ       $16, AX
	KORTESTW   K2, K2
	JNZ        done
	DECQ       CX
	JNZ        next

done:
	KMOVW  K2, R9
	MOVQ   AX, done+32(FP)
	MOVW   R9, hits+40(FP)
	VMOVD  X0, (DI)
	VZEROUPPER
	RET

// upTo16 holds 1 to 16.
DATA ·upTo16+0(SB)/8, $0x0000000200000001
DATA ·upTo16+8(SB)/8, $0x0000000400000003
DATA ·upTo16+16(SB)/8, $0x0000000600000005
DATA ·upTo16+24(SB)/8, $0x0000000800000007
DATA ·upTo16+32(SB)/8, $0x0000000a00000009
DATA ·upTo16+40(SB)/8, $0x0000000c0000000b
DATA ·upTo16+48(SB)/8, $0x0000000e0000000d
DATA ·upTo16+56(SB)/8, $0x000000100000000f
GLOBL ·upTo16(SB), NOPTR|RODATA, $64
