//go:build !linux

package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func newDemoMulticast(*app) *cobra.Command {
	return &cobra.Command{
		Use:   "mcast",
		Short: "Show multicast: one sender, several receivers, on this machine (Linux only)",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("demo mcast needs the network namespaces of Linux")
		},
	}
}
