//go:build !purego

package multisha

import "golang.org/x/sys/cpu"

var available = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ

// blocks hashes n blocks at data[i] into state[word][i], for each lane i. n is at
// least 1.
//
//go:noescape
func blocks(state *[8][8]uint64, data *[8]*byte, n int)
