// Command mangen writes the manual pages of castor, made from its commands, into
// a directory.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra/doc"

	"github.com/castorsync/castor/internal/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: mangen DIR")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "mangen:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	root := cli.Commands()
	root.DisableAutoGenTag = true
	date := time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC) // fixed: pages change only with the commands
	return doc.GenManTree(root, &doc.GenManHeader{Title: "CASTOR", Section: "1", Source: "castor", Manual: "castor manual", Date: &date}, dir)
}
