//go:build !amd64 || purego

package chunker

const haveScan16 = false

func scan16(*byte, int, *uint32, *test) (int, uint16) {
	panic("chunker: internal error: no scan16 here")
}
