package testneed

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

// recorder is a testing.TB that only takes down how it was ended.
type recorder struct {
	testing.TB
	ended string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) {
	r.ended = "skip: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.ended = "fail: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// ending returns how test ends, "" if it goes on to its end.
func ending(test func(t testing.TB)) string {
	r := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(r)
	}()
	<-done
	return r.ended
}

func TestMissing(t *testing.T) {
	for _, tt := range []struct{ ci, want string }{
		{"", "skip: needs 2 disks"},
		{"1", "fail: needs 2 disks"},
	} {
		t.Setenv(ciVariable, tt.ci)
		if got := ending(func(t testing.TB) { Missing(t, "needs %d disks", 2) }); got != tt.want {
			t.Errorf("%s=%q: got %q, want %q", ciVariable, tt.ci, got, tt.want)
		}
	}
}

func TestTool(t *testing.T) {
	t.Setenv(ciVariable, "")
	if got := ending(func(t testing.TB) { Tool(t, "go") }); got != "" {
		t.Errorf("Tool of go, which runs this: got %q", got)
	}
	if got, want := ending(func(t testing.TB) { Tool(t, "no-such-tool") }), "skip: needs the program no-such-tool"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q…", got, want)
	}
}

func TestRoot(t *testing.T) {
	t.Setenv(ciVariable, "1")
	want := ""
	if os.Geteuid() != 0 {
		want = "fail: needs root"
	}
	if got := ending(func(t testing.TB) { Root(t) }); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
