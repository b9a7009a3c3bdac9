package cli

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/mcast/wire"
)

// followLab is a follower whose announcements a test makes.
type followLab struct {
	*follower
	t        *testing.T
	mu       sync.Mutex
	announce []wire.Name    // guarded by mu
	done     []string       // extractions and commands
	fail     map[string]int // how often each of these is to fail
	killed   uint64         // the version after whose extraction nothing more happens
	log      bytes.Buffer
}

func newFollowLab(t *testing.T, dir string) *followLab {
	l := &followLab{t: t, fail: map[string]int{}}
	dest := filepath.Join(dir, "dest")
	do := func(what string) error {
		l.done = append(l.done, what)
		if l.fail[what] > 0 {
			l.fail[what]--
			return errors.New("it fails")
		}
		return nil
	}
	l.follower = &follower{
		name: "os/stable", dest: dest, state: dest + ".castor-version",
		log: slog.New(slog.NewTextHandler(&l.log, nil)), say: func(string, ...any) {},
		await: func(ctx context.Context, after uint64) (wire.Name, error) {
			for {
				best := wire.Name{}
				l.mu.Lock()
				for _, n := range l.announce {
					if n.Version > max(after, best.Version) {
						best = n
					}
				}
				l.mu.Unlock()
				if best.Version > 0 {
					return best, nil
				}
				pause(ctx, 100*time.Millisecond)
				if ctx.Err() != nil {
					return wire.Name{}, context.Cause(ctx)
				}
			}
		},
		extract: func(_ context.Context, n wire.Name, ready func() error) error {
			err := do(fmt.Sprint("extract ", n.Version))
			if err == nil {
				err = ready()
			}
			if err == nil {
				err = os.WriteFile(dest, []byte(fmt.Sprint(n.Version)), 0o666)
			}
			if err == nil && n.Version == l.killed {
				return errKilled
			}
			return err
		},
		command: func(_ context.Context, n wire.Name) error { return do(fmt.Sprint("command ", n.Version)) },
	}
	return l
}

func (l *followLab) set(versions ...uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.announce = nil
	for _, v := range versions {
		l.announce = append(l.announce, wire.Name{Name: l.name, Version: v, Root: chunker.ID{byte(v)}})
	}
}

// runs follows for a time, ends it by a signal and returns what was done.
func (l *followLab) runs(d time.Duration) []string {
	l.t.Helper()
	l.done = nil
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := &signalError{os.Interrupt}
	time.AfterFunc(d, func() { cancel(cause) })
	if err := l.run(ctx); err != error(cause) {
		l.t.Errorf("ended with %v, want the signal", err)
	}
	return l.done
}

func (l *followLab) want(got []string, want ...string) {
	l.t.Helper()
	if !slices.Equal(got, want) {
		l.t.Errorf("done %q, want %q\n%s", got, want, l.log.String())
	}
}

func follows(t *testing.T, test func(l *followLab)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { test(newFollowLab(t, dir)) })
}

func TestFollow(t *testing.T) {
	follows(t, func(l *followLab) {
		l.set(5)
		time.AfterFunc(10*time.Second, func() { l.set(4) })
		time.AfterFunc(20*time.Second, func() { l.set(4, 7, 6) })
		l.want(l.runs(time.Minute), "extract 5", "command 5", "extract 7", "command 7")
		// After a restart: nothing again, and nothing lower.
		l.set(6, 7)
		l.want(l.runs(time.Minute))
		l.set(8)
		l.want(l.runs(time.Minute), "extract 8", "command 8")
		// What is gone is brought back, and nothing lower.
		os.Remove(l.dest)
		l.set(7)
		l.want(l.runs(time.Minute))
		l.set(8)
		l.want(l.runs(time.Minute), "extract 8", "command 8")
		if l.log.Len() > 0 {
			t.Errorf("logged %s", l.log.String())
		}
	})
}

func TestFollowWithoutCommand(t *testing.T) {
	follows(t, func(l *followLab) {
		l.command = nil
		l.set(5)
		l.want(l.runs(time.Minute), "extract 5")
		l.want(l.runs(time.Minute))
	})
}

// TestFollowFailures has extractions and commands fail. They are tried again, less and
// less often, and a new version does not wait.
func TestFollowFailures(t *testing.T) {
	follows(t, func(l *followLab) {
		l.set(5)
		l.fail["extract 5"] = 2
		l.want(l.runs(time.Minute), "extract 5", "extract 5", "extract 5", "command 5")

		l.set(6)
		l.fail["command 6"] = 1
		l.want(l.runs(time.Minute), "extract 6", "command 6", "extract 6", "command 6")

		// A command that has not succeeded runs again after a restart.
		l.set(7)
		l.fail["command 7"] = 1
		l.want(l.runs(500*time.Millisecond), "extract 7", "command 7")
		l.want(l.runs(time.Minute), "extract 7", "command 7")

		l.set(8)
		l.fail["extract 8"] = 1 << 30
		if n := len(l.runs(time.Hour)); n < 60 || n > 70 {
			t.Errorf("tried %d times in an hour, want some 65", n)
		}
		time.AfterFunc(30*time.Minute, func() { l.set(8, 9) })
		begin := time.Now()
		var at time.Duration
		old := l.command
		l.command = func(ctx context.Context, n wire.Name) error { at = time.Since(begin); return old(ctx, n) }
		done := l.runs(time.Hour)
		l.want(done[len(done)-2:], "extract 9", "command 9")
		if late := at - 30*time.Minute; late > 2*time.Second {
			t.Errorf("the new version waited for %v", late)
		}
	})
}

