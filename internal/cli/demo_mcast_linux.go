package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/internal/progress"
	"github.com/castorsync/castor/internal/units"
)

type multicastDemo struct {
	*app
	dir       string
	receivers int
	mib       int
	rate      string
	stage     string // hidden: which part of the demonstration this process is
}

func newDemoMulticast(a *app) *cobra.Command {
	d := &multicastDemo{app: a}
	cmd := &cobra.Command{
		Use:   "mcast [flags]",
		Short: "Show multicast: one sender, several receivers, on this machine",
		Long: `Make a network of this machine's own, in namespaces that need no privileges, with a
sender and several receivers. Send them an image, then a new version of it, and show
what that cost the sender. Nothing reaches a real network. It needs the program ip
(package iproute2).`,
		Example: "  castor demo mcast\n  castor demo mcast --receivers 16 --rate 500M",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch d.stage {
			case "host":
				return d.host()
			case "network":
				return d.network(cmd.Context())
			}
			return d.begin(cmd.Context())
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&d.receivers, "receivers", 4, "number of receivers")
	fl.IntVar(&d.mib, "size", 64, "size of the image in MiB")
	fl.StringVar(&d.rate, "rate", "200M", "rate of the sender in bit/s")
	fl.StringVar(&d.dir, "dir", "", "")
	fl.StringVar(&d.stage, "stage", "", "")
	fl.MarkHidden("dir")
	fl.MarkHidden("stage")
	return cmd
}

// self returns this program as a command with new namespaces.
func self(ctx context.Context, flags uintptr, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "/proc/self/exe", args...)
	c.Args[0] = os.Args[0] // by which a program may tell what it is
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	return c
}

// begin goes into a user namespace, in which networks can be made.
func (d *multicastDemo) begin(ctx context.Context) error {
	if d.receivers < 1 || d.receivers > 200 || d.mib < 1 || d.mib > 1<<16 {
		return usagef("--receivers %d --size %d: want 1 to 200 receivers and 1 to 65536 MiB", d.receivers, d.mib)
	}
	if _, err := units.ParseRate(d.rate); err != nil {
		return usagef("--rate: %w", err)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("demo mcast needs the program ip: apt-get install iproute2")
	}
	dir, err := os.MkdirTemp("", "castor-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c := self(ctx, syscall.CLONE_NEWUSER|syscall.CLONE_NEWNET, "demo", "mcast", "--stage", "network", "--dir", dir,
		"--receivers", strconv.Itoa(d.receivers), "--size", strconv.Itoa(d.mib), "--rate", d.rate)
	c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	c.Stdout, c.Stderr = d.Stdout, d.Stderr
	err = c.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("this system allows no user namespaces (%w): try it as root", err)
	}
	if err != nil {
		return fmt.Errorf("the demonstration failed: %w", err)
	}
	return nil
}

// host is a process in a network namespace of its own: it waits until it is told to
// begin, and becomes the command that it is told.
func (d *multicastDemo) host() error {
	line, err := bufio.NewReader(d.Stdin).ReadString('\n')
	if err != nil {
		return err
	}
	var args []string
	if err := json.Unmarshal([]byte(line), &args); err != nil {
		return err
	}
	for _, name := range []string{"all", "default", "eth0"} {
		os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0)
	}
	for _, name := range []string{"lo", "eth0"} {
		if err := runIP("link", "set", name, "up"); err != nil {
			return err
		}
	}
	if err := os.Chdir(d.dir); err != nil {
		return err
	}
	time.Sleep(1500 * time.Millisecond) // until the bridge forwards
	return syscall.Exec("/proc/self/exe", append([]string{os.Args[0]}, args...), os.Environ())
}

