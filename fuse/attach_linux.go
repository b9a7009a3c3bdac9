//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	devFuse = "/dev/fuse"
	subtype = "castor"
	fstype  = "fuse." + subtype
)

// attach mounts a new connection at dir, an absolute path, and returns its file
// descriptor.
func attach(dir string, o *Options) (fd int, err error) {
	for _, w := range o.Flags {
		if !KnownFlag(w) {
			return -1, fmt.Errorf("unknown flag %q", w)
		}
	}
	if os.Geteuid() == 0 {
		return attachDirect(dir, o)
	}
	return attachWithHelper(dir, o)
}

// attachDirect mounts as root.
func attachDirect(dir string, o *Options) (fd int, err error) {
	fd, err = unix.Open(devFuse, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", devFuse, err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions,max_read=%d",
		fd, os.Geteuid(), os.Getegid(), readSize)
	if o.AllowOther {
		data += ",allow_other"
	}
	if err := unix.Mount(sourceName(o.Source), dir, fstype, mountFlags(o.Flags), data); err != nil {
		unix.Close(fd)
		switch {
		case errors.Is(err, unix.EPERM):
			return -1, fmt.Errorf("%w: that takes the capability CAP_SYS_ADMIN", err)
		case errors.Is(err, unix.ENODEV):
			return -1, fmt.Errorf("%w: the kernel has no FUSE", err)
		}
		return -1, err
	}
	return fd, nil
}

// helper returns the path of the program that mounts for users.
func helper() (string, error) {
	for _, name := range []string{"fusermount3", "/bin/fusermount3", "fusermount", "/bin/fusermount"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("users mount with the program fusermount3, which is not installed: install the package fuse3, or mount as root")
}

// attachWithHelper has fusermount3 mount, which passes the connection on.
func attachWithHelper(dir string, o *Options) (fd int, err error) {
	name, err := helper()
	if err != nil {
		return -1, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fusermount"), os.NewFile(uintptr(pair[1]), "fusermount")
	defer ours.Close()
	words := slices.DeleteFunc(slices.Clone(o.Flags), func(w string) bool { return w == "rw" || !helperKnows(w) })
	words = append(words, "ro", "default_permissions", fmt.Sprintf("max_read=%d", readSize),
		"subtype="+subtype, "fsname="+sourceName(o.Source))
	if o.AllowOther {
		words = append(words, "allow_other")
	}
	cmd := exec.Command(name, "-o", strings.Join(words, ","), "--", dir)
	cmd.Env = append(cmd.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	err = run(cmd)
	theirs.Close()
	if err != nil {
		return -1, err
	}
	return receive(pair[0])
}

// helperKnows reports whether fusermount3 takes the flag.
func helperKnows(w string) bool {
	f := flags[w]
	return f.set&^(msNoDirATime) != 0 || f.clear&^(msNoDirATime) != 0
}

// run runs fusermount3. It says in a line on stderr why it fails.
func run(cmd *exec.Cmd) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		return err
	}
	line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
	if strings.Contains(line, "busy") {
		return fmt.Errorf("%w (%s)", ErrBusy, line)
	}
	return errors.New(cmp.Or(line, "fusermount3: "+err.Error()))
}

// receive takes a file descriptor from a socket.
func receive(socket int) (fd int, err error) {
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, errors.New("fusermount3 passed no connection")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("fusermount3 passed no connection")
	}
	return fds[0], nil
}

// detach unmounts dir, an absolute path.
func detach(dir string, lazy bool) error {
	if os.Geteuid() != 0 {
		name, err := helper()
		if err != nil {
			return err
		}
		args := []string{"-u"}
		if lazy {
			args = append(args, "-z")
		}
		return run(exec.Command(name, append(args, "--", dir)...))
	}
	how := unix.UMOUNT_NOFOLLOW
	if lazy {
		how |= unix.MNT_DETACH
	}
	err := unix.Unmount(dir, how)
	if errors.Is(err, unix.EBUSY) {
		return ErrBusy
	}
	return err
}
