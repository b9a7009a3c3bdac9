//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BenchmarkRead reads past the kernel's cache what the server has in memory: it shows
// what a request costs.
func BenchmarkRead(b *testing.B) {
	const size = 8 << 20
	dir, _ := mount(b, File("f", bytes.NewReader(make([]byte, size)), size, time.Time{}), nil)
	fd, err := unix.Open(filepath.Join(dir, "f"), unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	for _, n := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dK", n>>10), func(b *testing.B) {
			p := make([]byte, n+4096)
			p = p[-uintptr(unsafe.Pointer(&p[0]))&4095:][:n]
			b.SetBytes(int64(n))
			for i := 0; b.Loop(); i++ {
				if got, err := unix.Pread(fd, p, int64(i*n%size)); got != n || err != nil {
					b.Fatalf("read %d bytes, %v", got, err)
				}
			}
		})
	}
}