// TestFollowFallsBack has the newest version fail for ever while another sender has
// one that is still newer than what is there.
func TestFollowFallsBack(t *testing.T) {
	follows(t, func(l *followLab) {
		l.set(5)
		l.want(l.runs(time.Second), "extract 5", "command 5")
		l.fail["extract 9"] = 1 << 30
		l.set(9)
		time.AfterFunc(10*time.Second, func() { l.set(6) })
		done := l.runs(time.Minute)
		l.want(done[len(done)-2:], "extract 6", "command 6")
	})
}

// errKilled ends a follower as SIGKILL would.
var errKilled = errors.New("killed")

// TestFollowKilled kills a follower when a new version has just taken its place. It is
// not replaced by a lower one then, and its command still runs.
func TestFollowKilled(t *testing.T) {
	follows(t, func(l *followLab) {
		l.set(5)
		l.want(l.runs(time.Minute), "extract 5", "command 5")
		ctx, cancel := context.WithCancel(context.Background())
		l.killed = 9
		extract := l.extract
		l.extract = func(ctx context.Context, n wire.Name, ready func() error) error {
			err := extract(ctx, n, ready)
			if errors.Is(err, errKilled) {
				cancel()
			}
			return err
		}
		l.set(9)
		if err := l.run(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		l.killed, l.done = 0, nil
		l.set(7) // of another sender
		l.want(l.runs(time.Minute))
		l.set(7, 9)
		l.want(l.runs(time.Minute), "extract 9", "command 9")
	})
}

func TestFollowState(t *testing.T) {
	follows(t, func(l *followLab) {
		l.set(5)
		l.runs(time.Second)
		b, err := os.ReadFile(l.state)
		want := "castor-followed 1\nname \"os/stable\"\nsigner none\nversion 5\nroot " + chunker.ID{5}.String() + "\ndone true\n"
		if err != nil || string(b) != want {
			t.Errorf("remembers %q, %v, want %q", b, err, want)
		}
		for _, tt := range []struct{ name, text, err string }{
			{"os/testing", string(b), "is about the name"},
			{l.name, strings.Replace(string(b), "none", "AAAA", 1), "is about the signer"},
			{l.name, "", "is not a file that --follow has written"},
			{l.name, "#!/bin/sh\n", "is not a file that --follow has written"},
			{l.name, strings.Replace(string(b), "version 5", "version -5", 1), "is damaged"},
			{l.name, strings.Replace(string(b), "done true\n", "", 1), "is damaged"},
			{l.name, strings.Replace(string(b), "root 05", "root 5", 1), "is damaged"},
		} {
			if err := os.WriteFile(l.state, []byte(tt.text), 0o666); err != nil {
				t.Fatal(err)
			}
			l.name = tt.name
			if err := l.run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), l.state) {
				t.Errorf("%q: error %v, want one with %q", tt.text, err, tt.err)
			}
		}
		l.name, l.signer = "os/stable", make(ed25519.PublicKey, 32)
		os.WriteFile(l.state, b, 0o666)
		if err := l.run(t.Context()); err == nil || !strings.Contains(err.Error(), "is about the signer") {
			t.Errorf("another signer: error %v", err)
		}
	})
}

func TestFollowAwaitFails(t *testing.T) {
	follows(t, func(l *followLab) {
		broken := errors.New("no such interface")
		await := l.await
		l.await = func(context.Context, uint64) (wire.Name, error) { return wire.Name{}, broken }
		if err := l.run(t.Context()); err != broken {
			t.Errorf("got %v", err)
		}
		// Once it has worked, it may come back.
		calls := 0
		l.set(5)
		time.AfterFunc(time.Minute, func() { l.set(6) })
		l.await = func(ctx context.Context, after uint64) (wire.Name, error) {
			if calls++; calls > 1 && calls < 10 {
				return wire.Name{}, broken
			}
			return await(ctx, after)
		}
		l.want(l.runs(10*time.Minute), "extract 5", "command 5", "extract 6", "command 6")
		if calls > 20 {
			t.Errorf("%d calls", calls)
		}
	})
}

func TestReadKeys(t *testing.T) {
	dir := t.TempDir()
	ok(t, dir, "cast", "signkey", "k")
	at := func(name string) string { return filepath.Join(dir, name) }
	key, err := readSecret(at("k"))
	if err != nil {
		t.Fatal(err)
	}
	pub := key.Public().(ed25519.PublicKey)
	text := strings.TrimPrefix(strings.TrimSpace(string(read(t, at("k.pub")))), "castor-ed25519-public ")
	for _, s := range []string{at("k.pub"), text, "castor-ed25519-public " + text} {
		if got, err := readPublic(s); err != nil || !got.Equal(pub) {
			t.Errorf("%q: got %x, %v, want %x", s, got, err, pub)
		}
	}
	write(t, []byte("castor-ed25519-public AAAA\n"), dir, "short")
	for _, s := range []string{at("k"), at("absent"), at("short"), "AAAA", dir} {
		if _, err := readPublic(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
	for _, s := range []string{at("k.pub"), at("absent"), at("short"), dir} {
		if _, err := readSecret(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}
