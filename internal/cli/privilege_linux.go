package cli

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dropNetRaw gives up the capability CAP_NET_RAW in all threads of the process, and
// that to get it back.
func dropNetRaw() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return err
	}
	const bit = 1 << unix.CAP_NET_RAW
	if caps[0].Permitted&bit == 0 {
		return nil
	}
	caps[0].Effective &^= bit
	caps[0].Permitted &^= bit
	caps[0].Inheritable &^= bit
	// In a program with cgo, which releases are not, this is not possible.
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&caps[0])), 0); errno != 0 && errno != syscall.ENOTSUP {
		return fmt.Errorf("capset: %w", errno)
	}
	return nil
}
