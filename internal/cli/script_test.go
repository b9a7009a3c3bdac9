package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/testblob"
)

// TestScripts runs testdata/script. Beside testscript's own commands a script has
// castor, $TESTDATA for the vectors, and those of scriptCommands.
func TestScripts(t *testing.T) {
	vectors, err := filepath.Abs("../../testdata")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("TESTDATA", vectors)
			e.Setenv("CASTOR_STORE", "")
			e.Setenv(raceVariable, os.Getenv(raceVariable))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit":   positive(exitCommand),
			"blob":   positive(blobCommand),
			"slice":  positive(sliceCommand),
			"append": positive(appendCommand),
			"flip":   positive(flipCommand),
			"chunk":  positive(chunkCommand),
			"ident":  positive(identCommand),
			"mode":   positive(modeCommand),
			"tidy":   positive(tidyCommand),
			"keys":   positive(keysCommand),
			"events": positive(eventsCommand),
			"same":   sameCommand,
			"inode":  inodeCommand,
			"intact": intactCommand,
		},
	})
}

// positive makes a command of a script that cannot be negated.
func positive(f func(ts *testscript.TestScript, args []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("! before a command that takes none")
		}
		f(ts, args)
	}
}

func usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

// exit CODE PROGRAM ARG…: the program must end with that code.
func exitCommand(ts *testscript.TestScript, args []string) {
	usage(ts, len(args) >= 2, "exit CODE PROGRAM ARG…")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// blob NAME FILE: writes a blob of package testblob.
func blobCommand(ts *testscript.TestScript, args []string) {
	usage(ts, len(args) == 2 && slices.Contains(testblob.Names(), args[0]), "blob NAME FILE")
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), testblob.Blob(args[0]), 0o666))
}

// slice FILE OFFSET LENGTH OUT: writes a part of a file.
func sliceCommand(ts *testscript.TestScript, args []string) {
	usage(ts, len(args) == 4, "slice FILE OFFSET LENGTH OUT")
	b := content(ts, args[0])
	off, err := strconv.Atoi(args[1])
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), b[off:off+n], 0o666))
}

// append FILE OTHER…: appends other files to a file.
func appendCommand(ts *testscript.TestScript, args []string) {
	usage(ts, len(args) >= 2, "append FILE OTHER…")
	b := content(ts, args[0])
	for _, other := range args[1:] {
		b = append(b, content(ts, other)...)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o666))
}

// flip FILE OFFSET: inverts a byte of a file, however it is protected; a negative
// offset counts from the end.
func flipCommand(ts *testscript.TestScript, args []string) {
	usage(ts, len(args) == 2, "flip FILE OFFSET")
	name := ts.MkAbs(args[0])
	b := content(ts, args[0])
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0xff
	fi, err := os.Stat(name)
	ts.Check(err)
	ts.Check(os.Chmod(name, 0o600))
	ts.Check(os.WriteFile(name, b, 0))
	ts.Check(os.Chmod(name, fi.Mode()))
}

// chunk VAR STORE INDEX N: sets VAR to the file of the index's chunk N, from 0.
func chunkCommand(ts *testscript.TestScript, args []string) {
	usage(ts, len(args) == 4, "chunk VAR STORE INDEX N")
	x, err := new(location.Opener).Index(context.Background(), ts.MkAbs(args[2]), nil)
	ts.Check(err)
	i, err := strconv.Atoi(args[3])
	ts.Check(err)
	ts.Setenv(args[0], chunkFile(args[1], x.Entries[i].ID))
}

// chunkFile returns the name of a compressed chunk in a store.
func chunkFile(store string, id chunker.ID) string {
	hex := id.String()
	return filepath.Join(store, hex[:4], hex+".cacnk")
}

// ident VAR FILE: sets VAR for the commands inode and intact.
func identCommand(ts *testscript.TestScript, args []string) {
	usage(ts, len(args) == 2, "ident VAR FILE")
	ts.Setenv(args[0], identity(ts, args[1]))
}