// runIP runs the program ip.
func runIP(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// network makes the network and shows what castor does on it.
func (d *multicastDemo) network(ctx context.Context) error {
	if err := runIP("link", "add", "br0", "type", "bridge", "mcast_snooping", "1"); err != nil {
		return err
	}
	if err := runIP("link", "set", "br0", "up"); err != nil {
		return err
	}
	fmt.Fprintf(d.Stdout, "== A sender and %d receivers on a switch of their own; the image has %d MiB of random data\n", d.receivers, d.mib)
	if err := d.images(ctx); err != nil {
		return err
	}
	if err := d.distribute(ctx, 0, "v1", "the first version, of which nobody has anything"); err != nil {
		return err
	}
	return d.distribute(ctx, 1+d.receivers, "v2", "the second version, over the first: each receiver joins only the groups of what changed")
}

// images makes two versions of an image, and their indexes.
func (d *multicastDemo) images(ctx context.Context) error {
	b := make([]byte, d.mib<<20)
	random := rand.NewChaCha8([32]byte{'m'})
	random.Read(b)
	r := rand.New(random)
	for _, v := range []string{"v1", "v2"} {
		if err := os.WriteFile(filepath.Join(d.dir, v+".img"), b, 0o666); err != nil {
			return err
		}
		c := self(ctx, 0, "make", "-q", "-s", filepath.Join(d.dir, "store.castr"), filepath.Join(d.dir, v+".caibx"), filepath.Join(d.dir, v+".img"))
		c.Stderr = d.Stderr
		if err := c.Run(); err != nil {
			return err
		}
		for range max(d.mib/16, 1) {
			random.Read(b[r.IntN(len(b)-4096):][:4096])
		}
	}
	return nil
}

// demoHost is a host of the network.
type demoHost struct {
	*exec.Cmd
	stdin  io.WriteCloser
	stderr io.ReadCloser
}

// connect starts a host and connects it to the switch.
func (d *multicastDemo) connect(ctx context.Context, number int, args ...string) (*demoHost, error) {
	h := &demoHost{Cmd: self(ctx, syscall.CLONE_NEWNET, "demo", "mcast", "--stage", "host", "--dir", d.dir)}
	h.Cancel = func() error { return h.Process.Signal(syscall.SIGTERM) }
	var err error
	if h.stdin, err = h.StdinPipe(); err != nil {
		return nil, err
	}
	if h.stderr, err = h.StderrPipe(); err != nil {
		return nil, err
	}
	if err := h.Start(); err != nil {
		return nil, err
	}
	port := "port" + strconv.Itoa(number)
	if err := runIP("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(h.Process.Pid)); err != nil {
		return nil, err
	}
	if err := runIP("link", "set", port, "master", "br0", "up"); err != nil {
		return nil, err
	}
	line, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(h.stdin, "%s\n", line)
	return h, err
}

// distribute sends a version of the image to all receivers, whose numbers come after
// first.
func (d *multicastDemo) distribute(ctx context.Context, first int, version, title string) error {
	fmt.Fprintf(d.Stdout, "\n== %s: %s\n", version, title)
	c := self(ctx, 0, "root", filepath.Join(d.dir, version+".caibx"))
	out, err := c.Output()
	if err != nil {
		return err
	}
	root := strings.TrimSpace(string(out))
	cast := []string{"cast", "--progress", "json", "-i", "eth0", "--rate", d.rate, "-s", "store.castr", version + ".caibx"}
	fmt.Fprintf(d.Stdout, "   sender:    castor %s\n   receivers: castor extract mcast://eth0/%s… disk.img\n", strings.Join(cast, " "), root[:12])
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sender, err := d.connect(ctx, first, cast...)
	if err != nil {
		return err
	}
	last := make(chan progress.Event, 1)
	go func() {
		var ev progress.Event
		lines := bufio.NewScanner(sender.stderr)
		for lines.Scan() {
			json.Unmarshal(lines.Bytes(), &ev) // other lines are no concern of ours
		}
		last <- ev
	}()
	begin := time.Now()
	receivers := make([]*demoHost, d.receivers)
	for i := range receivers {
		disk := fmt.Sprintf("disk%d.img", i)
		if receivers[i], err = d.connect(ctx, first+1+i, "extract", "-q", "--no-sync", "mcast://eth0/"+root, disk); err != nil {
			return err
		}
	}
	for i, r := range receivers {
		said, _ := io.ReadAll(r.stderr)
		if err := r.Wait(); err != nil {
			return fmt.Errorf("receiver %d: %w: %s", i+1, err, said)
		}
	}
	took := time.Since(begin) - 1500*time.Millisecond
	for i := range receivers {
		if out, err := self(ctx, 0, "verify", filepath.Join(d.dir, version+".caibx"), filepath.Join(d.dir, fmt.Sprintf("disk%d.img", i))).CombinedOutput(); err != nil {
			return fmt.Errorf("receiver %d: %w: %s", i+1, err, out)
		}
	}
	sender.Process.Signal(syscall.SIGTERM)
	ev := <-last
	sender.Wait()
	all := int64(d.mib) << 20 * int64(d.receivers)
	fmt.Fprintf(d.Stdout, "   All %d receivers have the image, verified, after %.1f s.\n", d.receivers, took.Seconds())
	fmt.Fprintf(d.Stdout, "   The sender sent %s with all headers, %s for each receiver served; the images together have %s.\n",
		units.Size(ev.Done), units.Size(ev.Done/int64(d.receivers)), units.Size(all))
	return nil
}
