// Command castor cuts files into chunks, keeps each chunk once, and puts files
// back together from an index and whatever chunks are at hand.
package main

import (
	"os"

	"github.com/castorsync/castor/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], cli.System())) }