// identity returns inode, size and modification time of a file.
func identity(ts *testscript.TestScript, name string) string {
	fi, err := os.Stat(ts.MkAbs(name))
	ts.Check(err)
	return fmt.Sprintf("%d,%d,%v", inode(fi), fi.Size(), fi.ModTime())
}

// inode $VAR FILE: the file must be the one that ident saw, or another with !.
func inodeCommand(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 2, "inode $VAR FILE")
	was, _, _ := strings.Cut(args[0], ",")
	is, _, _ := strings.Cut(identity(ts, args[1]), ",")
	if (was == is) == neg {
		ts.Fatalf("%s was inode %s and is %s", args[1], was, is)
	}
}

// intact $VAR FILE: the file must be as ident saw it.
func intactCommand(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 2 && !neg, "intact $VAR FILE")
	if is := identity(ts, args[1]); is != args[0] {
		ts.Fatalf("%s was %s and is %s", args[1], args[0], is)
	}
}

// mode PERM FILE: the file must have the permissions.
func modeCommand(ts *testscript.TestScript, args []string) {
	usage(ts, len(args) == 2, "mode PERM FILE")
	fi, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", fi.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// tidy: nothing in the work directory may be on its way.
func tidyCommand(ts *testscript.TestScript, args []string) {
	usage(ts, len(args) == 0, "tidy")
	names, err := litter(ts.MkAbs("."))
	ts.Check(err)
	if len(names) > 0 {
		ts.Fatalf("left behind: %q", names)
	}
}

// keys FILE KEY…: every line of the file must be a JSON object with just these
// keys.
func keysCommand(ts *testscript.TestScript, args []string) {
	usage(ts, len(args) >= 2, "keys FILE KEY…")
	want := slices.Sorted(slices.Values(args[1:]))
	objects := lines(ts, args[0])
	for _, o := range objects {
		if got := slices.Sorted(maps.Keys(o)); !slices.Equal(got, want) {
			ts.Fatalf("got keys %q\nwant %q", got, want)
		}
	}
}

// events FILE PHASE…: every line of the file must be a progress event, the phases
// must be those given, in that order, and each must come to its end.
func eventsCommand(ts *testscript.TestScript, args []string) {
	usage(ts, len(args) >= 2, "events FILE PHASE…")
	var ended []string
	for _, o := range lines(ts, args[0]) {
		phase, _ := o["phase"].(string)
		done, ok1 := o["done"].(float64)
		total, ok2 := o["total"].(float64)
		if phase == "" || !ok1 || !ok2 || done < 0 || total > 0 && done > total {
			ts.Fatalf("not a progress event: %v", o)
		}
		if o["end"] == true {
			ended = append(ended, phase)
			if done != total && total > 0 {
				ts.Fatalf("phase %s ends at %v of %v bytes", phase, done, total)
			}
		}
	}
	if !slices.Equal(ended, args[1:]) {
		ts.Fatalf("phases %q came to their end, want %q", ended, args[1:])
	}
}

// lines reads a file of a JSON object a line.
func lines(ts *testscript.TestScript, name string) (objects []map[string]any) {
	for line := range strings.Lines(ts.ReadFile(name)) {
		var o map[string]any
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			ts.Fatalf("%v in line %q", err, line)
		}
		objects = append(objects, o)
	}
	if len(objects) == 0 {
		ts.Fatalf("%s is empty", name)
	}
	return objects
}

// same FILE OTHER: the files must be equal, or differ with !. Unlike cmp it shows
// no bytes.
func sameCommand(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 2, "same FILE OTHER")
	a, b := content(ts, args[0]), content(ts, args[1])
	if bytes.Equal(a, b) == neg {
		ts.Fatalf("%s and %s: %s", args[0], args[1], difference(a, b))
	}
}

// content returns what a file, stdout or stderr holds.
func content(ts *testscript.TestScript, name string) []byte { return []byte(ts.ReadFile(name)) }
